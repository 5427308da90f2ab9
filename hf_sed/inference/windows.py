"""Long recordings: overlapping windows of the training clips' length, and one score sequence from their scores."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def window_borders(num_samples: int, window: int, overlap: int, frame: int) -> list[tuple[int, int]]:
    """Sample ranges of windows that cover a recording.

    Windows start on the frame grid (multiples of ``frame`` samples) and overlap by at least ``overlap`` samples; the
    last one is moved back to be full. A recording up to one window long is one window.
    """
    if num_samples <= window:
        return [(0, num_samples)]
    if not 0 <= overlap < window:
        raise ValueError(f"overlap of {overlap} samples: must be at least 0 and less than the window of {window}.")
    step = max((window - overlap) // frame, 1) * frame
    last = -(-(num_samples - window) // frame) * frame
    starts = [*range(0, last, step), last]
    return [(start, min(start + window, num_samples)) for start in starts]


def join_windows(windows: Iterable[tuple[int, np.ndarray]]) -> np.ndarray:
    """Scores (frames, classes) of a recording from ``(first frame, scores)`` of its windows.

    Where windows overlap their scores are averaged, each weighed by how far inside its window a frame lies: a model
    knows least at the window's ends.
    """
    windows = list(windows)
    if len(windows) == 1 and windows[0][0] == 0:
        return windows[0][1]
    total = max(start + scores.shape[0] for start, scores in windows)
    joined = np.zeros((total, windows[0][1].shape[1]), dtype=np.float32)
    weights = np.zeros((total, 1), dtype=np.float32)
    for start, scores in windows:
        frames = scores.shape[0]
        inside = np.minimum(np.arange(frames) + 1, frames - np.arange(frames)).astype(np.float32)[:, None]
        joined[start : start + frames] += inside * scores
        weights[start : start + frames] += inside
    return joined / np.maximum(weights, 1e-9)
