"""What every metric starts from: ground truth, durations and frame scores, checked once and laid out by clip.

Frame scores of a clip are an array (frames, classes) with probabilities; frame ``i`` covers ``[borders[i],
borders[i + 1])`` seconds, where the borders are multiples of a frame hop unless they are given. A detection at
threshold ``h`` is a maximal run of frames whose score is greater than ``h``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..events import Event, as_event, class_index, merge_overlapping
from .runs import Runs, runs_of_boxes, runs_of_scores

Scores = Mapping[str, np.ndarray]
"""Clip -> frame scores (frames, classes)."""

_DECIMALS = 6
"""Times are compared after rounding to this many decimals, as sed_scores_eval does, so that 0.7 of a second means it."""


def at_least(value: np.ndarray | float, bound: np.ndarray | float) -> np.ndarray:
    """``value >= bound`` for seconds, both rounded to a microsecond."""
    return np.round(value, _DECIMALS) >= np.round(bound, _DECIMALS)


@dataclass(frozen=True)
class GroundTruth:
    """Checked ground truth of an evaluation set.

    Args:
        classes: the evaluated classes.
        durations: seconds of every clip of the set, events or not.
        events: clip -> class index -> (events, 2) array of onsets and offsets, disjoint and sorted.
        asked_for: all classes that were asked for, where some were left out.
    """

    classes: tuple[str, ...]
    durations: dict[str, float]
    events: dict[str, dict[int, np.ndarray]]
    asked_for: tuple[str, ...] | None = None

    def hours(self, weights: np.ndarray | None = None) -> float:
        """Length of the whole set, with clips counted ``weights`` (clips,) times."""
        seconds = list(self.durations.values())
        return (sum(seconds) if weights is None else float(weights @ np.array(seconds))) / 3600

    def of_kept(self, value: float | Sequence[float], name: str) -> np.ndarray:
        """A setting of each class, from one number or one for each class that was asked for."""
        if np.ndim(value) == 0:
            return np.full(len(self.classes), float(value))
        value = np.asarray(value, dtype=float)
        if len(value) != len(self.asked_for or self.classes):
            raise ValueError(f"{name} has {len(value)} values for {len(self.asked_for or self.classes)} classes.")
        return value[[(self.asked_for or self.classes).index(c) for c in self.classes]]

    def restricted(self, kept: Sequence[int]) -> GroundTruth:
        """The ground truth of some of the classes only."""
        new = {k: i for i, k in enumerate(kept)}
        return GroundTruth(
            tuple(self.classes[k] for k in kept),
            self.durations,
            {clip: {new[k]: v for k, v in by_class.items() if k in new} for clip, by_class in self.events.items()},
            self.asked_for or self.classes,
        )

    def counts(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Number of events of each class (classes,), with clips counted ``weights`` (clips,) times."""
        if weights is None:
            return self.counts_by_clip.sum(0).astype(int)
        return weights @ self.counts_by_clip

    def seconds(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Summed length of the events of each class (classes,)."""
        return self.seconds_by_clip.sum(0) if weights is None else weights @ self.seconds_by_clip

    @cached_property
    def counts_by_clip(self) -> np.ndarray:
        """Number of events (clips, classes)."""
        return self._by_clip(len)

    @cached_property
    def seconds_by_clip(self) -> np.ndarray:
        """Summed length of the events (clips, classes)."""
        return self._by_clip(lambda intervals: (intervals[:, 1] - intervals[:, 0]).sum())

    def _by_clip(self, function) -> np.ndarray:
        out = np.zeros((len(self.durations), len(self.classes)))
        for number, clip in enumerate(self.durations):
            for k, intervals in self.events.get(clip, {}).items():
                out[number, k] = function(intervals)
        return out


def ground_truth(
    events: Mapping[str, Iterable[Event | Mapping | tuple]], durations: Mapping[str, float], classes: Sequence[str]
) -> GroundTruth:
    """Check and lay out ground truth.

    ``events``: clip -> events, `Event`, mapping or (onset, offset, label); clips of ``durations`` that it lacks have no
    event. Events of one class that overlap or touch are joined, with a warning. Raises ValueError naming the clip for
    an event of an unknown class, of no length, or in a clip without a duration.
    """
    classes = tuple(classes)
    if len(set(classes)) != len(classes):
        raise ValueError(f"classes {list(classes)} are not distinct.")
    for clip, duration in durations.items():
        if not duration > 0:
            raise ValueError(f"clip {clip!r}: duration {duration} s; must be positive.")
    unknown = sorted(set(events) - set(durations))
    if unknown:
        raise ValueError(f"clip {unknown[0]!r} has ground truth but no duration ({len(unknown)} such clips).")
    laid_out: dict[str, dict[int, np.ndarray]] = {}
    joined = 0
    for clip, clip_events in events.items():
        where = f"clip {clip!r}"
        checked = [_event(e, where) for e in clip_events]
        merged = merge_overlapping(checked)
        joined += len(checked) - len(merged)
        by_class: dict[int, list] = {}
        for event in merged:
            by_class.setdefault(class_index(classes, event.label, where), []).append((event.onset, event.offset))
        laid_out[clip] = {k: np.array(intervals) for k, intervals in by_class.items()}
    if joined:
        warnings.warn(
            f"{joined} ground-truth events overlapped or touched another of their class and were joined.", stacklevel=2
        )
    return GroundTruth(classes, {k: float(v) for k, v in durations.items()}, laid_out)


def _check_scores(scores: Scores, truth: GroundTruth, borders: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError naming clip and class for scores that cannot be evaluated."""
    extra = sorted(set(scores) - set(truth.durations))
    if extra:
        raise ValueError(f"clip {extra[0]!r} has scores but no duration ({len(extra)} such clips).")
    for clip, array in scores.items():
        if array.ndim != 2 or array.shape[1] != len(truth.classes):
            raise ValueError(f"clip {clip!r}: scores of shape {array.shape}; expected (frames, {len(truth.classes)}).")
        if np.isnan(array).any():
            k = int(np.flatnonzero(np.isnan(array).any(0))[0])
            raise ValueError(f"clip {clip!r}, class {truth.classes[k]!r}: NaN score.")
        finite = array[np.isfinite(array)]
        if finite.size and (finite.min() < 0 or finite.max() > 1):
            raise ValueError(
                f"clip {clip!r}: scores from {finite.min():.3g} to {finite.max():.3g}; expected probabilities, not logits."
            )
        if len(borders[clip]) != len(array) + 1 or (np.diff(borders[clip]) <= 0).any():
            raise ValueError(
                f"clip {clip!r}: {len(borders[clip])} frame borders for {len(array)} frames; expected one more, increasing."
            )


def _event(raw: Event | Mapping | tuple, where: str) -> Event:
    if not isinstance(raw, Event | Mapping):
        raw = Event(str(raw[2]), float(raw[0]), float(raw[1]), float(raw[3]) if len(raw) > 3 else None)
    return as_event(raw, where)


def _frame_borders(scores: Scores, frames: float | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Borders in seconds of each clip's frames, from a frame hop in seconds or as they are given."""
    if isinstance(frames, Mapping):
        missing = sorted(set(scores) - set(frames))
        if missing:
            raise ValueError(f"clip {missing[0]!r} has scores but no frame borders.")
        return {clip: np.asarray(frames[clip], dtype=float) for clip in scores}
    return {clip: np.arange(len(array) + 1) * frames for clip, array in scores.items()}


class EvaluationSet:
    """The clips of an evaluation and what is true of them; reads detections of all of them, or of a batch.

    Args:
        events, durations, classes: see [`ground_truth`].
        without_ground_truth: what to do with a class without events: "drop" (with a warning) or "error".

    ``truth`` is the ground truth of the evaluated classes, ``numbers`` the index of each clip.
    """

    def __init__(
        self,
        events: Mapping[str, Iterable[Event | Mapping | tuple]],
        durations: Mapping[str, float],
        classes: Sequence[str],
        without_ground_truth: str = "drop",
    ):
        self.whole = ground_truth(events, durations, classes)
        kept = _evaluated_classes(self.whole, without_ground_truth)
        self.truth = self.whole if len(kept) == len(self.whole.classes) else self.whole.restricted(kept)
        self._kept = kept
        self.numbers = {clip: number for number, clip in enumerate(self.truth.durations)}

    def frames(
        self, scores: Scores, frames: float | Mapping[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Checked frame scores and frame borders, of the evaluated classes, of the clips that are given."""
        arrays = {clip: np.asarray(array) for clip, array in scores.items()}
        borders = _frame_borders(arrays, frames)
        _check_scores(arrays, self.whole, borders)
        if len(self._kept) < len(self.whole.classes):
            arrays = {clip: array[:, self._kept] for clip, array in arrays.items()}
        return arrays, borders

    def boxes(
        self, boxes: Mapping[str, Iterable[Event | Mapping | tuple]], confidences: bool = False
    ) -> dict[str, list[Event]]:
        """Checked events, of the evaluated classes, of the clips that are given; each needs a ``score`` with
        ``confidences``. Raises ValueError naming clip and class for an event that is malformed or of an unknown class."""
        unknown = sorted(set(boxes) - set(self.whole.durations))
        if unknown:
            raise ValueError(f"clip {unknown[0]!r} has detections but no duration ({len(unknown)} such clips).")
        checked = {}
        for clip, found in boxes.items():
            events = [_event(e, f"clip {clip!r}") for e in found]
            for event in events:
                class_index(self.whole.classes, event.label, f"clip {clip!r}")
                if (confidences and event.score is None) or (event.score is not None and not np.isfinite(event.score)):
                    raise ValueError(f"clip {clip!r}, class {event.label!r}: a detected event needs a finite score.")
            checked[clip] = [e for e in events if e.label in self.truth.classes]
        return checked

    def runs(
        self,
        detections: Scores | Mapping[str, Iterable[Event | Mapping | tuple]],
        frames: float | Mapping[str, np.ndarray] | None,
        confidences: bool = False,
        ignored: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None,
    ) -> Iterator[Runs]:
        """The detections of the clips that are given over all thresholds, made chunk by chunk.

        With ``frames`` (hop in seconds, or borders) ``detections`` are frame scores, else event lists, whose events need a
        ``score`` where ``confidences`` is set and are taken for certain without one elsewhere. ``ignored``: see
        [`runs_of_scores`].
        """
        if frames is None:
            return iter([runs_of_boxes(self.boxes(detections, confidences), self.numbers, self.truth.classes)])
        return runs_of_scores(*self.frames(detections, frames), self.numbers, ignored)

    def require_all(self, clips: Collection[str]) -> None:
        """Raise ValueError unless frame scores of all clips are there. (A clip without detected events is none.)"""
        missing = sorted(set(self.numbers) - set(clips))
        if missing:
            raise ValueError(f"clip {missing[0]!r} has a duration but no scores ({len(missing)} such clips).")


def _evaluated_classes(truth: GroundTruth, without_ground_truth: str) -> list[int]:
    """Indices of the classes with events; what happens to the others is the caller's policy, "drop" or "error"."""
    if without_ground_truth not in ("drop", "error"):
        raise ValueError(f"without_ground_truth {without_ground_truth!r}; expected 'drop' or 'error'.")
    counts = truth.counts()
    empty = [name for name, n in zip(truth.classes, counts, strict=True) if n == 0]
    if len(empty) == len(truth.classes):
        raise ValueError("no class has ground truth events; the score is not defined.")
    if empty and without_ground_truth == "error":
        raise ValueError(f"class {', '.join(empty)} has no ground truth event in the evaluation set.")
    if empty:
        warnings.warn(f"no ground truth for class {', '.join(empty)}: left out of the score.", stacklevel=4)
    return np.flatnonzero(counts).tolist()


class Timeline:
    """Ground truth as one line of disjoint intervals, so that coverage is a lookup for any number of detections.

    Each clip and class with events has a stretch of the line of its own; ``stretch(clip, label)`` is its number, -1 where
    there is none.
    """

    def __init__(self, truth: GroundTruth):
        rows = [
            (number, k, onset, offset)
            for number, clip in enumerate(truth.durations)
            for k, intervals in sorted(truth.events.get(clip, {}).items())
            for onset, offset in intervals
        ]
        clip, label, onset, offset = (np.array(c) for c in zip(*rows, strict=True)) if rows else [np.zeros(0)] * 4
        self.classes = len(truth.classes)
        keys, self.stretch_of_event = np.unique(
            clip.astype(np.int64) * self.classes + label.astype(np.int64), return_inverse=True
        )
        self.label = (keys % self.classes).astype(int)
        self.clip = keys // self.classes
        self.onset, self.offset = onset, offset
        self._number = np.full(len(truth.durations) * self.classes, -1)
        self._number[keys] = np.arange(len(keys))
        # A power of two, so that moving a time to its stretch costs no more digits than it must.
        longest = max([*truth.durations.values(), *offset.tolist(), 1.0])
        self._span = 2.0 ** np.ceil(np.log2(longest + 1))
        self._starts = onset + self.stretch_of_event * self._span
        self._lengths = offset - onset
        self._before = np.concatenate([[0.0], np.cumsum(self._lengths)])
        self.first_of_clip = np.searchsorted(self.clip, np.arange(len(truth.durations) + 1))

    def stretch(self, clip: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Numbers of the stretches of clips and classes."""
        return self._number[clip * self.classes + label]

    def covered(self, stretch: np.ndarray, onset: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """Seconds of [onset, offset] that the events of a stretch cover."""
        return self._seconds_before(stretch, offset) - self._seconds_before(stretch, onset)

    def _seconds_before(self, stretch: np.ndarray, time: np.ndarray) -> np.ndarray:
        at = stretch * self._span + np.minimum(time, self._span)
        event = np.searchsorted(self._starts, at, side="right") - 1
        inside = np.clip(at - self._starts[event], 0, self._lengths[event])
        return np.where(event < 0, 0.0, self._before[event] + inside)

    def overlapping(self, stretch: np.ndarray, onset: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs (detection, event) of detections and the events of their stretch that they overlap."""
        base = stretch * self._span
        first = np.searchsorted(self._starts + self._lengths, base + onset, side="right")
        last = np.searchsorted(self._starts, base + np.minimum(offset, self._span), side="left")
        count = np.maximum(last - first, 0)
        detection = np.repeat(np.arange(len(stretch)), count)
        return detection, first[detection] + _ranks(count)


def _ranks(counts: np.ndarray) -> np.ndarray:
    """0, 1, …, n - 1 for each n of ``counts``, one after the other."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def repeat_ranges(first: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows repeated ``count`` times, and for each repetition first, first + 1, …"""
    row = np.repeat(np.arange(len(first)), count)
    return row, first[row] + _ranks(count)
