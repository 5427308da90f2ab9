"""Polyphonic Sound Detection Score, exact and threshold-free.

Definition: Bilen et al. 2020 (arXiv 1910.08440); the curve over all thresholds: Ebbers et al. 2022 (arXiv 2201.13148).

The counts at every threshold come from `counts.py`; this file turns them into curves and areas.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..events import Event
from .counts import ThresholdCounts
from .inputs import GroundTruth, Scores, prepare


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
    return psds_scenarios(scores, events, durations, classes, frames, (settings,), without_ground_truth)[0]


def psds_scenarios(
    scores: Scores | Mapping[str, Iterable[Event | Mapping]],
    events: Mapping[str, Iterable[Event | Mapping | tuple]],
    durations: Mapping[str, float],
    classes: Sequence[str],
    frames: float | Mapping[str, np.ndarray] | None = None,
    scenarios: Sequence[PsdsSettings] = (PSDS1, PSDS2),
    without_ground_truth: str = "drop",
) -> list[PsdsResult]:
    """[`psds`] with several settings, in one pass over the scores. They are worked through in chunks of clips, of
    which only the counts within `e_max` are kept."""
    truth, runs = prepare(scores, events, durations, classes, frames, without_ground_truth)
    counted = [_counts(truth, settings) for settings in scenarios]
    for part in runs:
        for counts in counted:
            counts.add(part)
    return [_result(counts, truth, settings) for counts, settings in zip(counted, scenarios, strict=True)]


def _counts(truth: GroundTruth, settings: PsdsSettings) -> ThresholdCounts:
    cttc = settings.cttc if settings.alpha_ct else None
    return ThresholdCounts(truth, settings.dtc, settings.gtc, cttc, settings.e_max * truth.hours)


def psds_of_operating_points(
    points: Sequence[Mapping[str, Iterable[Event | Mapping | tuple]]],
    events: Mapping[str, Iterable[Event | Mapping | tuple]],
    durations: Mapping[str, float],
    classes: Sequence[str],
    settings: PsdsSettings = PSDS1,
    without_ground_truth: str = "drop",
) -> PsdsResult:
    """PSDS from detections at some thresholds only, as psds_eval computes it: each of ``points`` is a clip -> events
    mapping, one operating point. It lies below the exact value; to compare with papers that used 50 thresholds."""
    changes = None
    for number, point in enumerate(points):
        truth, (runs,) = prepare(point, events, durations, classes, None, without_ground_truth, confidences=False)
        if changes is None:
            changes = _counts(truth, settings)
        # Each point's detections live between a score of their own and the next point's.
        size = len(runs.clip)
        changes.add(replace(runs, appears=np.full(size, -float(number)), ends=np.full(size, -float(number + 1))))
    if changes is None:
        raise ValueError("no operating point given.")
    return _result(changes, truth, settings)


def fixed_thresholds(count: int = 50) -> np.ndarray:
    """The thresholds of the DCASE baselines' psds_eval path: 1/(2n), 3/(2n), … (0.01, 0.03, … 0.99 for 50)."""
    return np.linspace(1 / (2 * count), 1 - 1 / (2 * count), count)


def _result(changes: ThresholdCounts, truth: GroundTruth, settings: PsdsSettings) -> PsdsResult:
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
