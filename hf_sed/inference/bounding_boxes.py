"""Change-detection based sound event bounding boxes (cSEBB).

Ebbers, Germain, Wichern, Le Roux: Sound Event Bounding Boxes, Interspeech 2024 (arXiv 2406.04212). Written from the
paper's description. Where scores rise and fall, found with a step filter, decides where events begin and end; a
threshold on a box's confidence then selects events without moving their borders.
"""

from __future__ import annotations

import numpy as np


def change_points(scores: np.ndarray, frame_hop: float, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Response of the step filter to the scores (frames,) of one class.

    At time t it is the mean score of the half window after t less that of the half window before it, each ``length`` / 2
    seconds long, with scores of 0 outside the clip. It is piecewise linear, so its extrema lie at its breakpoints: the
    frame borders and those moved by half a window. Returns the breakpoints within the clip (0, duration] and the response.
    """
    borders = np.arange(len(scores) + 1) * frame_hop
    half = length / 2
    times = np.concatenate([borders, borders - half, borders + half])
    times = np.unique(np.round(times[(times > 0) & (times <= borders[-1])], 9))
    integral = np.concatenate([[0.0], np.cumsum(scores) * frame_hop])

    def area(t: np.ndarray) -> np.ndarray:
        return np.interp(t, borders, integral)

    return times, (area(times + half) - 2 * area(times) + area(times - half)) / half


def candidate_borders(times: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Alternating onsets and offsets: from the start, the next local maximum of the response opens an event and the next
    local minimum closes it. Of a plateau the last point counts. An event that stays open ends with the clip."""
    rises = np.diff(response) > 0
    # Where the response stops rising (a maximum) or stops not rising (a minimum); the first point is one of the two.
    turns = np.concatenate([[True], rises[1:] != rises[:-1]]) if len(rises) else np.zeros(0, bool)
    at = np.flatnonzero(turns)
    if at.size and rises[at[0]]:  # a minimum, which closes nothing
        at = at[1:]
    borders = times[at]
    return np.append(borders, times[-1]) if len(borders) % 2 else borders


def bounding_boxes(
    scores: np.ndarray, frame_hop: float, length: float, merge_abs: float = np.inf, merge_rel: float = 2.0
) -> list[tuple[float, float, float]]:
    """Boxes (onset, offset, confidence) of one class's frame scores (frames,).

    Args:
        length: of the step filter, seconds.
        merge_abs, merge_rel: two boxes are joined across a gap where, for both, the box's largest score exceeds the gap's
            smallest by less than ``merge_abs`` and is less than ``merge_rel`` times it.

    The confidence is the mean score of the box, gaps that were joined included. Boxes do not overlap and are in order.
    """
    scores = np.asarray(scores, dtype=float)
    if length <= 0:
        raise ValueError(f"step filter of {length} s; must be positive.")
    borders = candidate_borders(*change_points(scores, frame_hop, length))
    borders = borders[: len(borders) // 2 * 2].reshape(-1, 2)
    borders = borders[borders[:, 1] > borders[:, 0]]
    if not len(borders):
        return []
    edges = np.arange(len(scores) + 1) * frame_hop
    integral = np.concatenate([[0.0], np.cumsum(scores) * frame_hop])
    area = np.interp(borders, edges, integral)
    highest = np.array([_extreme(scores, frame_hop, a, b, np.max) for a, b in borders])
    gaps = np.stack([borders[:-1, 1], borders[1:, 0]], axis=1)
    lowest = np.array([_extreme(scores, frame_hop, a, b, np.min) for a, b in gaps])
    small = 1e-3
    close = np.ones(len(gaps), dtype=bool)
    for neighbour in (highest[:-1], highest[1:]):
        close &= ((neighbour + small) / (lowest + small) < merge_rel) & (neighbour - lowest < merge_abs)
    first = np.flatnonzero(np.concatenate([[True], ~close]))
    last = np.append(first[1:], len(borders)) - 1
    onset, offset = borders[first, 0], borders[last, 1]
    confidence = (area[last, 1] - area[first, 0]) / (offset - onset)
    return list(zip(onset.tolist(), offset.tolist(), confidence.tolist(), strict=True))


def _extreme(scores: np.ndarray, frame_hop: float, start: float, stop: float, function) -> float:
    """Largest or smallest score of the frames that [start, stop] touches."""
    first = min(int(start / frame_hop + 1e-6), len(scores) - 1)
    last = max(int(np.ceil(stop / frame_hop - 1e-6)), first + 1)
    return float(function(scores[first:last]))
