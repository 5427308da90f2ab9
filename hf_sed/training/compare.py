"""Compare presets: the last stage of a recipe once for each preset and seed, all from the same earlier stages."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from .method import PRESETS
from .recipe import RESULTS, CompareRecipe, Recipe, run_stage

METRICS = {"psds1": "PSDS1", "psds2": "PSDS2", "intersection_f1": "intersection F1"}


def run_comparison(recipe: Recipe, resume: bool = False, num_proc: int | None = None, **overrides: Any) -> dict:
    """Run what `recipe.compare` names and write ``results.json`` in the run's folder; finished runs are kept.

    Every run of a seed starts from the same model and gets the same number of steps. The reported model is the one after
    the last step; nothing is selected on the validation clips.
    """
    settings = recipe.compare or CompareRecipe()
    sources, validation = recipe.data.load(num_proc)
    records = []
    for seed in settings.seeds:
        folder, start = recipe.run_dir / f"seed{seed}", None
        common = {**overrides, "seed": seed}
        for stage in recipe.stages[:-1]:
            record = run_stage(recipe, stage, sources, validation, folder / stage.name, start, resume, **common)
            records.append({**record, "row": stage.name})
            start = record["model"]
        for preset in settings.presets:
            # What makes a preset comes before what the stage sets for all of them.
            values = {**common, **PRESETS[preset], "preset": preset, **settings.overrides.get(preset, {})}
            record = run_stage(recipe, recipe.stages[-1], sources, validation, folder / preset, start, resume, **values)
            records.append({**record, "row": preset})
    result = {"recipe": recipe.name, "rows": summarise(records), "runs": records}
    (recipe.run_dir / RESULTS).write_text(json.dumps(result, indent=1, default=str) + "\n")
    return result


def summarise(records: list[dict]) -> list[dict]:
    """One row a preset (and earlier stage): mean and sample standard deviation over seeds of each score, and the cost."""
    groups: dict[str, list[dict]] = defaultdict(list)
    for record in records:
        groups[record["row"]].append(record)
    rows = []
    for name, runs in groups.items():
        row: dict[str, Any] = {"row": name, "seeds": [r["seed"] for r in runs], "steps": runs[0]["steps"]}
        for metric in METRICS:
            values = [r["metrics"][metric] for r in runs]
            row[metric] = {"mean": mean(values), "std": stdev(values) if len(values) > 1 else None}
        row["train_seconds"] = mean(r["train_seconds"] for r in runs)
        rows.append(row)
    return rows


def format_table(rows: list[dict]) -> str:
    """The rows as a Markdown table."""
    header = ["trained with", "steps", "seeds", *METRICS.values(), "seconds"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        scores = [
            f"{row[m]['mean']:.3f}" + (f" ± {row[m]['std']:.3f}" if row[m]["std"] is not None else "") for m in METRICS
        ]
        lines.append(
            "| "
            + " | ".join(
                [row["row"], str(row["steps"]), str(len(row["seeds"])), *scores, f"{row['train_seconds']:.0f}"]
            )
            + " |"
        )
    return "\n".join(lines)


def load_result(run_dir: str | Path) -> dict:
    """The record that [`run_comparison`] wrote."""
    return json.loads((Path(run_dir) / RESULTS).read_text())
