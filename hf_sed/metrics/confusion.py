"""Which class's events the detections of each class lie on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .events import Events
from .inputs import EvaluationSet, Timeline, at_least


@dataclass(frozen=True)
class Confusion:
    """Detections by the class that was detected (rows) and what was there (columns).

    Args:
        classes: of the rows and the first columns.
        matrix: (classes, classes) on the diagonal detections that their own class's events cover enough; beside it false
            ones that lie on events of another class. One that lies on several counts for each.
        nothing: (classes,) false detections that lie on no other class's events.
        missed: (classes,) events that no right detection overlaps.
    """

    classes: tuple[str, ...]
    matrix: np.ndarray
    nothing: np.ndarray
    missed: np.ndarray


def confusion(
    detections: Events,
    events: Events,
    durations: Mapping[str, float],
    classes: Sequence[str],
    dtc: float = 0.5,
    cttc: float = 0.3,
    without_ground_truth: str = "drop",
) -> Confusion:
    """Confusion between classes by the criteria of PSDS (Bilen et al. 2020, arXiv 1910.08440): a detection is right where
    its class's events cover ``dtc`` of it, and a cross trigger where another class's events cover ``cttc`` of it.

    ``detections``: clip -> detected events; the other arguments are those of [`hf_sed.metrics.intersection_f1`].
    """
    clips = EvaluationSet(events, durations, classes, without_ground_truth)
    line, size = Timeline(clips.truth), len(clips.truth.classes)
    (runs,) = clips.runs(detections, None)
    length = (runs.offset - runs.onset)[:, None]
    stretch = line.stretch(runs.clip[:, None], np.arange(size)[None])
    covered = (
        line.covered(stretch, runs.onset[:, None], runs.offset[:, None]) if len(runs.clip) else np.zeros((0, size))
    )
    covered = np.where(stretch >= 0, covered, 0.0)
    own = np.arange(size) == runs.label[:, None]
    right = (at_least(covered, dtc * length) & own).any(1)
    on = np.where(own, right[:, None], at_least(covered, cttc * length) & ~right[:, None])
    matrix = np.zeros((size, size), int)
    np.add.at(matrix, runs.label, on)
    nothing = np.bincount(runs.label[~on.any(1)], minlength=size)
    good = runs.select(right)
    _, event = line.overlapping(line.stretch(good.clip, good.label), good.onset, good.offset)
    found = np.zeros(len(line.onset), bool)
    found[event] = True
    missed = np.bincount(line.label[line.stretch_of_event[~found]], minlength=size)
    return Confusion(clips.truth.classes, matrix, nothing, missed)
