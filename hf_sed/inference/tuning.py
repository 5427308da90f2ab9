"""Choose post-processing on validation data: class by class, for the metric that matters.

A class's PSDS and F1 depend on no other class's scores, so the best setting is found for each class alone, from one pass
over a grid. Thresholds come last: the one with the best intersection F1 of each class on the chosen candidates.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..events import Event
from ..metrics.events import intersection_f1
from ..metrics.psds import PSDS1, PSDS2, psds
from .post_processing import PostProcessing

if TYPE_CHECKING:
    from ..models.sed.configuration_sed import SedConfig

METRICS = ("psds1", "psds2", "intersection_f1")
MEDIAN_GRID = tuple({"median_filter": length} for length in (0.0, 0.15, 0.25, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0))
# Wider than the grid of the method's authors (step filters of 0.32 to 0.64 s; merging by 0.15 to 0.3 or by factors of 1.5 to
# 3): the scores of a detector of few labels dip by factors of ten and more within one event.
BOX_GRID = tuple(
    {"boxes": {"length": length, "merge_abs": merge_abs, "merge_rel": merge_rel}}
    for length in (0.32, 0.64, 1.0, 1.5, 2.0, 3.0)
    for merge_abs, merge_rel in [*((a, 1e6) for a in (0.15, 0.3)), *((1e6, r) for r in (2.0, 5.0, 12.0, 25.0, 50.0))]
)
GRIDS = {"median": MEDIAN_GRID, "boxes": BOX_GRID}

_work: tuple = ()


def _start(*work) -> None:
    global _work
    _work = work


def _measure(settings: Mapping) -> dict[str, float]:
    """Metric of each class with one setting for all of them."""
    scores, events, durations, decoder, metric = _work
    decoder = replace(decoder, **settings)
    candidates = {clip: decoder.candidates(array, durations[clip]) for clip, array in scores.items()}
    inputs = (candidates, events, durations, decoder.labels, decoder.frames)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if metric == "intersection_f1":
            return {label: row["f"] for label, row in intersection_f1(*inputs, threshold="best").per_class.items()}
        return psds(*inputs, PSDS1 if metric == "psds1" else PSDS2).per_class


def tune(
    scores: Mapping[str, np.ndarray],
    events: Mapping[str, Sequence[Event]],
    durations: Mapping[str, float],
    decoder: PostProcessing,
    metric: str = "psds1",
    method: str = "both",
    num_proc: int = 1,
) -> tuple[PostProcessing, dict[str, dict]]:
    """The best post-processing for frame scores (clip -> (frames, classes)) and their ground truth.

    Args:
        decoder: what is tuned; gives labels and frame hop.
        metric: "psds1", "psds2" or "intersection_f1".
        method: "median", "boxes", or "both", which takes the one with the larger mean over classes.
        num_proc: processes that measure the grid.

    Returns the tuned post-processing, and for each method tried the mean over classes of the metric and each class's
    value. A class without validation events gets what is best for the others' mean, and keeps a threshold of 0.5.
    Shows a progress bar.
    """
    from tqdm.auto import tqdm

    if metric not in METRICS:
        raise ValueError(f"metric {metric!r}; expected one of {', '.join(METRICS)}.")
    methods = list(GRIDS) if method == "both" else [method]
    if not set(methods) <= set(GRIDS):
        raise ValueError(f"method {method!r}; expected median, boxes or both.")
    decoder = replace(decoder, boxes=None, low_thresholds=None)
    grid = [settings for name in methods for settings in GRIDS[name]]
    work = (scores, events, durations, decoder, metric)
    with ProcessPoolExecutor(num_proc, initializer=_start, initargs=work) as pool:
        measured = list(tqdm(pool.map(_measure, grid), total=len(grid), desc=f"tuning {metric}"))
    report, best = {}, {}
    for name in methods:
        tried = [(s, m) for s, m in zip(grid, measured, strict=True) if s in GRIDS[name]]
        overall = max(tried, key=lambda t: np.mean(list(t[1].values())))[0]
        chosen = {c: max(tried, key=lambda t: t[1][c]) for c in tried[0][1]}
        report[name] = {
            "mean": float(np.mean([m[c] for c, (_, m) in chosen.items()])),
            "per_class": {c: m[c] for c, (_, m) in chosen.items()},
        }
        best[name] = [chosen[c][0] if c in chosen else overall for c in decoder.labels]
    winner = max(methods, key=lambda name: report[name]["mean"])
    if winner == "median":
        tuned = replace(decoder, median_filter=[s["median_filter"] for s in best[winner]])
    else:
        boxes = {key: [s["boxes"][key] for s in best[winner]] for key in ("length", "merge_abs", "merge_rel")}
        tuned = replace(decoder, boxes=boxes)
    candidates = {clip: tuned.candidates(array, durations[clip]) for clip, array in scores.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        f1 = intersection_f1(candidates, events, durations, tuned.labels, tuned.frames, threshold="best")
    return replace(tuned, thresholds=[f1.thresholds.get(c, 0.5) for c in tuned.labels]), report


def write_to_config(decoder: PostProcessing, config: SedConfig) -> None:
    """Put tuned post-processing into a config, to be saved with the model."""
    for name in ("thresholds", "median_filter", "low_thresholds", "min_gap", "min_duration"):
        value = getattr(decoder, name)
        setattr(config, name, [float(v) for v in value] if isinstance(value, list | tuple | np.ndarray) else value)
    config.boxes = None if decoder.boxes is None else {k: [float(x) for x in v] for k, v in decoder.boxes.items()}
