"""Scores of segments, clips or frames: segment F1, mean average precision, partial AUROC.

A segment's score is the largest of the frames that it overlaps (0 where there is none), and an event is active in every
segment that it overlaps, however little. Clips are segments of their whole length, frames segments of one frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..events import Event
from .counts import Changes
from .events import Events, FCounts, FScore, Threshold, used_thresholds
from .inputs import EvaluationSet, GroundTruth, Scores

_MICROSECOND = 1e-6


@dataclass(frozen=True)
class ClassMean:
    """``value``: mean over the classes; ``per_class``: label -> value."""

    value: float
    per_class: dict[str, float]


def segment_f1(
    detections: Events | Scores,
    events: Events,
    durations: Mapping[str, float],
    classes: Sequence[str],
    frames: float | Mapping[str, np.ndarray] | None = None,
    threshold: Threshold = None,
    segment: float = 1.0,
    without_ground_truth: str = "drop",
) -> FScore:
    """Segment-based F1 (Mesaros et al. 2016) with segments of ``segment`` seconds, the last one possibly shorter.

    The other arguments are those of [`hf_sed.metrics.intersection_f1`].
    """
    return segment_changes(
        detections, events, durations, classes, frames, threshold, segment, without_ground_truth
    ).score()


def segment_changes(
    detections, events, durations, classes, frames=None, threshold=None, segment=1.0, without_ground_truth="drop"
) -> FCounts:
    """The counts behind [`segment_f1`]."""
    found = Segments.of(detections, events, durations, classes, frames, segment, without_ground_truth)
    used = used_thresholds(found.truth, threshold, 0.5)
    changes = found.changes(None if isinstance(used, str) else used)
    return FCounts(found.truth.classes, changes, found.positives_by_clip(), used)


def mean_average_precision(
    scores: Scores,
    events: Events,
    durations: Mapping[str, float],
    classes: Sequence[str],
    frames: float | Mapping[str, np.ndarray],
    segment: float | None = None,
    without_ground_truth: str = "drop",
) -> ClassMean:
    """Mean over classes of the average precision (the step-wise area under precision over recall).

    ``segment``: seconds of a segment; None ranks whole clips by their largest frame score, which is tagging.
    """
    found = Segments.of(scores, events, durations, classes, frames, segment, without_ground_truth)
    return _class_mean(found.truth.classes, [average_precision(*c.counts()) for c in found.changes()])


def clip_average_precision(probabilities: np.ndarray, tags: np.ndarray, classes: Sequence[str]) -> ClassMean:
    """Mean average precision of clip probabilities (clips, classes) against tags (clips, classes) of 0 and 1, for weak
    labels. A class without a positive clip is an error."""
    probabilities, tags = np.asarray(probabilities, dtype=float), np.asarray(tags).astype(bool)
    if probabilities.shape != tags.shape or probabilities.shape[1] != len(classes):
        raise ValueError(
            f"probabilities {probabilities.shape} and tags {tags.shape}; expected (clips, {len(classes)}) twice."
        )
    if np.isnan(probabilities).any():
        raise ValueError(f"clip {int(np.flatnonzero(np.isnan(probabilities).any(1))[0])}: NaN probability.")
    empty = [c for c, n in zip(classes, tags.sum(0), strict=True) if n == 0]
    if empty:
        raise ValueError(f"class {', '.join(empty)} has no positive clip.")
    clips = np.arange(len(tags))
    curves = [_ranking(p, t, clips) for p, t in zip(probabilities.T, tags.T, strict=True)]
    return _class_mean(classes, [average_precision(*c.counts()) for c in curves])


def partial_auroc(
    scores: Scores,
    events: Events,
    durations: Mapping[str, float],
    classes: Sequence[str],
    frames: float | Mapping[str, np.ndarray],
    max_fpr: float = 0.1,
    segment: float = 1.0,
    without_ground_truth: str = "drop",
) -> ClassMean:
    """Area under the segment ROC (linear interpolation) up to ``max_fpr``, divided by it; mean over classes.

    The measure of DCASE 2024 Task 4 for MAESTRO; ``max_fpr=1`` is the plain AUROC. A class that is active in every
    segment has no ROC and is an error.
    """
    if not 0 < max_fpr <= 1:
        raise ValueError(f"max_fpr {max_fpr}; expected a number above 0, at most 1.")
    found = Segments.of(scores, events, durations, classes, frames, segment, without_ground_truth)
    for k, label in enumerate(found.truth.classes):
        if found.labels[:, k].all():
            raise ValueError(f"class {label!r} is active in every segment; it has no false positive rate.")
    return _class_mean(found.truth.classes, [partial_area(*c.counts(), max_fpr) for c in found.changes()])


def average_precision(tp: np.ndarray, fp: np.ndarray) -> float:
    """Average precision from the counts at falling thresholds, the last of which lets everything through."""
    found = np.divide(tp, tp + fp, out=np.zeros(len(tp)), where=tp + fp > 0)
    return float((np.diff(tp, prepend=0.0) / tp[-1] * found).sum())


def partial_area(tp: np.ndarray, fp: np.ndarray, max_fpr: float) -> float:
    """Area under the ROC up to ``max_fpr``, divided by it, from the counts as in [`average_precision`]."""
    tpr = np.concatenate([[0.0], tp / tp[-1]])
    fpr = np.concatenate([[0.0], fp / fp[-1]])
    inside = np.searchsorted(fpr, max_fpr, side="right")
    x = np.append(fpr[:inside], max_fpr)
    y = np.append(tpr[:inside], np.interp(max_fpr, fpr, tpr) if fpr[inside - 1] < max_fpr else tpr[inside - 1])
    return float(np.trapezoid(y, x) / max_fpr)


def _class_mean(classes: Sequence[str], values: Sequence[float]) -> ClassMean:
    return ClassMean(float(np.mean(values)), dict(zip(classes, values, strict=True)))


def _ranking(scores: np.ndarray, labels: np.ndarray, clip: np.ndarray) -> Changes:
    """Changes of the counts of one class as its segments are let through in falling order of score."""
    return Changes.of(scores, clip, labels.astype(np.int8), (~labels).astype(np.int8))


@dataclass(frozen=True)
class Segments:
    """Scores and activity (segments, classes) of all clips' segments, and the clip index (segments,) of each."""

    truth: GroundTruth
    scores: np.ndarray
    labels: np.ndarray
    clip: np.ndarray

    @classmethod
    def of(
        cls, detections, events, durations, classes, frames, segment: float | None, without_ground_truth: str
    ) -> Segments:
        """Cut clips into segments of ``segment`` seconds; None: one segment a clip."""
        if segment is not None and segment <= 0:
            raise ValueError(f"segment {segment} s; must be positive.")
        clips = EvaluationSet(events, durations, classes, without_ground_truth)
        boxes, arrays, borders = {}, {}, {}
        if frames is None:
            boxes = clips.boxes(detections)
        else:
            clips.require_all(detections)
            arrays, borders = clips.frames(detections, frames)
        truth, parts = clips.truth, []
        for clip, duration in truth.durations.items():
            length = duration if segment is None else segment
            count = max(int(np.ceil(duration / length - _MICROSECOND)), 1)
            labels = np.zeros((count, len(truth.classes)), dtype=bool)
            for k, intervals in truth.events.get(clip, {}).items():
                for onset, offset in intervals:
                    labels[_overlapped(onset, offset, length, count), k] = True
            if frames is None:
                scores = _scores_of_boxes(boxes.get(clip, ()), truth.classes, length, count)
            else:
                scores = _scores_of_frames(arrays[clip], borders[clip], length, count)
            parts.append((scores, labels, np.full(count, clips.numbers[clip])))
        return cls(truth, *(np.concatenate(c) for c in zip(*parts, strict=True)))

    def changes(self, thresholds: np.ndarray | None = None) -> list[Changes]:
        """Changes of each class's counts as the threshold falls, or the counts at one threshold a class."""
        if thresholds is None:
            return [_ranking(s, t, self.clip) for s, t in zip(self.scores.T, self.labels.T, strict=True)]
        out = []
        for k, threshold in enumerate(thresholds):
            active = self.scores[:, k] > threshold
            out.append(_ranking(np.zeros(active.sum()), self.labels[active, k], self.clip[active]))
        return out

    def positives_by_clip(self) -> np.ndarray:
        """Active segments (clips, classes)."""
        counts = np.zeros((len(self.truth.durations), len(self.truth.classes)))
        np.add.at(counts, self.clip, self.labels)
        return counts


def _scores_of_boxes(events: Sequence[Event], classes: Sequence[str], length: float, count: int) -> np.ndarray:
    scores = np.zeros((count, len(classes)))
    for event in events:
        part, k = _overlapped(event.onset, event.offset, length, count), classes.index(event.label)
        scores[part, k] = np.maximum(scores[part, k], 1.0 if event.score is None else event.score)
    return scores


def _scores_of_frames(array: np.ndarray, borders: np.ndarray, length: float, count: int) -> np.ndarray:
    scores = np.zeros((count, array.shape[1]))
    for i in range(count):
        first = np.searchsorted(borders, i * length + _MICROSECOND, side="right") - 1
        last = np.searchsorted(borders, (i + 1) * length - _MICROSECOND, side="left")
        inside = array[max(first, 0) : last]
        if len(inside):
            scores[i] = np.maximum(inside.max(0), 0.0)
    return scores


def _overlapped(onset: float, offset: float, length: float, count: int) -> slice:
    first = int(np.floor(onset / length + _MICROSECOND))
    return slice(first, min(int(np.ceil(offset / length - _MICROSECOND)), count))
