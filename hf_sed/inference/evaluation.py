"""Evaluate a saved detector on annotated clips."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..events import Event
from ..metrics.detection import evaluation_truth
from .post_processing import PostProcessing

if TYPE_CHECKING:
    import datasets

    from .pipeline import SoundEventDetectionPipeline


def detector_scores(
    detector: SoundEventDetectionPipeline, dataset: datasets.Dataset, batch_size: int = 8
) -> tuple[dict[str, np.ndarray], dict[str, list[Event]], dict[str, float]]:
    """Frame scores of a pipeline on a data set of the schema, all "strong", with the clips' events and durations.

    Shows a progress bar. Raises ValueError for clips without events' times, or events of a class that the detector does
    not know.
    """
    from tqdm.auto import tqdm

    from ..data.schema import undecoded

    if set(dataset["kind"]) != {"strong"}:
        raise ValueError("evaluation needs clips of kind 'strong', with the onset and offset of every event.")
    labels = detector.model.config.labels
    events, durations = evaluation_truth(dataset)
    unknown = sorted({e.label for clip in events.values() for e in clip} - set(labels))
    if unknown:
        raise ValueError(f"the data has the class {unknown[0]!r}, which the detector does not know: {labels}.")
    clips = undecoded(dataset)
    rows = (row["audio"] for row in clips)
    outputs = tqdm(detector(rows, batch_size=batch_size, return_scores=True), total=len(clips), desc="detecting")
    return {n: output["scores"] for n, output in zip(events, outputs, strict=True)}, events, durations


def evaluate_detector(detector: SoundEventDetectionPipeline, dataset: datasets.Dataset, batch_size: int = 8, **draws):
    """[`hf_sed.inference.report.Evaluation`] of a pipeline on a data set. The post-processing is the saved one.

    ``draws``: ``resamples``, ``level`` and ``seed`` of the intervals.
    """
    from .report import evaluate_scores

    scores, events, durations = detector_scores(detector, dataset, batch_size)
    return evaluate_scores(scores, events, durations, PostProcessing.of(detector.model.config), **draws)
