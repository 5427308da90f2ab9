"""F-scores of detected events: intersection-based and collar-based, at a threshold or at the best one of each class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from ..events import Event
from .counts import ThresholdCounts
from .inputs import GroundTruth, Scores, Timeline, at_least, prepare
from .runs import Runs

Events = Mapping[str, Iterable[Event | Mapping | tuple]]
Threshold = float | Sequence[float] | Literal["best"] | None


@dataclass(frozen=True)
class FScore:
    """F1 of a class list.

    Args:
        macro, micro: mean over classes, and of the pooled counts.
        per_class: label -> f, p, r, tp, fp, n_ref.
        thresholds: label -> the threshold that was used, None where the events were taken as they are.
    """

    macro: float
    micro: float
    per_class: dict[str, dict[str, float]]
    thresholds: dict[str, float | None]


def intersection_f1(
    detections: Events | Scores,
    events: Events,
    durations: Mapping[str, float],
    classes: Sequence[str],
    frames: float | Mapping[str, np.ndarray] | None = None,
    threshold: Threshold = None,
    dtc: float = 0.5,
    gtc: float = 0.5,
    without_ground_truth: str = "drop",
) -> FScore:
    """Intersection-based F1 (DCASE Task 4; Bilen et al. 2020, arXiv 1910.08440).

    A detection is right if its class's events cover at least ``dtc`` of it; an event is found if right detections cover
    at least ``gtc`` of it. Precision counts found events against wrong detections.

    Args:
        detections: clip -> detected events; or, with ``frames``, clip -> probabilities (frames, classes).
        frames: frame hop in seconds, or clip -> frame borders.
        threshold: detections are what scores *more*: one number, one a class, or "best" for each class's best F1.
            None: events as they are; 0.5 for frame scores.
        without_ground_truth: a class without events is left out of the means ("drop", with a warning) or an error.

    A class with events of which none is found scores 0 and counts in the macro mean.
    """
    truth, runs = prepare(detections, events, durations, classes, frames, without_ground_truth, confidences=False)

    def count(alive: Runs) -> tuple[np.ndarray, np.ndarray]:
        changes = ThresholdCounts(truth, dtc, gtc)
        size = len(alive.clip)
        changes.add(replace(alive, appears=np.zeros(size), ends=np.full(size, -np.inf)))
        curves = [changes.curve(k) for k in range(len(truth.classes))]
        return np.array([c[1][-1] if c[1].size else 0.0 for c in curves]), np.array(
            [c[2][-1] if c[2].size else 0.0 for c in curves]
        )

    def curves() -> list:
        changes = ThresholdCounts(truth, dtc, gtc)
        for part in runs:
            changes.add(part)
        return [changes.curve(k)[:3] for k in range(len(truth.classes))]

    return _f_score(truth, runs, frames, threshold, count, curves)


def collar_f1(
    detections: Events | Scores,
    events: Events,
    durations: Mapping[str, float],
    classes: Sequence[str],
    frames: float | Mapping[str, np.ndarray] | None = None,
    threshold: Threshold = None,
    onset_collar: float = 0.2,
    offset_collar: float = 0.2,
    offset_collar_rate: float = 0.2,
    without_ground_truth: str = "drop",
) -> FScore:
    """Collar-based (event-based) F1 (Mesaros et al. 2016, Metrics for Polyphonic Sound Event Detection).

    A detection matches an event of its class whose onset is within ``onset_collar`` s and whose offset is within the
    larger of ``offset_collar`` s and ``offset_collar_rate`` of the event's length; matching is one to one and optimal.
    The other arguments are those of [`intersection_f1`].
    """
    truth, runs = prepare(detections, events, durations, classes, frames, without_ground_truth, confidences=False)
    collars = (onset_collar, offset_collar, offset_collar_rate)

    def count(alive: Runs) -> tuple[np.ndarray, np.ndarray]:
        size = len(truth.classes)
        tp = np.zeros(size)
        for k, matched in _matches(alive, truth, collars, _matching):
            tp[k] += matched
        return tp, np.bincount(alive.label, minlength=size) - tp

    def curves() -> list:
        whole = Runs.concatenate(list(runs))
        found: list[list] = [[] for _ in truth.classes]
        for k, steps in _matches(whole, truth, collars, _matching_steps):
            found[k] += steps
        out = []
        for k in range(len(truth.classes)):
            own = whole.select(whole.label == k)
            ends = np.isfinite(own.ends)
            score = np.concatenate([own.appears, own.ends[ends], [s for s, _ in found[k]]])
            detected = np.concatenate([np.ones(len(own.appears)), -np.ones(ends.sum()), np.zeros(len(found[k]))])
            right = np.concatenate([np.zeros(len(own.appears) + ends.sum()), [c for _, c in found[k]]])
            order = np.argsort(-score, kind="stable")
            last = np.flatnonzero(np.diff(score[order], append=-np.inf))
            tp = np.cumsum(right[order])[last]
            out.append((score[order][last], tp, np.cumsum(detected[order])[last] - tp))
        return out

    return _f_score(truth, runs, frames, threshold, count, curves)


# --- Collar matching ------------------------------------------------------------------------------------------------


def _matches(runs: Runs, truth: GroundTruth, collars: tuple[float, float, float], solve):
    """For each clip and class where some detection fits some event: the class, and what ``solve`` makes of the edges
    (event, detection, appears, ends)."""
    line = Timeline(truth)
    stretch = line.stretch(runs.clip, runs.label)
    runs, stretch = runs.select(stretch >= 0), stretch[stretch >= 0]
    order = np.argsort(stretch, kind="stable")
    runs, stretch = runs.select(order), stretch[order]
    borders = np.flatnonzero(np.diff(stretch, prepend=-1, append=-2))
    for start, stop in pairwise(borders):
        own = np.flatnonzero(line.stretch_of_event == stretch[start])
        onset, offset = line.onset[own][:, None], line.offset[own][:, None]
        collar = np.maximum(collars[1], collars[2] * (offset - onset))
        fits = at_least(collars[0], np.abs(runs.onset[None, start:stop] - onset))
        fits &= at_least(collar, np.abs(runs.offset[None, start:stop] - offset))
        event, detection = np.nonzero(fits)
        if event.size:
            at = start + detection
            yield int(line.label[stretch[start]]), solve((event, detection, runs.appears[at], runs.ends[at]))


def _matching(edges) -> int:
    """Size of the largest one-to-one matching of events and detections."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    event, detection, *_ = edges
    if event.size == 1:
        return 1
    graph = csr_array((np.ones(event.size), (event, detection)), shape=(event.max() + 1, detection.max() + 1))
    return int((maximum_bipartite_matching(graph, perm_type="column") >= 0).sum())


