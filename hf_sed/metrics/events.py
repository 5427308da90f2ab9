"""F-scores of detected events at one operating point."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..events import Event, as_event, class_index
from .inputs import GroundTruth, at_least, coverage, ground_truth

Events = Mapping[str, Iterable[Event | Mapping | tuple]]


@dataclass(frozen=True)
class FScore:
    """Macro and micro F1, and per class: f, p, r, tp, fp, n_ref."""

    macro: float
    micro: float
    per_class: dict[str, dict[str, float]]


def intersection_f1(
    detections: Events,
    events: Events,
    durations: Mapping[str, float],
    classes: Sequence[str],
    dtc: float = 0.5,
    gtc: float = 0.5,
    without_ground_truth: str = "drop",
) -> FScore:
    """Intersection-based F1 (DCASE Task 4; Bilen et al. 2020).

    A detection is right if its class's events cover at least ``dtc`` of it; an event is found if right detections cover
    at least ``gtc`` of it. Precision counts found events against wrong detections. A class with events of which none is
    found scores 0. A class without events is left out of the macro mean ("drop", with a warning) or an error ("error").
    """
    truth = ground_truth(events, durations, classes)
    unknown = sorted(set(detections) - set(durations))
    if unknown:
        raise ValueError(f"clip {unknown[0]!r} has detections but no duration ({len(unknown)} such clips).")
    tp, fp = np.zeros(len(truth.classes)), np.zeros(len(truth.classes))
    for clip, found in detections.items():
        by_class: dict[int, list[tuple[float, float]]] = {}
        for raw in found:
            event = as_event(
                raw if isinstance(raw, Event | Mapping) else Event(str(raw[2]), float(raw[0]), float(raw[1])),
                f"clip {clip!r}",
            )
            by_class.setdefault(class_index(truth.classes, event.label, f"clip {clip!r}"), []).append(
                (event.onset, event.offset)
            )
        for k, intervals in by_class.items():
            right = np.array(intervals)
            reference = truth.events.get(clip, {}).get(k)
            if reference is None:
                fp[k] += len(intervals)
                continue
            share = coverage(reference, right[:, 1]) - coverage(reference, right[:, 0])
            hit = at_least(share, dtc * (right[:, 1] - right[:, 0]))
            fp[k] += (~hit).sum()
            right = right[hit]
            for onset, offset in reference:
                overlap = np.clip(np.minimum(right[:, 1], offset) - np.maximum(right[:, 0], onset), 0, None).sum()
                tp[k] += at_least(overlap, gtc * (offset - onset))
    return _f_score(tp, fp, truth, without_ground_truth)


def _f_score(tp: np.ndarray, fp: np.ndarray, truth: GroundTruth, without_ground_truth: str) -> FScore:
    from .psds import evaluated_classes

    n_ref = truth.counts()
    kept = evaluated_classes(truth, without_ground_truth)
    per_class = {}
    for k in kept:
        precision = tp[k] / (tp[k] + fp[k]) if tp[k] + fp[k] else 1.0
        f = 2 * tp[k] / (tp[k] + fp[k] + n_ref[k])
        per_class[truth.classes[k]] = {
            "f": float(f), "p": float(precision), "r": float(tp[k] / n_ref[k]), "tp": int(tp[k]), "fp": int(fp[k]), "n_ref": int(n_ref[k]),
        }  # fmt: skip
    total_tp, total_fp, total = tp[kept].sum(), fp[kept].sum(), n_ref[kept].sum()
    if not kept:
        warnings.warn("no class has ground truth events; F1 is reported as 0.", stacklevel=3)
    return FScore(
        float(np.mean([c["f"] for c in per_class.values()])) if kept else 0.0,
        float(2 * total_tp / (total_tp + total_fp + total)) if kept else 0.0,
        per_class,
    )
