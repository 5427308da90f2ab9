"""Time of both exact PSDS on scores like DESED's validation set: 1,168 clips, 10 classes, 156 frames.

python benchmarks/metrics.py
"""

from __future__ import annotations

import time

import numpy as np

from hf_sed.metrics import PSDS1, PSDS2, psds


def desed_like(clips: int = 1168, frames: int = 156, classes: int = 10, hop: float = 0.064, seed: int = 0):
    """Scores of a noisy detector, ground truth, durations, class names, frame hop."""
    rng = np.random.default_rng(seed)
    names = [f"class {k}" for k in range(classes)]
    scores, truth = {}, {}
    for i in range(clips):
        array, events = np.clip(rng.normal(0.1, 0.15, (frames, classes)), 0, 1), []
        for _ in range(rng.integers(0, 7)):
            onset, k = rng.uniform(0, 9), int(rng.integers(classes))
            offset = min(10.0, onset + rng.uniform(0.3, 4))
            if any(label == names[k] and onset <= b and offset >= a for a, b, label in events):
                continue
            events.append((onset, offset, names[k]))
            part = slice(int(onset / hop), int(offset / hop))
            array[part, k] = np.clip(rng.normal(0.7, 0.2, array[part, k].shape), 0, 1)
        scores[f"clip {i}"], truth[f"clip {i}"] = array, events
    return scores, truth, dict.fromkeys(scores, 10.0), names, hop


def main() -> None:
    scores, truth, durations, names, hop = desed_like()
    print("| score | value | seconds |\n|---|---|---|")
    for name, settings in (("PSDS1", PSDS1), ("PSDS2", PSDS2)):
        start = time.perf_counter()
        value = psds(scores, truth, durations, names, hop, settings).value
        print(f"| {name}, {sum(map(len, truth.values()))} events | {value:.6f} | {time.perf_counter() - start:.2f} |")


if __name__ == "__main__":
    main()
