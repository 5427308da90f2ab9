"""Detections over all thresholds at once, as flat arrays.

As the threshold falls, each run of frames that ever is a detection appears once and is swallowed by a longer run once, so
a clip and class have at most one run a frame (the nodes of the scores' max-tree). A box of an event list with confidences
is the same thing: it appears at its confidence and is never swallowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from ..events import Event

_CHUNK = 1_000_000
"""Score cells worked on at a time; bounds the working memory to some hundred MB."""


@dataclass(frozen=True)
class Runs:
    """Detections: (n,) arrays.

    Args:
        clip: index of the clip in the evaluation set.
        label: index of the class.
        onset, offset: seconds.
        appears: the detection exists at thresholds below this score …
        ends: … down to this one; -inf for ever.
    """

    clip: np.ndarray
    label: np.ndarray
    onset: np.ndarray
    offset: np.ndarray
    appears: np.ndarray
    ends: np.ndarray

    @classmethod
    def concatenate(cls, parts: Sequence[Runs]) -> Runs:
        """All runs of some sets."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def select(self, index: np.ndarray) -> Runs:
        """The runs at ``index``, integers or a mask."""
        return Runs(*(getattr(self, f.name)[index] for f in fields(self)))

    def above(self, thresholds: np.ndarray | None = None) -> Runs:
        """The detections at one threshold a class, or all of them, as if there were no other threshold: from score 0."""
        alive = self
        if thresholds is not None:
            least = thresholds[self.label]
            alive = self.select((self.appears > least) & (self.ends <= least))
        size = len(alive.clip)
        return replace(alive, appears=np.zeros(size), ends=np.full(size, -np.inf))


def max_tree(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All runs of ``scores`` (frames, columns) that are a detection at some threshold.

    Returns for each (frame, column): first frame, last frame + 1, the score below which the run appears (its least) and
    the one at which a longer run swallows it. A run that another frame already stands for, and one that never appears,
    has the appearing score -inf.
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


def runs_of_scores(
    scores: Mapping[str, np.ndarray],
    borders: Mapping[str, np.ndarray],
    numbers: Mapping[str, int],
    ignored: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None,
) -> Iterator[Runs]:
    """Runs of frame scores, chunk by chunk. ``numbers`` gives each clip its index; all arrays have the same classes.

    ``ignored`` is asked before each chunk for a stretch of scores of each class, least and largest, that makes no
    difference: a run that appears or ends within it may be said to do so anywhere within.
    """
    by_length: dict[int, list[str]] = {}
    for clip, array in scores.items():
        by_length.setdefault(len(array), []).append(clip)
    for frames, clips in by_length.items():
        classes = scores[clips[0]].shape[1]
        step = max(_CHUNK // max(frames * classes, 1), 1)
        for start in range(0, len(clips), step):
            chunk = clips[start : start + step]
            stacked = np.stack([np.asarray(scores[clip], dtype=np.float64) for clip in chunk], axis=1)
            if ignored is not None:
                low, high = ignored()
                stacked = np.where((stacked >= low) & (stacked <= high), low, stacked)
            stacked = stacked.reshape(frames, -1)
            columns = np.flatnonzero((stacked > -np.inf).any(0))
            first, stop, appears, ends = max_tree(stacked[:, columns])
            frame, column = np.nonzero(np.isfinite(appears))
            times = np.stack([borders[clip] for clip in chunk])
            which, label = np.divmod(columns[column], classes)
            yield Runs(
                np.array([numbers[clip] for clip in chunk])[which],
                label,
                times[which, first[frame, column]],
                times[which, stop[frame, column]],
                appears[frame, column],
                ends[frame, column],
            )


def runs_of_boxes(boxes: Mapping[str, Iterable[Event]], numbers: Mapping[str, int], classes: Sequence[str]) -> Runs:
    """Runs of event lists: each event is one detection at its confidence ``score`` (1 where it has none), whatever its
    neighbours are."""
    index = {label: k for k, label in enumerate(classes)}
    rows = [
        (numbers[clip], index[e.label], e.onset, e.offset, 1.0 if e.score is None else e.score)
        for clip, events in boxes.items()
        for e in events
    ]
    clip, label, onset, offset, score = (np.array(c) for c in zip(*rows, strict=True)) if rows else [np.zeros(0)] * 5
    return Runs(clip.astype(int), label.astype(int), onset, offset, score.astype(float), np.full(len(rows), -np.inf))
