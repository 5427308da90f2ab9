"""Compare presets and variants (LoRA against all weights, say): the last stage of a recipe once for each and seed, all from
the same earlier stages."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from accelerate import PartialState

from .checkpoints import write_json
from .method import PRESETS
from .recipe import RESULTS, CompareRecipe, Recipe, StageRecipe, load_data, run_stage

METRICS = {"psds1": "PSDS1", "psds2": "PSDS2", "intersection_f1": "intersection F1"}


def run_comparison(recipe: Recipe, resume: bool = False, num_proc: int | None = None, **overrides: Any) -> dict:
    """Run what `recipe.compare` names and write ``results.json`` in the run's folder; finished runs are kept.

    Every run of a seed starts from the same model and gets the same number of steps. The reported model is the one after
    the last step; nothing is selected on the validation clips.
    """
    settings = recipe.compare or CompareRecipe()
    sources, validation = load_data(recipe, num_proc)
    records = []
    for seed in settings.seeds:
        folder, start = recipe.run_dir / f"seed{seed}", None
        common = {**overrides, "seed": seed}
        for stage in recipe.stages[:-1]:
            record = run_stage(recipe, stage, sources, validation, folder / stage.name, start, resume, **common)
            records.append({**record, "row": stage.name})
            start = record["model"]
        for name, variant in settings.variants.items():
            stage = variant_of(recipe.stages[-1], variant)
            for preset in settings.presets:
                # What makes a preset comes before what the stage sets for all of them.
                values = {**common, **PRESETS[preset], "preset": preset, **settings.overrides.get(preset, {})}
                row = f"{preset} {name}".strip()
                place = folder / row.replace(" ", "_")
                record = run_stage(recipe, stage, sources, validation, place, start, resume, **values)
                records.append({**record, "row": row})
    result = {"recipe": recipe.name, "rows": summarise(records), "runs": records}
    if PartialState().is_main_process:
        write_json(recipe.run_dir / RESULTS, result)
    return result


def variant_of(stage: StageRecipe, variant: dict) -> StageRecipe:
    """The stage with a variant's training settings and adapter in place of its own."""
    training = {**stage.training, **variant.get("training", {})}
    return replace(stage, training=training, lora=variant.get("lora", stage.lora))


def summarise(records: list[dict]) -> list[dict]:
    """One row a preset and variant (and earlier stage): mean and sample standard deviation over seeds of each score, and
    the cost: trained parameters, bytes of the saved weights, seconds."""
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
        row["trained_parameters"] = runs[0]["trained_parameters"]
        row["saved_bytes"] = sum(p.stat().st_size for p in Path(runs[0]["model"]).glob("*model.safetensors"))
        rows.append(row)
    return rows


def format_table(rows: list[dict]) -> str:
    """The rows as a Markdown table."""
    header = ["trained with", "trained parameters", "saved (MB)", "steps", "seeds", *METRICS.values(), "seconds"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        scores = [
            f"{row[m]['mean']:.3f}" + (f" ± {row[m]['std']:.3f}" if row[m]["std"] is not None else "") for m in METRICS
        ]
        size = [f"{row['trained_parameters']:,}", f"{row['saved_bytes'] / 1e6:.2f}"]
        cells = [row["row"], *size, str(row["steps"]), str(len(row["seeds"])), *scores, f"{row['train_seconds']:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def load_result(run_dir: str | Path) -> dict:
    """The record that [`run_comparison`] wrote."""
    return json.loads((Path(run_dir) / RESULTS).read_text())
