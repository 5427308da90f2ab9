"""Polyphonic Sound Detection Score, exact and threshold-free.

Definition: Bilen et al. 2020 (arXiv 1910.08440); the curve over all thresholds: Ebbers et al. 2022 (arXiv 2201.13148).

The counts at every threshold come from `counts.py`; this file turns them into curves and areas.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..events import Event
from .counts import Changes, ThresholdCounts
from .inputs import EvaluationSet, GroundTruth, Scores


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
    """[`psds`] with several settings, in one pass over the scores."""
    accumulator = PsdsAccumulator(events, durations, classes, scenarios, without_ground_truth)
    accumulator.add(scores, frames)
    return accumulator.results()


class PsdsAccumulator:
    """[`psds`] with several settings of clips that come in batches, or are spread over processes.

    Keeps of the scores only the changes of the counts within `e_max` of the whole set, so that memory does not grow with
    the number of frames. Takes the ground truth and durations of the whole set at the start.
    """

    def __init__(
        self,
        events: Mapping[str, Iterable[Event | Mapping | tuple]],
        durations: Mapping[str, float],
        classes: Sequence[str],
        scenarios: Sequence[PsdsSettings] = (PSDS1, PSDS2),
        without_ground_truth: str = "drop",
        kept_range: float = 1.0,
    ):
        self.set = EvaluationSet(events, durations, classes, without_ground_truth)
        self.scenarios = tuple(scenarios)
        limit = kept_range * self.set.truth.hours()
        self.counts = [
            ThresholdCounts(self.set.truth, s.dtc, s.gtc, s.cttc if s.alpha_ct else None, s.e_max * limit)
            for s in self.scenarios
        ]
        self.seen: set[str] = set()
        """Clips that were counted."""
        self._all_needed = False

    def add(
        self,
        scores: Scores | Mapping[str, Iterable[Event | Mapping]],
        frames: float | Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Count the detections of some clips; ``scores`` and ``frames`` as in [`psds`]. Raises ValueError for a clip that
        was counted before."""
        again = sorted(self.seen & set(scores))
        if again:
            raise ValueError(f"clip {again[0]!r} was added twice ({len(again)} such clips).")
        for part in self.set.runs(scores, frames, confidences=True, ignored=self._closed):
            for counts in self.counts:
                counts.add(part)
        self.seen |= set(scores)
        self._all_needed |= frames is not None

    def merge(self, other: PsdsAccumulator) -> None:
        """Add the clips that another process has counted, for the same ground truth and settings."""
        if other.scenarios != self.scenarios or other.set.numbers != self.set.numbers:
            raise ValueError("accumulators of different settings or evaluation sets cannot be merged.")
        again = sorted(self.seen & other.seen)
        if again:
            raise ValueError(f"clip {again[0]!r} was counted by both ({len(again)} such clips).")
        for mine, theirs in zip(self.counts, other.counts, strict=True):
            mine.merge(theirs)
        self.seen |= other.seen
        self._all_needed |= other._all_needed

    def results(self) -> list[PsdsResult]:
        """PSDS of all clips, for each of the settings. Raises ValueError while frame scores of a clip are missing."""
        if self._all_needed:
            self.set.require_all(self.seen)
        return [
            _result(_changes(counts), self.set.truth, settings)
            for counts, settings in zip(self.counts, self.scenarios, strict=True)
        ]

    def _closed(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores that are out of range in every scenario."""
        low, high = zip(*(counts.closed for counts in self.counts), strict=True)
        return np.max(low, axis=0), np.min(high, axis=0)


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
    if not points:
        raise ValueError("no operating point given.")
    clips = EvaluationSet(events, durations, classes, without_ground_truth)
    cttc = settings.cttc if settings.alpha_ct else None
    counts = ThresholdCounts(clips.truth, settings.dtc, settings.gtc, cttc, settings.e_max * clips.truth.hours())
    for number, point in enumerate(points):
        (runs,) = clips.runs(point, None)
        # Each point's detections live between a score of their own and the next point's.
        size = len(runs.clip)
        counts.add(replace(runs, appears=np.full(size, -float(number)), ends=np.full(size, -float(number + 1))))
    return _result(_changes(counts), clips.truth, settings)


def fixed_thresholds(count: int = 50) -> np.ndarray:
    """The thresholds of the DCASE baselines' psds_eval path: 1/(2n), 3/(2n), … (0.01, 0.03, … 0.99 for 50)."""
    return np.linspace(1 / (2 * count), 1 - 1 / (2 * count), count)


def _changes(counts: ThresholdCounts) -> list[Changes]:
    return [counts.changes(k) for k in range(len(counts.rows))]


def _result(changes: Sequence[Changes], truth: GroundTruth, settings: PsdsSettings) -> PsdsResult:
    names, counts = truth.classes, truth.counts()
    curves = _class_curves(changes, [c.counts() for c in changes], truth, settings)
    value, per_class, roc = _areas(curves, settings)
    return PsdsResult(
        value,
        dict(zip(names, per_class, strict=True)),
        roc,
        dict(zip(names, curves, strict=True)),
        truth.hours(),
        dict(zip(names, counts.tolist(), strict=True)),
        settings,
    )


def psds_of_weighted_clips(
    changes: Sequence[Changes],
    counts: Sequence[tuple[np.ndarray, np.ndarray]],
    truth: GroundTruth,
    settings: PsdsSettings,
    weights: np.ndarray,
) -> tuple[float, np.ndarray]:
    """PSDS, and each class's area (NaN for a class without events), with clips counted ``weights`` (clips,) times.
    ``counts``: each class's counts with these weights."""
    present = np.flatnonzero(truth.counts(weights))
    per_class = np.full(len(truth.classes), np.nan)
    if not present.size:
        return np.nan, per_class
    curves = _class_curves(changes, counts, truth, settings, weights, present)
    value, per_class[present], _ = _areas(curves, settings)
    return value, per_class


# --- Curves ---------------------------------------------------------------------------------------------------------


def _class_curves(
    changes: Sequence[Changes],
    counts: Sequence[tuple[np.ndarray, np.ndarray]],
    truth: GroundTruth,
    settings: PsdsSettings,
    weights: np.ndarray | None = None,
    present: Sequence[int] | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """ROC of each class (of those ``present``) that the changes of the counts make."""
    present = range(len(changes)) if present is None else present
    n_ref, hours, hours_of_class = truth.counts(weights), truth.hours(weights), truth.seconds(weights) / 3600
    others = max(len(present) - 1, 1)
    curves = []
    for k in present:
        tp, fp = counts[k]
        rate = fp / hours
        if settings.alpha_ct:
            rate = rate + settings.alpha_ct * changes[k].cross_triggers(hours_of_class, weights) / others
        curves.append(_class_curve(tp / n_ref[k], rate, settings.e_max))
    return curves


def _areas(
    curves: Sequence[tuple[np.ndarray, np.ndarray]], settings: PsdsSettings
) -> tuple[float, list[float], tuple[np.ndarray, np.ndarray]]:
    """PSDS, the normalised area under each class's curve, and the effective ROC."""
    per_class = [_area(x, y, settings.e_max) / settings.e_max for x, y in curves]
    x = np.unique(np.concatenate([x for x, _ in curves]))
    rates = np.stack([_staircase(cx, cy, x) for cx, cy in curves])
    y = np.maximum(rates.mean(0) - settings.alpha_st * rates.std(0), 0.0)
    return _area(x, y, settings.e_max) / settings.e_max, per_class, (x, y)


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
