"""The metrics as `evaluate.Metric`s: thin wrappers that work offline. numpy is the truth (`psds.py`, `events.py`)."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np

from .events import intersection_f1
from .psds import psds_scenarios

_CITATION = """Bilen et al., A Framework for the Robust Evaluation of Sound Event Detection, ICASSP 2020 (arXiv 1910.08440);
Ebbers, Haeb-Umbach, Serizel, Threshold Independent Evaluation of Sound Event Detection Scores, ICASSP 2022."""


class _SedMetric(evaluate.Metric):
    """Base: predictions are frame probabilities (frames, classes) of a clip, references its events and duration."""

    def __init__(self, labels: Sequence[str], frame_hop: float, **kwargs):
        self.labels, self.frame_hop = list(labels), frame_hop
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        event = {
            "label": datasets.Value("string"),
            "onset": datasets.Value("float64"),
            "offset": datasets.Value("float64"),
        }
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation=_CITATION,
            inputs_description="predictions: frame probabilities (frames, classes); references: {events, duration (s)}.",
            features=datasets.Features(
                {
                    "predictions": datasets.List(datasets.List(datasets.Value("float64"))),
                    "references": {"events": datasets.List(event), "duration": datasets.Value("float64")},
                }
            ),
        )

    def _by_clip(self, predictions, references):
        names = [f"clip {i}" for i in range(len(predictions))]
        scores = {
            n: np.asarray(p, dtype=float).reshape(-1, len(self.labels)) for n, p in zip(names, predictions, strict=True)
        }
        events = {n: r["events"] for n, r in zip(names, references, strict=True)}
        durations = {n: r["duration"] for n, r in zip(names, references, strict=True)}
        return scores, events, durations


class Psds(_SedMetric):
    """Polyphonic Sound Detection Scores 1 and 2 of DCASE Task 4, exact and threshold-free."""

    def _compute(self, predictions, references):
        inputs = self._by_clip(predictions, references)
        one, two = psds_scenarios(*inputs, self.labels, self.frame_hop)
        return {"psds1": one.value, "psds2": two.value}


class IntersectionF1(_SedMetric):
    """Intersection-based F1 (DTC 0.5, GTC 0.5) of the events above a threshold."""

    def __init__(self, labels: Sequence[str], frame_hop: float, threshold: float = 0.5, **kwargs):
        self.threshold = threshold
        super().__init__(labels, frame_hop, **kwargs)

    def _compute(self, predictions, references):
        inputs = self._by_clip(predictions, references)
        result = intersection_f1(*inputs, self.labels, self.frame_hop, threshold=self.threshold)
        return {"intersection_f1": result.macro, "intersection_f1_micro": result.micro}


METRICS = {"psds": Psds, "intersection_f1": IntersectionF1}
