"""Polyphonic Sound Detection Score, exact and threshold-free.

Definition: Bilen et al. 2020 (arXiv 1910.08440); the curve over all thresholds: Ebbers et al. 2022 (arXiv 2201.13148).

How it is computed. The detections over all thresholds are a set of runs (`runs.py`), and whether a run is relevant does
not depend on the threshold; every run therefore adds its counts at the threshold where it appears and takes them back
where it ends. Sorting those changes by threshold and summing gives the counts at every threshold.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..events import Event
from .inputs import (
    GroundTruth,
    Scores,
    Timeline,
    at_least,
    check_boxes,
    check_scores,
    frame_borders,
    ground_truth,
    repeat_ranges,
)
from .runs import Runs, runs_of_boxes, runs_of_scores


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
    scores: Scores | Mapping[str, Iterable[Event | Mapping]],
    events: Mapping[str, Iterable[Event | Mapping | tuple]],
    durations: Mapping[str, float],
    classes: Sequence[str],
    frames: float | Mapping[str, np.ndarray] | None = None,
    settings: PsdsSettings = PSDS1,
    without_ground_truth: str = "drop",
) -> PsdsResult:
    """PSDS of frame scores, or of event lists with confidences.

    Args:
        scores: clip -> probabilities (frames, classes), or clip -> detected events with a ``score`` each (sound event
            bounding boxes); then a threshold selects events and does not move their borders.
        events: clip -> ground truth, see [`hf_sed.metrics.inputs.ground_truth`].
        durations: clip -> seconds; every clip counts in the hours, with events or without.
        frames: frame hop in seconds, or clip -> frame borders (frames + 1,); not needed for event lists.
        without_ground_truth: what to do with a class without events: "drop" (with a warning) or "error".

    Raises ValueError naming clip and class for what cannot be evaluated.
    """
    truth = ground_truth(events, durations, classes)
    kept = evaluated_classes(truth, without_ground_truth)
    if not kept:
        raise ValueError("no class has ground truth events; PSDS is not defined.")
    clips = list(truth.durations)
    if frames is None:
        boxes = check_boxes(scores, truth)
        truth = truth.restricted(kept)
        boxes = {clip: [e for e in found if e.label in truth.classes] for clip, found in boxes.items()}
        runs = [runs_of_boxes(boxes, clips, truth.classes)]
    else:
        arrays = {clip: np.asarray(array) for clip, array in scores.items()}
        borders = frame_borders(arrays, frames)
        check_scores(arrays, truth, borders)
        if len(kept) < len(truth.classes):
            truth = truth.restricted(kept)
            arrays = {clip: array[:, kept] for clip, array in arrays.items()}
        runs = runs_of_scores(arrays, borders, clips)
    changes = _Changes(truth, settings)
    for part in runs:
        changes.add(part)
    return _result(changes, truth, settings)


def _result(changes: _Changes, truth: GroundTruth, settings: PsdsSettings) -> PsdsResult:
    counts, curves = truth.counts(), []
    others = max(len(truth.classes) - 1, 1)
    for k in range(len(truth.classes)):
        _, tp, fp, ct = changes.curve(k)
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
        warnings.warn(f"no ground truth for class {', '.join(empty)}: left out of the score.", stacklevel=3)
    return np.flatnonzero(counts).tolist()


# --- Changes of the counts over the threshold -----------------------------------------------------------------------


class _Changes:
    """For each class: scores, and the change of the counts at thresholds just below each."""

    def __init__(self, truth: GroundTruth, settings: PsdsSettings):
        self.truth, self.settings, self.timeline = truth, settings, Timeline(truth)
        self.hours_of_class = truth.seconds() / 3600
        self.parts: list[list] = [[] for _ in truth.classes]

    def add(self, runs: Runs) -> None:
        """Count the detections of some clips."""
        s, line = self.settings, self.timeline
        own = line.stretch(runs.clip, runs.label)
        length = runs.offset - runs.onset
        known = own >= 0
        relevant = known.copy()
        relevant[known] = at_least(
            line.covered(own[known], runs.onset[known], runs.offset[known]), s.dtc * length[known]
        )
        self._add_false(runs.select(~relevant))
        self._add_found(runs.select(relevant), own[relevant])

    def _add_false(self, runs: Runs) -> None:
        cross = np.zeros(len(runs.clip))
        if self.settings.alpha_ct:
            first = self.timeline.first_of_clip
            run, stretch = repeat_ranges(first[runs.clip], first[runs.clip + 1] - first[runs.clip])
            other = self.timeline.label[stretch] != runs.label[run]
            run, stretch = run[other], stretch[other]
            onset, offset = runs.onset[run], runs.offset[run]
            hit = at_least(self.timeline.covered(stretch, onset, offset), self.settings.cttc * (offset - onset))
            weight = 1 / self.hours_of_class[self.timeline.label[stretch[hit]]]
            cross = np.bincount(run[hit], weight, minlength=len(cross))
        ends = np.isfinite(runs.ends)
        one = np.ones(len(cross))
        self._store(runs.label, runs.appears, fp=one, ct=cross)
        self._store(runs.label[ends], runs.ends[ends], fp=-one[ends], ct=-cross[ends])

    def _add_found(self, runs: Runs, stretch: np.ndarray) -> None:
        """An event is a true positive where the relevant detections cover enough of it: a sum over its detections that
        changes as they appear and end."""
        line = self.timeline
        run, event = line.overlapping(stretch, runs.onset, runs.offset)
        overlap = np.minimum(runs.offset[run], line.offset[event]) - np.maximum(runs.onset[run], line.onset[event])
        threshold = np.concatenate([runs.appears[run], runs.ends[run]])
        event = np.concatenate([event, event])
        overlap = np.concatenate([overlap, -overlap])
        keep = np.isfinite(threshold)
        threshold, event, overlap = threshold[keep], event[keep], overlap[keep]
        order = np.lexsort((-threshold, event))
        threshold, event, overlap = threshold[order], event[order], overlap[order]
        last = np.flatnonzero((np.diff(event, append=-1) != 0) | (np.diff(threshold, append=np.nan) != 0))
        total = np.cumsum(overlap)
        begins = np.searchsorted(event, event[last])  # where the event's entries begin
        covered = total[last] - np.where(begins > 0, total[begins - 1], 0.0)
        event, threshold = event[last], threshold[last]
        found = at_least(covered, self.settings.gtc * (line.offset[event] - line.onset[event])).astype(float)
        change = np.diff(found, prepend=0.0)
        new = np.diff(event, prepend=-1) != 0
        change[new] = found[new]
        self._store(line.label[line.stretch_of_event[event]], threshold, tp=change)

    def _store(self, label: np.ndarray, threshold: np.ndarray, **counts: np.ndarray) -> None:
        order = np.argsort(label, kind="stable")
        bounds = np.searchsorted(label[order], np.arange(len(self.parts) + 1))
        for k, part in enumerate(self.parts):
            index = order[bounds[k] : bounds[k + 1]]
            if index.size:
                zero = np.zeros(index.size)
                part.append(
                    (threshold[index], *(counts[c][index] if c in counts else zero for c in ("tp", "fp", "ct")))
                )

    def curve(self, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Scores in falling order and, just below each, the numbers of true positives, false positives, and the cross
        triggers an hour summed over the other classes."""
        if not self.parts[k]:
            return (np.zeros(0),) * 4
        threshold, *changes = (np.concatenate([part[i] for part in self.parts[k]]) for i in range(4))
        order = np.argsort(-threshold, kind="stable")
        last = np.flatnonzero(np.diff(threshold[order], append=-np.inf))
        return threshold[order][last], *(np.cumsum(c[order])[last] for c in changes)


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
