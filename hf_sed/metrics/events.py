"""F-scores of detected events: intersection-based and collar-based, at a threshold or at the best one of each class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from ..events import Event
from .counts import Changes, ThresholdCounts
from .inputs import EvaluationSet, GroundTruth, Scores, Timeline, at_least
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
    return intersection_changes(
        detections, events, durations, classes, frames, threshold, dtc, gtc, without_ground_truth
    ).score()


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
    return collar_changes(
        detections,
        events,
        durations,
        classes,
        frames,
        threshold,
        onset_collar,
        offset_collar,
        offset_collar_rate,
        without_ground_truth,
    ).score()


# --- Counts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FCounts:
    """What an F-score is computed from: changes of each class's counts, and reference events (clips, classes).

    ``thresholds`` (classes,) are those that the detections were selected with; None: there was none; "best": to be
    chosen.
    """

    classes: tuple[str, ...]
    changes: list[Changes]
    n_ref: np.ndarray
    thresholds: np.ndarray | Literal["best"] | None

    def at(self, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        """True and false positives, reference events and thresholds (classes,), with clips counted ``weights`` times."""
        n_ref = self.n_ref.sum(0) if weights is None else weights @ self.n_ref
        counts = [c.counts(weights) for c in self.changes]
        if isinstance(self.thresholds, str):
            best = [_best(c.scores, *tpfp, n) for c, tpfp, n in zip(self.changes, counts, n_ref, strict=True)]
            used, tp, fp = (np.array(c, dtype=float) for c in zip(*best, strict=True))
            return tp, fp, n_ref, used
        tp, fp = (np.array([c[i][-1] if c[i].size else 0.0 for c in counts]) for i in (0, 1))
        return tp, fp, n_ref, self.thresholds

    def score(self) -> FScore:
        """The F-scores."""
        return f_score_of_counts(self.classes, *self.at())


def intersection_changes(
    detections, events, durations, classes, frames=None, threshold=None, dtc=0.5, gtc=0.5, without_ground_truth="drop"
) -> FCounts:
    """The counts behind [`intersection_f1`]."""
    clips = EvaluationSet(events, durations, classes, without_ground_truth)
    runs, used = _selected(clips, detections, frames, threshold)
    counts = ThresholdCounts(clips.truth, dtc, gtc)
    for part in runs:
        counts.add(part)
    changes = [counts.changes(k) for k in range(len(clips.truth.classes))]
    return FCounts(clips.truth.classes, changes, clips.truth.counts_by_clip, used)


def collar_changes(
    detections,
    events,
    durations,
    classes,
    frames=None,
    threshold=None,
    onset_collar=0.2,
    offset_collar=0.2,
    offset_collar_rate=0.2,
    without_ground_truth="drop",
) -> FCounts:
    """The counts behind [`collar_f1`]."""
    clips = EvaluationSet(events, durations, classes, without_ground_truth)
    runs, used = _selected(clips, detections, frames, threshold)
    whole = Runs.concatenate(list(runs))
    found: list[list] = [[] for _ in clips.truth.classes]
    for clip, k, steps in _matches(whole, clips.truth, (onset_collar, offset_collar, offset_collar_rate)):
        found[k] += [(score, clip, change) for score, change in steps]
    changes = []
    for k, steps in enumerate(found):
        own = whole.select(whole.label == k)
        ends = np.isfinite(own.ends)
        score, clip, right = (np.array(c) for c in zip(*steps, strict=True)) if steps else [np.zeros(0, int)] * 3
        detected = np.concatenate([np.ones(len(ends), int), np.full(ends.sum(), -1)])
        changes.append(
            Changes.of(
                np.concatenate([own.appears, own.ends[ends], score]),
                np.concatenate([own.clip, own.clip[ends], clip]),
                np.concatenate([np.zeros(len(detected), int), right]),
                np.concatenate([detected, -right]),
            )
        )
    return FCounts(clips.truth.classes, changes, clips.truth.counts_by_clip, used)


def used_thresholds(truth: GroundTruth, threshold: Threshold, default: float | None) -> np.ndarray | str | None:
    """Thresholds of the evaluated classes (classes,), or "best"; ``default`` where none is given. Raises ValueError for
    another word."""
    if isinstance(threshold, str):
        if threshold != "best":
            raise ValueError(f"threshold {threshold!r}; expected a number, one a class, or 'best'.")
        return threshold
    threshold = default if threshold is None else threshold
    return None if threshold is None else truth.of_kept(threshold, "threshold")


def _selected(
    clips: EvaluationSet, detections, frames, threshold: Threshold
) -> tuple[Iterator[Runs], np.ndarray | str | None]:
    """Detections at the given thresholds, or at all of them for "best"; and the thresholds."""
    if frames is not None:
        clips.require_all(detections)
    runs = clips.runs(detections, frames)
    used = used_thresholds(clips.truth, threshold, None if frames is None else 0.5)
    if isinstance(used, str):
        return runs, used
    return (part.above(used) for part in runs), used


# --- Collar matching ------------------------------------------------------------------------------------------------


def _matches(
    runs: Runs, truth: GroundTruth, collars: tuple[float, float, float]
) -> Iterator[tuple[int, int, list[tuple[float, int]]]]:
    """For each clip and class where some detection fits some event: clip, class, and the steps of the matching's size."""
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
            steps = _matching_steps(event, detection, runs.appears[at], runs.ends[at])
            yield int(line.clip[stretch[start]]), int(line.label[stretch[start]]), steps


def _matching(event: np.ndarray, detection: np.ndarray) -> int:
    """Size of the largest one-to-one matching of events and detections."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    if event.size == 1:
        return 1
    graph = csr_array((np.ones(event.size), (event, detection)), shape=(event.max() + 1, detection.max() + 1))
    return int((maximum_bipartite_matching(graph, perm_type="column") >= 0).sum())


def _matching_steps(event, detection, appears, ends) -> list[tuple[float, int]]:
    """Scores just below which the size of the matching changes, and by how much, as the threshold falls."""
    steps, size = [], 0
    for score in np.unique(np.concatenate([appears, ends]))[::-1]:
        if not np.isfinite(score):
            continue
        alive = (appears >= score) & (ends < score)
        now = _matching(event[alive], detection[alive]) if alive.any() else 0
        if now != size:
            steps.append((float(score), now - size))
            size = now
    return steps


# --- F from counts --------------------------------------------------------------------------------------------------


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
