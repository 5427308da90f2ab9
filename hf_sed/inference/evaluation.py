"""Evaluate a saved detector on annotated clips."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..metrics.detection import detection_scores, evaluation_truth

if TYPE_CHECKING:
    import datasets

    from .pipeline import SoundEventDetectionPipeline


def evaluate_detector(detector: SoundEventDetectionPipeline, dataset: datasets.Dataset, batch_size: int = 8) -> dict:
    """Scores of a pipeline on a data set of the schema, all "strong": see [`hf_sed.metrics.detection.detection_scores`].

    Thresholds and median lengths are the saved ones. Shows a progress bar. Raises ValueError for clips without events'
    times, or events of a class that the detector does not know.
    """
    from tqdm.auto import tqdm

    from ..data.schema import undecoded

    if set(dataset["kind"]) != {"strong"}:
        raise ValueError("evaluation needs clips of kind 'strong', with the onset and offset of every event.")
    config = detector.model.config
    events, durations = evaluation_truth(dataset)
    unknown = sorted({e.label for clip in events.values() for e in clip} - set(config.labels))
    if unknown:
        raise ValueError(f"the data has the class {unknown[0]!r}, which the detector does not know: {config.labels}.")
    clips = undecoded(dataset)
    rows = (row["audio"] for row in clips)
    outputs = tqdm(detector(rows, batch_size=batch_size, return_scores=True), total=len(clips), desc="detecting")
    scores = {name: output["scores"] for name, output in zip(events, outputs, strict=True)}
    return detection_scores(
        scores, events, durations, config.labels, config.frame_hop, config.thresholds, config.median_filter
    )
