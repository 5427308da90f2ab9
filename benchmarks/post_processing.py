"""Median filter against bounding boxes (cSEBB) on the runs of a comparison.

    python benchmarks/post_processing.py runs/few_labels --presets supervised conditional-mixup

The validation clips are split in two halves; each is scored with what was tuned for PSDS1 on the other, and the two are
averaged, so that nothing is scored on the clips it was chosen on. Mean and standard deviation over the seeds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, stdev

from hf_sed import pipeline
from hf_sed.inference.evaluation import detector_scores
from hf_sed.inference.post_processing import PostProcessing
from hf_sed.inference.tuning import tune
from hf_sed.metrics.detection import detection_scores
from hf_sed.training.recipe import DataRecipe

METRICS = ("psds1", "psds2", "intersection_f1")


def halves(scores: dict, events: dict, durations: dict):
    """The set split by clip number: even, odd."""
    for parity in (0, 1):
        clips = [c for i, c in enumerate(scores) if i % 2 == parity]
        yield tuple({c: whole[c] for c in clips} for whole in (scores, events, durations))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a comparison, with results.json")
    parser.add_argument("--presets", nargs="+", default=["supervised", "conditional-mixup"])
    parser.add_argument("--num-proc", type=int, default=2)
    parser.add_argument("--output", type=Path, help="also write the numbers as JSON")
    options = parser.parse_args()
    runs = json.loads((options.run / "results.json").read_text())["runs"]
    rows: dict[tuple[str, str], dict[str, list[float]]] = {}
    for record in (r for r in runs if r["row"] in options.presets):
        data = DataRecipe(path=record["data"]["path"], validation=record["data"]["validation"])
        detector = pipeline("sound-event-detection", model=record["model"])
        saved = PostProcessing.of(detector.model.config)
        parts = list(halves(*detector_scores(detector, data.load()[1])))
        for name in ("saved median", "tuned median", "tuned boxes"):
            results = []
            for tuned_on, scored_on in (parts, parts[::-1]):
                decoder = saved
                if name != "saved median":
                    decoder, _ = tune(*tuned_on, saved, "psds1", name.split()[1], options.num_proc)
                results.append(detection_scores(*scored_on, decoder))
            row = rows.setdefault((record["row"], name), {m: [] for m in METRICS})
            for metric in METRICS:
                row[metric].append(mean(r[metric] for r in results))
    print("\n| trained with | post-processing | seeds | PSDS1 | PSDS2 | intersection F1 |\n|---|---|---|---|---|---|")
    for (preset, name), row in rows.items():
        cells = [f"{mean(v):.3f}" + (f" ± {stdev(v):.3f}" if len(v) > 1 else "") for v in row.values()]
        print(f"| {preset} | {name} | {len(row['psds1'])} | " + " | ".join(cells) + " |")
    if options.output:
        records = [{"trained_with": p, "post_processing": n, **row} for (p, n), row in rows.items()]
        options.output.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
