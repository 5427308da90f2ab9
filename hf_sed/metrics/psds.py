"""Polyphonic Sound Detection Score, exact and threshold-free.

Definition: Bilen et al. 2020 (arXiv 1910.08440); the curve over all thresholds: Ebbers et al. 2022 (arXiv 2201.13148).

How it is computed. As the threshold falls, each run of frames that ever is a detection appears once and is swallowed by
a longer run once, so a clip and class have at most one run a frame (the nodes of the scores' max-tree). A run's
relevance does not depend on the threshold; every run therefore adds its counts at the threshold where it appears and
takes them back where it ends. Sorting those changes by threshold and summing gives the counts at every threshold.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..events import Event
from .inputs import GroundTruth, Scores, at_least, check_scores, coverage, frame_borders, ground_truth


@dataclass(frozen=True)
class PsdsSettings:
    """Criteria and weights of a PSDS.

    Args:
        dtc: least share of a detection that its class's ground truth covers (detection tolerance criterion).
        gtc: least share of an event that relevant detections cover (ground truth intersection criterion).
        cttc: least share of a false detection that another class's ground truth covers (cross-trigger criterion).
        alpha_ct: weight of the cross triggers in the effective false positive rate.
        alpha_st: weight of the standard deviation over classes.
        e_max: effective false positives an hour up to which the curve is integrated.
    """

    dtc: float
    gtc: float
    cttc: float = 0.3
    alpha_ct: float = 0.0
    alpha_st: float = 1.0
    e_max: float = 100.0


PSDS1 = PsdsSettings(dtc=0.7, gtc=0.7)
"""DCASE Task 4 scenario 1: reacts to localisation in time."""
PSDS2 = PsdsSettings(dtc=0.1, gtc=0.1, cttc=0.3, alpha_ct=0.5)
"""DCASE Task 4 scenario 2: close to tagging, reacts to confusion between classes."""


@dataclass(frozen=True)
class PsdsResult:
    """``value``; ``per_class`` areas under each class's curve; ``roc``: (effective false positives an hour, effective
    true positive rate); ``per_class_roc``; ``hours`` of audio and ``counts`` of events behind them."""

    value: float
    per_class: dict[str, float]
    roc: tuple[np.ndarray, np.ndarray]
    per_class_roc: dict[str, tuple[np.ndarray, np.ndarray]]
    hours: float
    counts: dict[str, int]
    settings: PsdsSettings = field(repr=False, default=PSDS1)


def psds(
    scores: Scores,
    events: Mapping[str, Iterable[Event | Mapping | tuple]],
    durations: Mapping[str, float],
    classes: Sequence[str],
    frames: float | Mapping[str, np.ndarray],
    settings: PsdsSettings = PSDS1,
    without_ground_truth: str = "drop",
) -> PsdsResult:
    """PSDS of frame scores.

    Args:
        scores: clip -> probabilities (frames, classes).
        events: clip -> ground truth, see [`hf_sed.metrics.inputs.ground_truth`].
        durations: clip -> seconds; every clip counts in the hours, with events or without.
        frames: frame hop in seconds, or clip -> frame borders (frames + 1,).
        without_ground_truth: what to do with a class without events: "drop" (with a warning) or "error".
    """
    truth = ground_truth(events, durations, classes)
    scores = {clip: np.asarray(array, dtype=np.float64) for clip, array in scores.items()}
    borders = frame_borders(scores, frames)
    check_scores(scores, truth, borders)
    return _psds(scores, truth, borders, settings, without_ground_truth)


def _psds(scores, truth: GroundTruth, borders, settings: PsdsSettings, without_ground_truth: str) -> PsdsResult:
    kept = evaluated_classes(truth, without_ground_truth)
    if not kept:
        raise ValueError("no class has ground truth events; PSDS is not defined.")
    if len(kept) < len(truth.classes):
        truth = GroundTruth(
            tuple(truth.classes[k] for k in kept),
            truth.durations,
            {clip: {kept.index(k): v for k, v in by_class.items()} for clip, by_class in truth.events.items()},
        )
        scores = {clip: array[:, kept] for clip, array in scores.items()}
    counts = truth.counts()
    changes = _count_changes(scores, truth, borders, settings)
    curves = []
    for k in range(len(truth.classes)):
        threshold, true_positives, false_positives, cross_triggers = changes[k]
        order = np.argsort(-threshold, kind="stable")
        last = np.flatnonzero(np.diff(threshold[order], append=-np.inf))
        tp, fp, ct = (np.cumsum(c[order])[last] for c in (true_positives, false_positives, cross_triggers))
        others = max(len(truth.classes) - 1, 1)
        curves.append(_class_curve(tp / counts[k], fp / truth.hours + settings.alpha_ct * ct / others, settings.e_max))
    per_class = [_area(x, y, settings.e_max) / settings.e_max for x, y in curves]
    x = np.unique(np.concatenate([x for x, _ in curves]))
    rates = np.stack([_staircase(cx, cy, x) for cx, cy in curves])
    y = np.maximum(rates.mean(0) - settings.alpha_st * rates.std(0), 0.0)
    names = truth.classes
    return PsdsResult(
        float(_area(x, y, settings.e_max) / settings.e_max),
        dict(zip(names, map(float, per_class), strict=True)),
        (x, y),
        dict(zip(names, curves, strict=True)),
        truth.hours,
        dict(zip(names, counts.tolist(), strict=True)),
        settings,
    )


def evaluated_classes(truth: GroundTruth, without_ground_truth: str) -> list[int]:
    """Indices of the classes with events; what happens to the others is the caller's policy, "drop" or "error"."""
    counts = truth.counts()
    empty = [name for name, n in zip(truth.classes, counts, strict=True) if n == 0]
    if empty and without_ground_truth == "error":
        raise ValueError(f"class {', '.join(empty)} has no ground truth event in the evaluation set.")
    if without_ground_truth not in ("drop", "error"):
        raise ValueError(f"without_ground_truth {without_ground_truth!r}; expected 'drop' or 'error'.")
    if empty:
        warnings.warn(f"no ground truth for class {', '.join(empty)}: left out of the score.", stacklevel=4)
    return np.flatnonzero(counts).tolist()


