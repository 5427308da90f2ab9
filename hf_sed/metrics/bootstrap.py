"""Confidence intervals over clips, and the paired comparison of two systems.

Clips are drawn with replacement (Efron 1979); a metric of a draw is computed from the counts with each clip weighed by how
often it was drawn, which is the metric of the drawn clips without counting their detections again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..events import Event
from .events import FCounts, collar_changes, collar_f1, intersection_changes, intersection_f1
from .inputs import Scores
from .psds import PSDS1, PsdsAccumulator, psds, psds_of_weighted_clips
from .segments import (
    Segments,
    average_precision,
    mean_average_precision,
    partial_area,
    partial_auroc,
    segment_changes,
    segment_f1,
)

_KEPT_RANGE = 4.0
"""Counts of PSDS are kept up to this many times `e_max`: a draw may have fewer false positives than the whole set."""

Detections = Scores | Mapping[str, Iterable[Event | Mapping | tuple]]


@dataclass(frozen=True)
class Estimate:
    """``value`` of the whole set, and the interval from ``low`` to ``high``, in which ``level`` of the draws lie."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Interval(Estimate):
    """Estimate of a metric's value (for F-scores the macro mean), and those of each class."""

    per_class: dict[str, Estimate]
    level: float
    resamples: int


@dataclass(frozen=True)
class Difference(Estimate):
    """Estimate of the second system's value less the first's, on the same clips; ``p_value``: of the two-sided test that
    there is none, twice the smaller share of draws on either side of 0 (at least 1 / (draws + 1))."""

    first: float
    second: float
    p_value: float
    per_class: dict[str, Estimate]
    level: float
    resamples: int


def bootstrap(
    metric: Callable,
    detections: Detections,
    events: Mapping[str, Iterable[Event | Mapping | tuple]],
    durations: Mapping[str, float],
    classes: Sequence[str],
    frames: float | Mapping[str, np.ndarray] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    **settings,
) -> Interval:
    """Percentile interval of a metric over clips.

    Args:
        metric: one of psds, intersection_f1, collar_f1, segment_f1, mean_average_precision (``segment=None``: of clips; give
            a weak label as an event as long as its clip) and partial_auroc.
        settings: the metric's own further arguments.

    A class of which a draw has no event is left out of that draw's mean. Raises ValueError for another metric, and what
    the metric raises.
    """
    classes_, statistic = _statistic(metric, detections, events, durations, classes, frames, settings)
    draws = _draws(len(durations), resamples, level, seed)
    whole = statistic(None)
    values = np.stack([statistic(weights) for weights in draws])
    value, *per_class = _estimates(whole, values, level)
    return Interval(value.value, value.low, value.high, dict(zip(classes_, per_class, strict=True)), level, resamples)


def paired_bootstrap(
    metric: Callable,
    first: Detections,
    second: Detections,
    events: Mapping[str, Iterable[Event | Mapping | tuple]],
    durations: Mapping[str, float],
    classes: Sequence[str],
    frames: float | Mapping[str, np.ndarray] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    second_frames: float | Mapping[str, np.ndarray] | None = None,
    **settings,
) -> Difference:
    """Compare two systems on the same draws of clips: the arguments are those of [`bootstrap`].

    ``second_frames``: where the second system's frames differ from ``frames``. For event lists of both leave both out.
    """
    shared = (events, durations, classes)
    frames_of_second = frames if second_frames is None else second_frames
    classes_, one = _statistic(metric, first, *shared, frames, settings)
    _, two = _statistic(metric, second, *shared, frames_of_second, settings)
    draws = _draws(len(durations), resamples, level, seed)
    whole = one(None), two(None)
    values = np.stack([two(weights) - one(weights) for weights in draws])
    value, *per_class = _estimates(whole[1] - whole[0], values, level)
    beyond = min((values[:, 0] <= 0).sum(), (values[:, 0] >= 0).sum())
    return Difference(
        value.value,
        value.low,
        value.high,
        float(whole[0][0]),
        float(whole[1][0]),
        float(min(1.0, 2 * (beyond + 1) / (resamples + 1))),
        dict(zip(classes_, per_class, strict=True)),
        level,
        resamples,
    )


