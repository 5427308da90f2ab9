"""The scores of a detector on an evaluation set: what training selects by and `hf-sed evaluate` reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..events import Event
from ..inference.post_processing import PostProcessing
from .counts import ThresholdCounts
from .events import FCounts
from .psds import PsdsAccumulator

if TYPE_CHECKING:
    import datasets
    from transformers import EvalPrediction

    from ..models.sed.configuration_sed import SedConfig

NETWORKS = ("student", "teacher")


class DetectionAccumulator:
    """PSDS1, PSDS2 and intersection F1 of frame probabilities that come in batches, or are spread over processes.

    Args:
        events, durations: ground truth and seconds of all clips of the set.
        decoder: turns the probabilities into candidates and events.

    Keeps counts of the clips, not their scores. Classes without any event are left out (with a warning).
    """

    def __init__(
        self,
        events: Mapping[str, Sequence[Event]],
        durations: Mapping[str, float],
        decoder: PostProcessing,
    ):
        self.decoder, self.durations = decoder, durations
        self.psds = PsdsAccumulator(events, durations, decoder.labels)
        self.intersection = ThresholdCounts(self.psds.set.truth, dtc=0.5, gtc=0.5)

    def add(self, scores: Mapping[str, np.ndarray]) -> None:
        """Count the clips of ``scores``: clip -> probabilities (frames, classes)."""
        decoder, durations = self.decoder, self.durations
        unknown = sorted(set(scores) - set(durations))
        if unknown:
            raise ValueError(f"clip {unknown[0]!r} has scores but no duration ({len(unknown)} such clips).")
        candidates = {clip: decoder.candidates(array, durations[clip]) for clip, array in scores.items()}
        detections = {clip: decoder.select(found, durations[clip]) for clip, found in candidates.items()}
        self.psds.add(candidates, decoder.frames)
        for part in self.psds.set.runs(detections, None):
            self.intersection.add(part.above())

    def merge(self, other: DetectionAccumulator) -> None:
        """Add the clips that another process has counted."""
        self.psds.merge(other.psds)
        self.intersection.merge(other.intersection)

    def scores(self) -> dict:
        """``psds1``, ``psds2``, ``intersection_f1`` (macro) and ``per_class``: label -> the three and ``events``, the
        number of ground-truth events. Raises ValueError while a clip is missing."""
        self.psds.set.require_all(self.psds.seen)
        one, two = self.psds.results()
        truth = self.psds.set.truth
        changes = [self.intersection.changes(k) for k in range(len(truth.classes))]
        f1 = FCounts(truth.classes, changes, truth.counts_by_clip, None).score()
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


def detection_scores(
    scores: Mapping[str, np.ndarray],
    events: Mapping[str, Sequence[Event]],
    durations: Mapping[str, float],
    decoder: PostProcessing,
) -> dict:
    """The scores of [`DetectionAccumulator`] of frame probabilities that are all there."""
    accumulator = DetectionAccumulator(events, durations, decoder)
    accumulator.add(scores)
    return accumulator.scores()


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
        self._running: dict[str, DetectionAccumulator] | None = None

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        """Count a batch of predictions, or all of them; with ``compute_result`` give the scores of all so far
        (the protocol of `batch_eval_metrics`)."""
        numbers = np.asarray(_on_cpu(prediction.label_ids)).reshape(-1)
        names = [self.clips[n] for n in numbers]
        if self._running is None or self._running["student"].psds.seen & set(names):  # the last one was interrupted
            decoder = PostProcessing.of(self.config)
            self._running = {n: DetectionAccumulator(self.events, self.durations, decoder) for n in NETWORKS}
        for network, array in zip(NETWORKS, prediction.predictions, strict=True):
            array = np.asarray(_on_cpu(array))
            scores = {n: clip[(clip != -100.0).all(1)] for n, clip in zip(names, array, strict=True)}
            self._running[network].add(scores)
        if not compute_result:
            return {}
        running, self._running = self._running, None
        out = {}
        for network, accumulator in running.items():
            result = accumulator.scores()
            self.last[network] = result
            chosen = {name: result[name] for name in ("psds1", "psds2", "intersection_f1")}
            chosen["psds_sum"] = result["psds1"] + result["psds2"]  # what ATST-SED and DCASE select by
            out |= {f"{network}_{name}": value for name, value in chosen.items()}
            if network == self.evaluate_with:
                out |= chosen
        return out


def _on_cpu(array):
    return array.cpu() if hasattr(array, "cpu") else array


def evaluation_truth(dataset: datasets.Dataset) -> tuple[dict[str, list[Event]], dict[str, float]]:
    """Events and durations of a data set's clips, by a name that is unique in it."""
    events, durations = {}, {}
    columns = dataset.select_columns(["events", "duration"])
    for number, row in enumerate(columns):
        name = f"clip {number}"
        events[name] = [Event(e["label"], e["onset"], e["offset"]) for e in row["events"]]
        durations[name] = row["duration"]
    return events, durations
