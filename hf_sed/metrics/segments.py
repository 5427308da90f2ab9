"""Scores of segments, clips or frames: segment F1, mean average precision, partial AUROC.

A segment's score is the largest of the frames that it overlaps (0 where there is none), and an event is active in every
segment that it overlaps, however little. Clips are segments of their whole length, frames segments of one frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .events import Events, FScore, Threshold, _best, f_score_of_counts
from .inputs import GroundTruth, Scores, prepare_boxes, prepare_scores

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
    truth, scores, labels = _segments(detections, events, durations, classes, frames, segment, without_ground_truth)
    n_ref = labels.sum(0)
    if isinstance(threshold, str):
        if threshold != "best":
            raise ValueError(f"threshold {threshold!r}; expected a number, one a class, or 'best'.")
        best = []
        for k in range(len(truth.classes)):
            score, tp, fp = _binary_curve(scores[:, k], labels[:, k])
            best.append(_best(score, tp, fp, n_ref[k]))
        used, tp, fp = (np.array(c, dtype=float) for c in zip(*best, strict=True))
    else:
        used = truth.of_kept(0.5 if threshold is None else threshold, "threshold")
        active = scores > used
        tp, fp = (active & labels).sum(0), (active & ~labels).sum(0)
    return f_score_of_counts(truth.classes, tp, fp, n_ref, used)


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
    truth, ranked, labels = _segments(scores, events, durations, classes, frames, segment, without_ground_truth)
    return _mean_average_precision(ranked, labels, truth.classes)


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
    return _mean_average_precision(probabilities, tags, classes)


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
    truth, ranked, labels = _segments(scores, events, durations, classes, frames, segment, without_ground_truth)
    values = []
    for k, label in enumerate(truth.classes):
        positives = labels[:, k].sum()
        if positives == len(labels):
            raise ValueError(f"class {label!r} is active in every segment; it has no false positive rate.")
        _, tp, fp = _binary_curve(ranked[:, k], labels[:, k])
        tpr = np.concatenate([[0.0], tp / positives])
        fpr = np.concatenate([[0.0], fp / (len(labels) - positives)])
        inside = np.searchsorted(fpr, max_fpr, side="right")
        x = np.append(fpr[:inside], max_fpr)
        y = np.append(tpr[:inside], np.interp(max_fpr, fpr, tpr) if fpr[inside - 1] < max_fpr else tpr[inside - 1])
        values.append(float(np.trapezoid(y, x) / max_fpr))
    return ClassMean(float(np.mean(values)), dict(zip(truth.classes, values, strict=True)))


def _mean_average_precision(scores: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> ClassMean:
    values = []
    for score, label in zip(scores.T, labels.T, strict=True):
        _, tp, fp = _binary_curve(score, label)
        values.append(float((np.diff(tp, prepend=0.0) / label.sum() * tp / (tp + fp)).sum()))
    return ClassMean(float(np.mean(values)), dict(zip(classes, values, strict=True)))


def _segments(
    detections, events, durations, classes, frames, segment: float | None, without_ground_truth: str
) -> tuple[GroundTruth, np.ndarray, np.ndarray]:
    """Scores (segments, classes) and activity (segments, classes) of all clips' segments."""
    if segment is not None and segment <= 0:
        raise ValueError(f"segment {segment} s; must be positive.")
    if frames is None:
        truth, boxes = prepare_boxes(detections, events, durations, classes, without_ground_truth, confidences=False)
    else:
        truth, arrays, borders = prepare_scores(detections, events, durations, classes, frames, without_ground_truth)
    all_scores, all_labels = [], []
    for clip, duration in truth.durations.items():
        length = duration if segment is None else segment
        count = max(int(np.ceil(duration / length - _MICROSECOND)), 1)
        labels = np.zeros((count, len(truth.classes)), dtype=bool)
        for k, intervals in truth.events.get(clip, {}).items():
            for onset, offset in intervals:
                labels[_overlapped(onset, offset, length, count), k] = True
        scores = np.zeros((count, len(truth.classes)))
        if frames is None:
            for event in boxes[clip]:
                part = _overlapped(event.onset, event.offset, length, count)
                k = truth.classes.index(event.label)
                scores[part, k] = np.maximum(scores[part, k], 1.0 if event.score is None else event.score)
        else:
            times, array = borders[clip], arrays[clip]
            for i in range(count):
                first = np.searchsorted(times, i * length + _MICROSECOND, side="right") - 1
                last = np.searchsorted(times, (i + 1) * length - _MICROSECOND, side="left")
                inside = array[max(first, 0) : last]
                if len(inside):
                    scores[i] = np.maximum(inside.max(0), 0.0)
        all_scores.append(scores)
        all_labels.append(labels)
    return truth, np.concatenate(all_scores), np.concatenate(all_labels)


def _overlapped(onset: float, offset: float, length: float, count: int) -> slice:
    first = int(np.floor(onset / length + _MICROSECOND))
    return slice(first, min(int(np.ceil(offset / length - _MICROSECOND)), count))


def _binary_curve(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct scores in falling order; true and false positives just below each."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    tp = np.cumsum(labels[order])[last].astype(float)
    return scores[order][last], tp, last + 1 - tp
