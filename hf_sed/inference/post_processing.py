"""From frame scores to events: what is saved with a model, and how it is applied.

Two ways lead from scores to candidates that a threshold then selects from: a median filter on the scores, or sound event
bounding boxes (`bounding_boxes.py`). Lengths are seconds, so that they survive another frame rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import median_filter as _median_filter

from ..events import Event, scores_to_events
from .bounding_boxes import bounding_boxes

if TYPE_CHECKING:
    from ..models.sed.configuration_sed import SedConfig

PerClass = float | Sequence[float]


def median_filter(scores: np.ndarray, lengths: PerClass, frame_hop: float) -> np.ndarray:
    """Median-filter frame scores (frames, classes) along time, each class with its own length in seconds.

    A length is rounded to the next odd number of frames; below two frames it leaves the scores alone. Clip ends are
    reflected (scipy's default), as in the DESED systems.
    """
    frames = [_odd(length / frame_hop) for length in np.broadcast_to(np.asarray(lengths, float), (scores.shape[1],))]
    if all(n == 1 for n in frames):
        return scores
    if len(set(frames)) == 1:
        return _median_filter(scores, size=(frames[0], 1))
    columns = [_median_filter(c, size=n) if n > 1 else c for c, n in zip(scores.T, frames, strict=True)]
    return np.stack(columns, axis=1)


def _odd(frames: float) -> int:
    return max(2 * round((frames - 1) / 2) + 1, 1)


@dataclass(frozen=True)
class PostProcessing:
    """What turns a detector's frame scores into events. Each setting is one number or one a class.

    Args:
        labels: class names.
        frame_hop: seconds between frames.
        thresholds: what scores more is an event.
        median_filter: length in seconds; not used with boxes.
        low_thresholds: hysteresis: an event reaches as far as scores stay above this, and needs one frame above the
            threshold. None: the threshold itself. Not used with boxes.
        min_gap: events of a class with a shorter gap, in seconds, are joined.
        min_duration: shorter events, in seconds, are left out.
        boxes: settings of bounding boxes instead of the median filter: ``length`` (s), ``merge_abs``, ``merge_rel``.
    """

    labels: Sequence[str]
    frame_hop: float
    thresholds: PerClass = 0.5
    median_filter: PerClass = 0.0
    low_thresholds: PerClass | None = None
    min_gap: PerClass = 0.0
    min_duration: PerClass = 0.0
    boxes: Mapping[str, PerClass] | None = None

    @classmethod
    def of(cls, config: SedConfig, **changes: Any) -> PostProcessing:
        """The settings that a config holds, with ``changes`` for those that are not None."""
        names = ("thresholds", "median_filter", "low_thresholds", "min_gap", "min_duration", "boxes")
        saved = cls(config.labels, config.frame_hop, **{name: getattr(config, name) for name in names})
        return replace(saved, **{k: v for k, v in changes.items() if v is not None})

    @property
    def frames(self) -> float | None:
        """How the metrics are to read the candidates: hop of the frames in seconds, None for boxes."""
        return self.frame_hop if self.boxes is None else None

    def candidates(self, scores: np.ndarray, duration: float | None = None) -> np.ndarray | list[Event]:
        """What the threshold selects from, and PSDS is computed on: filtered frame scores (frames, classes), or boxes
        with their confidence."""
        scores = np.asarray(scores)
        if scores.ndim != 2 or scores.shape[1] != len(self.labels):
            raise ValueError(
                f"scores have shape {scores.shape}; expected (frames, {len(self.labels)}) for classes {list(self.labels)}."
            )
        if self.boxes is None:
            return median_filter(scores, self.median_filter, self.frame_hop)
        settings = {name: self._each(value) for name, value in self.boxes.items()}
        found = []
        for k, label in enumerate(self.labels):
            own = {name: values[k] for name, values in settings.items()}
            for onset, offset, confidence in bounding_boxes(scores[:, k], self.frame_hop, **own):
                offset = offset if duration is None else min(offset, duration)
                if offset > onset:
                    found.append(Event(label, onset, offset, confidence))
        return found

    def events(self, scores: np.ndarray, duration: float | None = None) -> list[Event]:
        """Events of frame scores (frames, classes), sorted by onset. ``score``: mean of the event's frames, or the box's
        confidence. Offsets are cut at ``duration`` seconds."""
        return self.select(self.candidates(scores, duration), duration)

    def select(self, candidates: np.ndarray | list[Event], duration: float | None = None) -> list[Event]:
        """The events among [`candidates`]."""
        if self.boxes is None:
            found = scores_to_events(
                candidates, self.labels, self.frame_hop, self.thresholds, duration, self.low_thresholds
            )
        else:
            least = dict(zip(self.labels, self._each(self.thresholds), strict=True))
            found = [e for e in candidates if e.score > least[e.label]]
        gaps, shortest = self._each(self.min_gap), self._each(self.min_duration)
        events = []
        for k, label in enumerate(self.labels):
            joined: list[Event] = []
            for event in sorted((e for e in found if e.label == label), key=lambda e: e.onset):
                if joined and event.onset - joined[-1].offset < gaps[k]:
                    event = _join(joined.pop(), event)
                joined.append(event)
            events += [e for e in joined if e.offset - e.onset >= shortest[k]]
        return sorted(events, key=lambda e: (e.onset, e.offset, e.label))

    def _each(self, value: PerClass) -> np.ndarray:
        return np.broadcast_to(np.asarray(value, dtype=float), (len(self.labels),))


def _join(first: Event, second: Event) -> Event:
    """One event from two of a class; its score is their mean, weighed by their lengths."""
    lengths = (first.offset - first.onset, second.offset - second.onset)
    score = (first.score * lengths[0] + second.score * lengths[1]) / sum(lengths)
    return Event(first.label, first.onset, second.offset, score)
