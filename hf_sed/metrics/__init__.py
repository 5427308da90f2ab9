"""Scores of sound event detectors. numpy is the truth; `load` wraps it as an `evaluate.Metric`."""

from __future__ import annotations

from collections.abc import Sequence

from .bootstrap import Difference, Estimate, Interval, bootstrap, paired_bootstrap
from .confusion import Confusion, confusion
from .detection import DetectionAccumulator, DetectionMetrics, detection_scores
from .events import FScore, collar_f1, intersection_f1
from .psds import (
    PSDS1,
    PSDS2,
    PsdsAccumulator,
    PsdsResult,
    PsdsSettings,
    fixed_thresholds,
    psds,
    psds_of_operating_points,
    psds_scenarios,
)
from .segments import ClassMean, clip_average_precision, mean_average_precision, partial_auroc, segment_f1

__all__ = [
    "PSDS1",
    "PSDS2",
    "ClassMean",
    "Confusion",
    "DetectionAccumulator",
    "DetectionMetrics",
    "Difference",
    "Estimate",
    "FScore",
    "Interval",
    "PsdsAccumulator",
    "PsdsResult",
    "PsdsSettings",
    "bootstrap",
    "clip_average_precision",
    "collar_f1",
    "confusion",
    "detection_scores",
    "fixed_thresholds",
    "intersection_f1",
    "load",
    "mean_average_precision",
    "paired_bootstrap",
    "partial_auroc",
    "psds",
    "psds_of_operating_points",
    "psds_scenarios",
    "segment_f1",
]


def load(name: str, labels: Sequence[str], frame_hop: float, **kwargs):
    """The `evaluate.Metric` ``name``, "psds" or "intersection_f1", for the given classes and frame hop (seconds).

    Imports `evaluate` when it is called; works offline. Raises ImportError without it, ValueError for another name.
    """
    try:
        from .evaluate_metrics import METRICS
    except ImportError as error:
        raise ImportError("hf_sed.metrics.load needs evaluate: pip install 'hf_sed[evaluate]'.") from error
    if name not in METRICS:
        raise ValueError(f"metric {name!r}; expected one of {', '.join(METRICS)}.")
    return METRICS[name](labels=labels, frame_hop=frame_hop, **kwargs)