def _matching_steps(edges) -> list[tuple[float, int]]:
    """Scores just below which the size of the matching changes, and by how much, as the threshold falls."""
    event, detection, appears, ends = edges
    steps, size = [], 0
    for score in np.unique(np.concatenate([appears, ends]))[::-1]:
        if not np.isfinite(score):
            continue
        alive = (appears >= score) & (ends < score)
        now = _matching((event[alive], detection[alive])) if alive.any() else 0
        if now != size:
            steps.append((float(score), now - size))
            size = now
    return steps


# --- F from counts --------------------------------------------------------------------------------------------------


def _f_score(truth: GroundTruth, runs: Iterator[Runs], frames, threshold: Threshold, count, curves) -> FScore:
    n_ref = truth.counts()
    if isinstance(threshold, str):
        if threshold != "best":
            raise ValueError(f"threshold {threshold!r}; expected a number, one a class, or 'best'.")
        best = [_best(*curve, n) for curve, n in zip(curves(), n_ref, strict=True)]
        used, tp, fp = (np.array(c, dtype=float) for c in zip(*best, strict=True))
    else:
        if threshold is None and frames is not None:
            threshold = 0.5
        if threshold is None:
            used, alive = None, list(runs)
        else:
            used = truth.of_kept(threshold, "threshold")
            alive = [r.select((r.appears > used[r.label]) & (r.ends <= used[r.label])) for r in runs]
        tp, fp = count(Runs.concatenate(alive))
    return f_score_of_counts(truth.classes, tp, fp, n_ref, used)


def f_score_of_counts(
    classes: Sequence[str], tp: np.ndarray, fp: np.ndarray, n_ref: np.ndarray, thresholds: np.ndarray | None = None
) -> FScore:
    """F1 from counts (classes,). Without any detection precision is 1, as in sed_scores_eval."""
    per_class = {}
    for k, label in enumerate(classes):
        per_class[label] = {
            "f": float(2 * tp[k] / (tp[k] + fp[k] + n_ref[k])),
            "p": float(tp[k] / (tp[k] + fp[k])) if tp[k] + fp[k] else 1.0,
            "r": float(tp[k] / n_ref[k]),
            "tp": int(tp[k]),
            "fp": int(fp[k]),
            "n_ref": int(n_ref[k]),
        }
    used = dict.fromkeys(classes) if thresholds is None else dict(zip(classes, map(float, thresholds), strict=True))
    micro = float(2 * tp.sum() / (tp.sum() + fp.sum() + n_ref.sum())) if n_ref.sum() else 0.0
    return FScore(float(np.mean([c["f"] for c in per_class.values()])) if per_class else 0.0, micro, per_class, used)


def _best(score: np.ndarray, tp: np.ndarray, fp: np.ndarray, n_ref: int) -> tuple[float, float, float]:
    """Threshold with the largest F1, midway between the scores around it, and the counts there. Of equal ones the
    highest; one that lets nothing through where no threshold finds anything."""
    if not score.size or not tp.any():
        return float(max([1.0, *score[:1]])), 0.0, 0.0
    at = int(np.argmax(2 * tp / (tp + fp + n_ref)))
    # Below the lowest score there is no other to be midway to; a threshold must still lie under it.
    threshold = (score[at] + score[at + 1]) / 2 if at + 1 < len(score) else np.nextafter(score[at], -np.inf)
    return float(threshold), tp[at], fp[at]
