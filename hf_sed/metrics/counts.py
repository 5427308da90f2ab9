"""Intersection-based counts at every threshold.

Whether a detection is relevant does not depend on the threshold. Every run (`runs.py`) therefore adds its counts at the
score where it appears and takes them back where it ends; sorting those changes by score and summing gives the counts at
every threshold (Ebbers et al. 2022, arXiv 2201.13148). Each change keeps its clip, so that changes of other batches and
processes are simply added, and counts of a resampled set of clips are sums with the clips' weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .inputs import GroundTruth, Timeline, at_least, repeat_ranges
from .runs import Runs

_MOST_STORED = 2_000_000
"""Changes that are stored before those out of range are forgotten."""

_NOTHING = (np.zeros(0), *(np.zeros(0, np.int32),) * 3)


@dataclass(frozen=True)
class Changes:
    """Changes of one class's counts, in falling order of the score below which they hold.

    Args:
        scores: (points,) distinct scores; `last` (points,) the number of rows down to each.
        clip, tp, fp: (rows,) changes of true and false positives.
        cross: (score, clip, other class, change) of the cross triggers, and the number of rows down to each point.
        before_gap: (points,) whether the next point is left out.
    """

    scores: np.ndarray
    last: np.ndarray
    clip: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    cross: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None
    before_gap: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, clip: np.ndarray, tp: np.ndarray, fp: np.ndarray, cross=None) -> Changes:
        """Sort changes (rows,) by score."""
        order = np.argsort(-scores, kind="stable")
        at = scores[order]
        last = np.flatnonzero(np.diff(at, append=-np.inf)) + 1
        points = at[last - 1]
        if cross is not None:
            c_order = np.argsort(-cross[0], kind="stable")
            c_scores, *columns = (column[c_order] for column in cross)
            cross = (c_scores, *columns, np.searchsorted(-c_scores, -points, side="right"))
        return cls(points, last, clip[order], tp[order], fp[order], cross, np.zeros(len(points), bool))

    def only(self, points: np.ndarray) -> Changes:
        """The counts at some of the points, a mask. Changes between them are summed, clip by clip."""
        if points.all():
            return self
        scores, numbers = self.scores[points], np.arange(points.sum())

        def down_to(last: np.ndarray, columns: tuple[np.ndarray, ...], keys: int) -> tuple[np.ndarray, list]:
            rows = np.arange(last[points][-1] if numbers.size else 0)
            at = np.searchsorted(last[points], rows, side="right")
            at, *columns = _summed((at, *(c[rows] for c in columns)), keys)
            return np.searchsorted(at, numbers, side="right"), [scores[at], *columns]

        last, (_, *rows) = down_to(self.last, (self.clip, self.tp, self.fp), keys=2)
        cross = None
        if self.cross is not None:
            cross_last, cross_rows = down_to(self.cross[4], self.cross[1:4], keys=3)
            cross = (*cross_rows, cross_last)
        return Changes(scores, last, *rows, cross, (points & ~np.append(points[1:], True))[points])

    def counts(self, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """True and false positives just below each of `scores`, with clips counted ``weights`` (clips,) times."""
        tp, fp = (self.tp, self.fp) if weights is None else (weights[self.clip] * c for c in (self.tp, self.fp))
        total = [np.concatenate([[0.0], np.cumsum(c, dtype=float)])[self.last] for c in (tp, fp)]
        return total[0], total[1]

    def cross_triggers(self, hours_of_class: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """Cross triggers an hour of the other class's events, summed over the other classes, below each of `scores`."""
        if self.cross is None or not self.cross[0].size:
            return np.zeros(len(self.scores))
        _, clip, other, change, last = self.cross
        rate = np.divide(1.0, hours_of_class, out=np.zeros(len(hours_of_class)), where=hours_of_class > 0)
        each = change * rate[other]
        if weights is not None:
            each = each * weights[clip]
        return np.concatenate([[0.0], np.cumsum(each)])[last]


