"""Model cards, written from a run's own record (`hf_sed.training.record`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import EvalResult, ModelCard, ModelCardData

if TYPE_CHECKING:
    from ..training.trainer import SedTrainer

TEMPLATE = Path(__file__).with_name("model_card_template.md")
_METRICS = {"psds1": "PSDS1", "psds2": "PSDS2", "intersection_f1": "intersection F1"}


def model_card(
    record: Mapping, model_name: str, model_id: str | None = None, dataset_name: str = "validation clips"
) -> ModelCard:
    """The card of a run. Of the record's paths nothing appears in it.

    Args:
        record: what `training_record` gave.
        model_name: title of the card.
        model_id: hub id for the usage example; default ``model_name``.
        dataset_name: what the validation clips are called in the metadata.
    """
    scores = [
        EvalResult(
            task_type="sound-event-detection",
            dataset_type="validation",
            dataset_name=dataset_name,
            metric_type=key,
            metric_name=name,
            metric_value=round(float(record["metrics"][key]), 4),
        )
        for key, name in _METRICS.items()
        if key in record["metrics"]
    ]
    data = ModelCardData(
        license="apache-2.0",
        library_name="hf_sed",
        pipeline_tag="audio-classification",
        tags=["sound-event-detection", "audio", record["method"]["preset"]],
        metrics=list(_METRICS) if scores else None,
        model_name=model_name,
        eval_results=scores or None,
    )
    return ModelCard.from_template(
        data, template_path=str(TEMPLATE), **{**record, "model_name": model_name, "model_id": model_id or model_name}
    )


def publishable(record: Mapping) -> dict:
    """A run's record without what is only true on the machine that made it: its folders."""
    return {k: v for k, v in record.items() if k not in ("model", "started_from", "data", "row")}


def write_card(run: str | Path, output: str | Path) -> None:
    """Write the card of a finished run (its folder holds ``results.json``) to ``output``, and the record that it was
    written from beside it as JSON. Raises FileNotFoundError where the run has no record."""
    source, output = Path(run) / "results.json", Path(output)
    if not source.is_file():
        raise FileNotFoundError(
            f"{source}: no record; the run is not finished, or is no run of hf-sed train or compare."
        )
    record = publishable(json.loads(source.read_text()))
    output.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    output.write_text(str(model_card(record, output.stem)))


def card_of_trainer(trainer: SedTrainer) -> ModelCard:
    """The card of a trainer's run as it stands."""
    from ..training.record import training_record

    name = (trainer.hub_model_id or Path(trainer.args.output_dir).resolve().name).split("/")[-1]
    return model_card(training_record(trainer), name, trainer.hub_model_id)