# --- Changes of the counts over the threshold -----------------------------------------------------------------------


def _count_changes(scores, truth: GroundTruth, borders, settings: PsdsSettings):
    """For each class: thresholds and, just below each, the change of true positives, false positives and of the cross
    triggers an hour (each divided by the hours of the class it confuses with)."""
    classes = len(truth.classes)
    class_hours = truth.seconds() / 3600
    parts: list[list] = [[] for _ in range(classes)]
    by_length: dict[int, list[str]] = {}
    for clip, array in scores.items():
        by_length.setdefault(len(array), []).append(clip)
    for length, clips in by_length.items():
        step = max(int(4e6 / max(length * classes, 1)), 1)  # bounds the working memory to some hundred MB
        for i in range(0, len(clips), step):
            chunk = clips[i : i + step]
            _add_chunk(
                parts,
                chunk,
                np.stack([scores[c] for c in chunk]),
                np.stack([borders[c] for c in chunk]),
                truth,
                class_hours,
                settings,
            )
    return [tuple(np.concatenate([p[i] for p in parts[k]]) for i in range(4)) for k in range(classes)]


def detection_runs(scores: np.ndarray):
    """All runs that are a detection at some threshold.

    ``scores`` (frames, columns). Returns for each (frame, column): first frame, last frame + 1, the threshold at which
    the run appears (its least score) and the one at which a longer run swallows it; a run that another frame already
    stands for has the appearing threshold -inf.
    """
    frames, columns = scores.shape
    column = np.arange(columns)
    before = np.empty((frames, columns), dtype=np.int32)  # nearest earlier frame with a smaller score
    after = np.empty((frames, columns), dtype=np.int32)
    appears = scores.copy()
    for t in range(frames):
        j = np.full(columns, t - 1, dtype=np.int32)
        open_ = column if t else column[:0]
        while open_.size:
            value = scores[j[open_], open_]
            larger = value >= scores[t, open_]
            appears[t, open_[value == scores[t, open_]]] = -np.inf
            open_ = open_[larger]
            j[open_] = before[j[open_], open_]
            open_ = open_[j[open_] >= 0]
        before[t] = j
    for t in range(frames - 1, -1, -1):
        j = np.full(columns, t + 1, dtype=np.int32)
        open_ = column if t < frames - 1 else column[:0]
        while open_.size:
            open_ = open_[scores[j[open_], open_] >= scores[t, open_]]
            j[open_] = after[j[open_], open_]
            open_ = open_[j[open_] < frames]
        after[t] = j
    padded = np.full((frames + 2, columns), -np.inf)
    padded[1:-1] = scores
    ends = np.maximum(padded[before + 1, column], padded[after + 1, column])
    return before + 1, after, appears, ends