def _draws(clips: int, resamples: int, level: float, seed: int) -> np.ndarray:
    """How often each clip is drawn: (resamples, clips)."""
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"resamples {resamples}, level {level}; expected at least 1, and a level between 0 and 1.")
    rng = np.random.default_rng(seed)
    return rng.multinomial(clips, np.full(clips, 1 / clips), size=resamples).astype(float)


def _estimates(whole: np.ndarray, values: np.ndarray, level: float) -> list[Estimate]:
    edges = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return [Estimate(*map(float, row)) for row in zip(whole, *edges, strict=True)]


# --- Metrics of weighted clips --------------------------------------------------------------------------------------

Statistic = Callable[[np.ndarray | None], np.ndarray]
"""Weights of the clips (clips,), None for one each -> the metric's value followed by each class's."""


def _statistic(
    metric: Callable, detections, events, durations, classes, frames, settings: dict
) -> tuple[tuple[str, ...], Statistic]:
    inputs = (detections, events, durations, classes, frames)
    if metric is psds:
        return _psds_statistic(*inputs, **settings)
    if metric in _F_SCORES:
        return _f_statistic(_F_SCORES[metric](*inputs, **settings))
    if metric is mean_average_precision:
        return _ranking_statistic(*inputs, average_precision, **{"segment": None, **settings})
    if metric is partial_auroc:
        settings = {"segment": 1.0, "max_fpr": 0.1, **settings}
        max_fpr = settings.pop("max_fpr")
        return _ranking_statistic(*inputs, lambda tp, fp: partial_area(tp, fp, max_fpr), **settings)
    raise ValueError(
        f"metric {metric!r}; expected psds, intersection_f1, collar_f1, segment_f1, mean_average_precision or "
        "partial_auroc of hf_sed.metrics."
    )


_F_SCORES = {intersection_f1: intersection_changes, collar_f1: collar_changes, segment_f1: segment_changes}


def _psds_statistic(
    detections, events, durations, classes, frames, settings=PSDS1, without_ground_truth="drop"
) -> tuple[tuple[str, ...], Statistic]:
    def counted(kept_range: float):
        accumulator = PsdsAccumulator(events, durations, classes, (settings,), without_ground_truth, kept_range)
        accumulator.add(detections, frames)
        accumulator.results()  # says which clips are missing
        return accumulator.set.truth, accumulator.counts[0]

    truth, counts = counted(_KEPT_RANGE)
    changes = [counts.changes(k) for k in range(len(truth.classes))]
    complete = False

    def statistic(weights: np.ndarray | None) -> np.ndarray:
        nonlocal changes, complete
        if weights is None:
            weights = np.ones(len(truth.durations))
        limit = settings.e_max * truth.hours(weights)
        drawn = [c.counts(weights) for c in changes]
        if not complete and any((fp[c.before_gap] <= limit).any() for c, (_, fp) in zip(changes, drawn, strict=True)):
            # Thresholds that were left out may be in range of this draw.
            _, whole = counted(np.inf)
            changes, complete = [whole.changes(k) for k in range(len(truth.classes))], True
            drawn = [c.counts(weights) for c in changes]
        value, per_class = psds_of_weighted_clips(changes, drawn, truth, settings, weights)
        return np.concatenate([[value], per_class])

    return truth.classes, statistic


def _f_statistic(counts: FCounts) -> tuple[tuple[str, ...], Statistic]:
    def statistic(weights: np.ndarray | None) -> np.ndarray:
        tp, fp, n_ref, _ = counts.at(weights)
        f = np.divide(2 * tp, tp + fp + n_ref, out=np.full(len(tp), np.nan), where=n_ref > 0)
        return np.concatenate([[_mean(f)], f])

    return counts.classes, statistic


def _ranking_statistic(
    detections, events, durations, classes, frames, area, segment, without_ground_truth="drop"
) -> tuple[tuple[str, ...], Statistic]:
    found = Segments.of(detections, events, durations, classes, frames, segment, without_ground_truth)
    changes = found.changes()

    def statistic(weights: np.ndarray | None) -> np.ndarray:
        counts = [c.counts(weights) for c in changes]
        values = np.array([area(tp, fp) if tp[-1] > 0 and fp[-1] > 0 else np.nan for tp, fp in counts])
        return np.concatenate([[_mean(values)], values])

    return found.truth.classes, statistic


def _mean(values: np.ndarray) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else np.nan