class ThresholdCounts:
    """True positives, false positives and cross triggers of each class at every threshold.

    ``dtc``, ``gtc``, ``cttc``: the criteria of Bilen et al. 2020 (arXiv 1910.08440); cross triggers are counted where
    ``cttc`` is given. With ``max_false_positives`` thresholds with more of them are out of range, and clips only ever add
    false positives: a stretch of such thresholds is closed for good, and of the changes within it only their sum is kept.
    What is kept is what the PSD-ROC needs, however many clips there are.
    """

    def __init__(
        self,
        truth: GroundTruth,
        dtc: float,
        gtc: float,
        cttc: float | None = None,
        max_false_positives: float = np.inf,
    ):
        self.dtc, self.gtc, self.cttc, self.timeline = dtc, gtc, cttc, Timeline(truth)
        self.max_false_positives = max_false_positives
        size = len(truth.classes)
        self.closed = (np.full(size, np.inf), np.full(size, -np.inf))
        """Least and largest score of each class's closed stretch."""
        self._also_closed: list[list[tuple[float, float]]] = [[] for _ in truth.classes]
        self.stored = self.kept = 0
        self.rows: list[list] = [[] for _ in truth.classes]
        self.cross_rows: list[list] = [[] for _ in truth.classes]

    def add(self, runs: Runs) -> None:
        """Count the detections of some clips."""
        runs = self._outside(runs)
        line = self.timeline
        own = line.stretch(runs.clip, runs.label)
        length = runs.offset - runs.onset
        known = own >= 0
        relevant = known.copy()
        relevant[known] = at_least(
            line.covered(own[known], runs.onset[known], runs.offset[known]), self.dtc * length[known]
        )
        self._add_false(runs.select(~relevant))
        self._add_found(runs.select(relevant), own[relevant])
        if np.isfinite(self.max_false_positives) and self.stored > self.kept + _MOST_STORED:
            self._forget()

    def merge(self, other: ThresholdCounts) -> None:
        """Add what another process has counted on other clips of the same evaluation set, with the same criteria."""
        for k, (mine, theirs) in enumerate(zip(self._also_closed, other._also_closed, strict=True)):
            mine.extend([*theirs, (other.closed[0][k], other.closed[1][k])])
        for mine, theirs in ((self.rows, other.rows), (self.cross_rows, other.cross_rows)):
            for parts, more in zip(mine, theirs, strict=True):
                parts.extend(more)
        self.stored += other.stored

    def changes(self, k: int) -> Changes:
        """The changes of class ``k``, at the thresholds that are in range."""
        changes = self._all_changes(k)
        return changes.only(~self._out_of_range(k, changes))

    def _all_changes(self, k: int) -> Changes:
        rows = [np.concatenate(c) for c in zip(*self.rows[k], strict=True)] if self.rows[k] else _NOTHING
        cross = None
        if self.cttc is not None:
            parts = self.cross_rows[k]
            cross = [np.concatenate(c) for c in zip(*parts, strict=True)] if parts else _NOTHING
        return Changes.of(*rows, cross)

    def _out_of_range(self, k: int, changes: Changes) -> np.ndarray:
        """Which points have too many false positives, now or since some changes at or around them were summed."""
        out = changes.counts()[1] > self.max_false_positives
        for low, high in [(self.closed[0][k], self.closed[1][k]), *self._also_closed[k]]:
            out |= (changes.scores >= low) & (changes.scores <= high)
        return out

    def _outside(self, runs: Runs) -> Runs:
        """The runs with scores in the closed stretch moved to its end; those that live within it alone are left out."""
        low, high = (bound[runs.label] for bound in self.closed)
        moved = [np.where((s >= low) & (s <= high), low, s) for s in (runs.appears, runs.ends)]
        alive = moved[0] > moved[1]
        return replace(runs, appears=moved[0], ends=moved[1]).select(alive)

    def _add_false(self, runs: Runs) -> None:
        self._store_both(self.rows, runs, np.zeros(len(runs.clip), np.int32), np.ones(len(runs.clip), np.int32))
        if self.cttc is None:
            return
        first = self.timeline.first_of_clip
        run, stretch = repeat_ranges(first[runs.clip], first[runs.clip + 1] - first[runs.clip])
        other = self.timeline.label[stretch] != runs.label[run]
        run, stretch = run[other], stretch[other]
        onset, offset = runs.onset[run], runs.offset[run]
        hit = at_least(self.timeline.covered(stretch, onset, offset), self.cttc * (offset - onset))
        run, label = run[hit], self.timeline.label[stretch[hit]].astype(np.int32)
        self._store_both(self.cross_rows, runs.select(run), label, np.ones(len(run), np.int32))

    def _store_both(self, into: list[list], runs: Runs, second: np.ndarray, change: np.ndarray) -> None:
        """A change where each run appears, and the opposite one where it ends."""
        ends = np.isfinite(runs.ends)
        sign = np.concatenate([change, -change[ends]])
        keep = np.concatenate([np.arange(len(ends)), np.flatnonzero(ends)])
        scores = np.concatenate([runs.appears, runs.ends[ends]])
        self._store(into, runs.label[keep], scores, runs.clip[keep], second[keep], sign)

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
        found = at_least(covered, self.gtc * (line.offset[event] - line.onset[event])).astype(np.int32)
        change = np.diff(found, prepend=np.int32(0))
        new = np.diff(event, prepend=-1) != 0
        change[new] = found[new]
        changed = change != 0
        stretch = line.stretch_of_event[event[changed]]
        none = np.zeros(len(stretch), np.int32)
        self._store(self.rows, line.label[stretch], threshold[changed], line.clip[stretch], change[changed], none)

    def _store(self, into: list[list], label, scores, clip, second, third) -> None:
        order = np.argsort(label, kind="stable")
        bounds = np.searchsorted(label[order], np.arange(len(into) + 1))
        columns = [column[order] for column in (scores, clip.astype(np.int32), second, third)]
        self.stored += len(order)
        for k in np.flatnonzero(np.diff(bounds)):
            into[k].append(tuple(column[bounds[k] : bounds[k + 1]] for column in columns))

    def _forget(self) -> None:
        """Close the longest stretch of each class's thresholds that are out of range."""
        self.stored = 0
        for k in range(len(self.rows)):
            changes = self._all_changes(k)
            edges = np.flatnonzero(np.diff(self._out_of_range(k, changes), prepend=False, append=False))
            begins, stops = edges[::2], edges[1::2]  # stretches of points
            rows = changes.last
            before = np.concatenate([[0], rows])
            begin = stop = len(rows)
            low = -np.inf
            if begins.size:
                longest = np.argmax(before[stops] - before[begins])
                begin, stop = begins[longest], stops[longest]
                # Below the last change nothing can be in range: other clips only add to what is there.
                low = changes.scores[stop - 1] if stop < len(rows) else -np.inf
                self._close(k, low, changes.scores[begin])
            scores = np.repeat(changes.scores, np.diff(before))
            scores[before[begin] : before[stop]] = low
            self.rows[k] = [_summed((scores, changes.clip, changes.tp, changes.fp), keys=2)]
            self.stored += len(self.rows[k][0][0])
            if changes.cross is not None:
                scores, *columns, last = changes.cross
                before = np.concatenate([[0], last])
                scores[before[begin] : before[stop]] = low
                self.cross_rows[k] = [_summed((scores, *columns), keys=3)]
                self.stored += len(self.cross_rows[k][0][0])
        self.kept = self.stored

    def _close(self, k: int, low: float, high: float) -> None:
        before = (self.closed[0][k], self.closed[1][k])
        if before[0] <= before[1] and not (low <= before[0] and before[1] <= high):
            self._also_closed[k].append(before)
        self.closed[0][k], self.closed[1][k] = low, high


def _summed(columns: tuple[np.ndarray, ...], keys: int) -> tuple[np.ndarray, ...]:
    """Rows of changes with those of equal keys, the first columns, summed; without those of score -inf."""
    columns = [c[columns[0] > -np.inf] for c in columns]
    order = np.lexsort(columns[:keys][::-1])
    columns = [c[order] for c in columns]
    if not len(order):
        return tuple(columns)
    new = np.any([np.diff(c, prepend=np.nan) != 0 for c in columns[:keys]], axis=0)
    first = np.flatnonzero(new)
    sums = [np.add.reduceat(c, first) for c in columns[keys:]]
    some = np.any([c != 0 for c in sums], axis=0)
    return tuple(c[some] for c in (*(c[first] for c in columns[:keys]), *sums))