def _add_chunk(parts, clips, scores, borders, truth: GroundTruth, class_hours, settings: PsdsSettings) -> None:
    count, frames, classes = scores.shape
    columns = scores.transpose(1, 0, 2).reshape(frames, count * classes)  # column = clip * classes + class
    first, stop, appears, ends = detection_runs(columns)
    column = np.arange(count * classes)
    clip_of = column // classes
    onset, offset = borders[clip_of, first], borders[clip_of, stop]
    length = offset - onset
    real = np.isfinite(appears)

    covered = {}
    for n, clip in enumerate(clips):
        for k, intervals in truth.events.get(clip, {}).items():
            covered[n, k] = coverage(intervals, borders[n])
    relevant = np.zeros_like(real)
    for (n, k), cumulated in covered.items():
        c = n * classes + k
        relevant[:, c] = real[:, c] & at_least(
            cumulated[stop[:, c]] - cumulated[first[:, c]], settings.dtc * length[:, c]
        )
    false = real & ~relevant

    def add(k, threshold, tp=0.0, fp=0.0, ct=0.0):
        keep = np.isfinite(threshold)
        threshold = threshold[keep]
        parts[k].append(
            (threshold, *(np.broadcast_to(np.asarray(v, dtype=float), keep.shape)[keep] for v in (tp, fp, ct)))
        )

    for k in range(classes):
        own = slice(k, None, classes)
        cross = np.zeros((frames, count))
        if settings.alpha_ct:
            for (n, o), cumulated in covered.items():
                if o == k:
                    continue
                c = n * classes + k
                hit = false[:, c] & at_least(
                    cumulated[stop[:, c]] - cumulated[first[:, c]], settings.cttc * length[:, c]
                )
                cross[:, n] += hit / class_hours[o]
        wrong = false[:, own]
        for threshold, sign in ((appears[:, own][wrong], 1.0), (ends[:, own][wrong], -1.0)):
            add(k, threshold, fp=sign, ct=sign * cross[wrong])

    for (n, k), _ in covered.items():
        c = n * classes + k
        runs = relevant[:, c]
        for start, end in truth.events[clips[n]][k]:
            overlap = np.minimum(offset[runs, c], end) - np.maximum(onset[runs, c], start)
            hit = overlap > 0
            add(
                k,
                *_event_changes(appears[runs, c][hit], ends[runs, c][hit], overlap[hit], settings.gtc * (end - start)),
            )


def _event_changes(appears, ends, overlap, needed: float):
    """Thresholds at which an event becomes (+1) or ceases to be (-1) a true positive as the threshold falls."""
    threshold = np.concatenate([appears, ends])
    order = np.argsort(-threshold, kind="stable")
    threshold = threshold[order]
    if threshold.size == 0:
        return threshold, threshold
    last = np.flatnonzero(np.diff(threshold, append=np.nan) != 0)
    found = at_least(np.cumsum(np.concatenate([overlap, -overlap])[order])[last], needed).astype(float)
    return threshold[last], np.diff(found, prepend=0.0)


# --- Curves ---------------------------------------------------------------------------------------------------------


def _class_curve(tpr: np.ndarray, efpr: np.ndarray, e_max: float) -> tuple[np.ndarray, np.ndarray]:
    """Best true positive rate reached up to each effective false positive rate, as a staircase from 0."""
    order = np.lexsort((tpr, efpr))
    efpr, tpr = efpr[order], np.maximum.accumulate(tpr[order]) if tpr.size else tpr
    keep = efpr <= e_max
    efpr, tpr = efpr[keep], tpr[keep]
    if efpr.size:
        last = np.flatnonzero(np.diff(efpr, append=np.inf))
        efpr, tpr = efpr[last], tpr[last]
        rises = np.flatnonzero(np.diff(tpr, prepend=0.0))
        efpr, tpr = efpr[rises], tpr[rises]
    if not efpr.size or efpr[0] > 0:
        efpr, tpr = np.concatenate([[0.0], efpr]), np.concatenate([[0.0], tpr])
    return efpr, tpr


def _staircase(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    return y[np.searchsorted(x, at, side="right") - 1]


def _area(x: np.ndarray, y: np.ndarray, e_max: float) -> float:
    return float((np.diff(np.append(x, e_max)) * y).sum())
