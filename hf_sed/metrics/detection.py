"""The scores of a detector on an evaluation set: what training selects by and `hf-sed evaluate` reports."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..events import Event
from ..inference.post_processing import PostProcessing
from .events import intersection_f1
from .psds import PSDS1, PSDS2, psds_scenarios

if TYPE_CHECKING:
    import datasets
    from transformers import EvalPrediction

    from ..models.sed.configuration_sed import SedConfig


def detection_scores(
    scores: Mapping[str, np.ndarray],
    events: Mapping[str, Sequence[Event]],
    durations: Mapping[str, float],
    decoder: PostProcessing,
) -> dict:
    """PSDS1, PSDS2 and intersection F1 of frame probabilities, as ``decoder`` turns them into events.

    Returns ``psds1``, ``psds2``, ``intersection_f1`` and ``per_class``: label -> the three and ``events``, the number of
    ground-truth events. Classes without any are left out (with a warning).
    """
    labels = decoder.labels
    candidates = {clip: decoder.candidates(array, durations[clip]) for clip, array in scores.items()}
    detections = {clip: decoder.select(found, durations[clip]) for clip, found in candidates.items()}
    one, two = psds_scenarios(candidates, events, durations, labels, decoder.frames, (PSDS1, PSDS2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said once above
        f1 = intersection_f1(detections, events, durations, labels)
    return {
        "psds1": one.value,
        "psds2": two.value,
        "intersection_f1": f1.macro,
        "per_class": {
            label: {
                "psds1": one.per_class[label],
                "psds2": two.per_class[label],
                "intersection_f1": f1.per_class[label]["f"],
                "events": one.counts[label],
            }
            for label in one.per_class
        },
    }


class DetectionMetrics:
    """`compute_metrics` of [`SedTrainer`]: scores of student and teacher, and under plain names those of the network
    that is saved.

    Args:
        dataset: the evaluation data set (schema of `hf_sed.data.schema`, all "strong").
        config: the detector's config; its post-processing is applied.
        evaluate_with: "teacher" or "student".
    """

    def __init__(self, dataset: datasets.Dataset, config: SedConfig, evaluate_with: str = "teacher"):
        self.events, self.durations = evaluation_truth(dataset)
        self.clips = list(self.durations)
        self.config, self.evaluate_with = config, evaluate_with
        self.last: dict[str, dict] = {}
        """Full scores of the last evaluation, by network, with the classes."""

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        numbers = np.asarray(prediction.label_ids).reshape(-1)
        out = {}
        for network, array in zip(("student", "teacher"), prediction.predictions, strict=True):
            scores = {self.clips[n]: clip[(clip != -100.0).all(1)] for n, clip in zip(numbers, array, strict=True)}
            durations = {clip: self.durations[clip] for clip in scores}
            events = {clip: self.events[clip] for clip in scores}
            result = detection_scores(scores, events, durations, PostProcessing.of(self.config))
            self.last[network] = result
            for name in ("psds1", "psds2", "intersection_f1"):
                out[f"{network}_{name}"] = result[name]
                if network == self.evaluate_with:
                    out[name] = result[name]
        return out


def evaluation_truth(dataset: datasets.Dataset) -> tuple[dict[str, list[Event]], dict[str, float]]:
    """Events and durations of a data set's clips, by a name that is unique in it."""
    events, durations = {}, {}
    columns = dataset.select_columns(["events", "duration"])
    for number, row in enumerate(columns):
        name = f"clip {number}"
        events[name] = [Event(e["label"], e["onset"], e["offset"]) for e in row["events"]]
        durations[name] = row["duration"]
    return events, durations
