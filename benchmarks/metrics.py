"""Time and memory of both exact PSDS, beside sed_scores_eval's recorded figures.

    python benchmarks/metrics.py            # scores like DESED's validation set: 1,168 clips, 10 classes, 156 frames
    python benchmarks/metrics.py --growth   # like AudioSet Strong: 447 classes, 250 frames, 100 to 2,000 clips

The reference's figures are those measured on this project's machine type with sed_scores_eval c7a3b71 (it cannot be
installed from a package registry with today's numpy and pandas): 2.6 to 3.2 s for PSDS1, 9 to 11 s for PSDS2 and 0.4 GB on
the first set; 249 s and 8.6 GB for PSDS2 of 40 clips of the second. Scores are made by the same rules, not the same bytes.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import numpy as np

from hf_sed.metrics import psds_scenarios

TARGET = 16_000  # about the size of AudioSet Strong's evaluation set


def scores_like(clips: int, frames: int, classes: int, hop: float, events_a_clip: int, seed: int = 0):
    """Scores (float32) of a noisy detector, ground truth, durations, class names."""
    rng = np.random.default_rng(seed)
    names = [f"class {k}" for k in range(classes)]
    scores, truth = {}, {}
    for i in range(clips):
        array, events = np.clip(rng.normal(0.1, 0.15, (frames, classes)), 0, 1).astype(np.float32), []
        for _ in range(rng.integers(0, events_a_clip + 1)):
            onset, k = rng.uniform(0, 9), int(rng.integers(classes))
            offset = min(10.0, onset + rng.uniform(0.3, 4))
            if any(label == names[k] and onset <= b and offset >= a for a, b, label in events):
                continue
            events.append((onset, offset, names[k]))
            part = slice(int(onset / hop), int(offset / hop))
            array[part, k] = np.clip(rng.normal(0.7, 0.2, array[part, k].shape), 0, 1)
        scores[f"clip {i}"], truth[f"clip {i}"] = array, events
    return scores, truth, dict.fromkeys(scores, 10.0), names


def measure(clips: int, frames: int, classes: int, hop: float, events_a_clip: int) -> str:
    scores, truth, durations, names = scores_like(clips, frames, classes, hop, events_a_clip)
    size = sum(a.nbytes for a in scores.values()) / 2**30
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    start = time.perf_counter()
    one, two = psds_scenarios(scores, truth, durations, names, hop, without_ground_truth="drop")
    seconds = time.perf_counter() - start
    extra = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20 - before
    return f"| {clips} | {classes} | {frames} | {size:.2f} | {one.value:.6f} | {two.value:.6f} | {seconds:.2f} | {extra:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--clips", type=int, nargs="+", default=[100, 500, 2000])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(measure(options.one, 250, 447, 0.04, 12))
        return
    print(
        "| clips | classes | frames | scores (GiB) | PSDS1 | PSDS2 | seconds, both | peak memory above the scores (GiB) |"
    )
    print("|---|---|---|---|---|---|---|---|")
    if not options.growth:
        print(measure(1168, 156, 10, 0.064, 6))
        return
    rows = []
    for clips in options.clips:  # a process each, so that one's peak is not another's
        command = [sys.executable, "-W", "ignore", __file__, "--growth", "--one", str(clips)]
        line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        print(line, flush=True)
        cells = [float(cell) for cell in line.strip("|").split("|")]
        rows.append((cells[0], cells[-2], cells[-1]))
    if len(rows) > 1 and rows[-1][0] < TARGET:
        (n1, *before), (n2, *after) = rows[-2:]
        seconds, memory = (b + (b - a) * (TARGET - n2) / (n2 - n1) for a, b in zip(before, after, strict=True))
        print(
            f"On the line through the last two rows, {TARGET} clips take {seconds:.0f} s and {memory:.1f} GiB above the scores."
        )


if __name__ == "__main__":
    main()
