"""Intersection-based counts at every threshold.

Whether a detection is relevant does not depend on the threshold. Every run (`runs.py`) therefore adds its counts at the
score where it appears and takes them back where it ends; sorting those changes by score and summing gives the counts at
every threshold (Ebbers et al. 2022, arXiv 2201.13148).
"""

from __future__ import annotations

import numpy as np

from .inputs import GroundTruth, Timeline, at_least, repeat_ranges
from .runs import Runs

_MOST_STORED = 5_000_000
"""Changes that are stored, four numbers each, before they are compacted."""


class ThresholdCounts:
    """True positives, false positives and cross triggers of each class at every threshold.

    ``dtc``, ``gtc``, ``cttc``: the criteria of Bilen et al. 2020 (arXiv 1910.08440); cross triggers are counted where
    ``cttc`` is given. With ``max_false_positives`` a class's counts are kept only down to the lowest threshold that has no
    more of them: clips only ever add false positives, so no threshold below it can come back into range. What is kept
    is what the PSD-ROC needs, however many clips there are.
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
        self.floor = np.full(len(truth.classes), -np.inf)
        self.stored = 0
        self.hours_of_class = truth.seconds() / 3600
        self.parts: list[list] = [[] for _ in truth.classes]

    def add(self, runs: Runs) -> None:
        """Count the detections of some clips."""
        runs = runs.select(runs.appears >= self.floor[runs.label])
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
        if np.isfinite(self.max_false_positives) and self.stored > _MOST_STORED:
            self._compact()

    def _add_false(self, runs: Runs) -> None:
        cross = np.zeros(len(runs.clip))
        if self.cttc is not None:
            first = self.timeline.first_of_clip
            run, stretch = repeat_ranges(first[runs.clip], first[runs.clip + 1] - first[runs.clip])
            other = self.timeline.label[stretch] != runs.label[run]
            run, stretch = run[other], stretch[other]
            onset, offset = runs.onset[run], runs.offset[run]
            hit = at_least(self.timeline.covered(stretch, onset, offset), self.cttc * (offset - onset))
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
        found = at_least(covered, self.gtc * (line.offset[event] - line.onset[event])).astype(float)
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
                self.stored += index.size
                part.append(
                    (threshold[index], *(counts[c][index] if c in counts else zero for c in ("tp", "fp", "ct")))
                )

    def _compact(self) -> None:
        """Sum the changes at equal scores, and forget those that no threshold in range depends on."""
        self.stored = 0
        for k in range(len(self.parts)):
            threshold, *counts = self.curve(k)
            within = np.flatnonzero(counts[1] <= self.max_false_positives)
            kept = within[-1] + 1 if within.size else 0
            if kept < len(threshold):
                # Just above the first score that is out of range: other clips may have changes between it and the last
                # one that is kept.
                self.floor[k] = np.nextafter(threshold[kept], np.inf)
            self.parts[k] = [(threshold[:kept], *(np.diff(c[:kept], prepend=0.0) for c in counts))]
            self.stored += kept

    def curve(self, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Scores in falling order and, just below each, the numbers of true positives, false positives, and the cross
        triggers an hour summed over the other classes."""
        if not self.parts[k]:
            return (np.zeros(0),) * 4
        threshold, *changes = (np.concatenate([part[i] for part in self.parts[k]]) for i in range(4))
        order = np.argsort(-threshold, kind="stable")
        last = np.flatnonzero(np.diff(threshold[order], append=-np.inf))
        last = last[threshold[order][last] >= self.floor[k]]
        return threshold[order][last], *(np.cumsum(c[order])[last] for c in changes)
