"""From frame scores to events: median filter, threshold, runs of active frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import median_filter as _median_filter

from ..events import Event, scores_to_events


def median_filter(scores: np.ndarray, lengths: float | Sequence[float], frame_hop: float) -> np.ndarray:
    """Median-filter frame scores (frames, classes) along time, each class with its own length in seconds.

    A length is rounded to the next odd number of frames; below one and a half frames it leaves the scores alone. Clip
    ends are reflected (scipy's default), as in the DESED systems.
    """
    lengths = np.broadcast_to(np.asarray(lengths, dtype=float), (scores.shape[1],))
    frames = [_odd(length / frame_hop) for length in lengths]
    if all(n == 1 for n in frames):
        return scores
    if len(set(frames)) == 1:
        return _median_filter(scores, size=(frames[0], 1))
    return np.stack(
        [_median_filter(column, size=n) if n > 1 else column for column, n in zip(scores.T, frames, strict=True)],
        axis=1,
    )


def _odd(frames: float) -> int:
    return max(2 * round((frames - 1) / 2) + 1, 1)


def decode(
    scores: np.ndarray,
    labels: Sequence[str],
    frame_hop: float,
    thresholds: float | Sequence[float],
    median_lengths: float | Sequence[float],
    duration: float | None = None,
) -> list[Event]:
    """Events of frame scores (frames, classes): [`median_filter`], then [`hf_sed.events.scores_to_events`]."""
    return scores_to_events(median_filter(scores, median_lengths, frame_hop), labels, frame_hop, thresholds, duration)
