"""What every metric starts from: ground truth, durations and frame scores, checked once and laid out by clip.

Frame scores of a clip are an array (frames, classes) with probabilities; frame ``i`` covers ``[borders[i],
borders[i + 1])`` seconds, where the borders are multiples of a frame hop unless they are given. A detection at
threshold ``h`` is a maximal run of frames whose score is greater than ``h``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..events import Event, as_event, class_index, merge_overlapping

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
    """

    classes: tuple[str, ...]
    durations: dict[str, float]
    events: dict[str, dict[int, np.ndarray]]

    @property
    def hours(self) -> float:
        """Length of the whole set."""
        return sum(self.durations.values()) / 3600

    def counts(self) -> np.ndarray:
        """Number of events of each class."""
        counts = np.zeros(len(self.classes), dtype=int)
        for clip in self.events.values():
            for k, intervals in clip.items():
                counts[k] += len(intervals)
        return counts

    def seconds(self) -> np.ndarray:
        """Summed length of the events of each class."""
        seconds = np.zeros(len(self.classes))
        for clip in self.events.values():
            for k, intervals in clip.items():
                seconds[k] += (intervals[:, 1] - intervals[:, 0]).sum()
        return seconds


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
        checked = [
            as_event(e if isinstance(e, Event | Mapping) else Event(str(e[2]), float(e[0]), float(e[1])), where)
            for e in clip_events
        ]
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


def check_scores(scores: Scores, truth: GroundTruth, borders: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError naming clip and class for scores that cannot be evaluated."""
    missing, extra = sorted(set(truth.durations) - set(scores)), sorted(set(scores) - set(truth.durations))
    if missing:
        raise ValueError(f"clip {missing[0]!r} has a duration but no scores ({len(missing)} such clips).")
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


def frame_borders(scores: Scores, frames: float | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Borders in seconds of each clip's frames, from a frame hop in seconds or as they are given."""
    if isinstance(frames, Mapping):
        missing = sorted(set(scores) - set(frames))
        if missing:
            raise ValueError(f"clip {missing[0]!r} has scores but no frame borders.")
        return {clip: np.asarray(frames[clip], dtype=float) for clip in scores}
    return {clip: np.arange(len(array) + 1) * frames for clip, array in scores.items()}


def coverage(intervals: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Seconds of disjoint ``intervals`` (n, 2) that lie before each of ``times``."""
    return np.clip(times[None] - intervals[:, :1], 0, (intervals[:, 1] - intervals[:, 0])[:, None]).sum(0)
