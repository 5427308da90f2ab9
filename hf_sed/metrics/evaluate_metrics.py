"""The metrics as `evaluate.Metric`s: thin wrappers that work offline. numpy is the truth (`psds.py`, `events.py`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import datasets
import evaluate
import numpy as np

from ..events import scores_to_events
from .events import intersection_f1
from .psds import PsdsAccumulator

_CITATION = """Bilen et al., A Framework for the Robust Evaluation of Sound Event Detection, ICASSP 2020 (arXiv 1910.08440);
Ebbers, Haeb-Umbach, Serizel, Threshold Independent Evaluation of Sound Event Detection Scores, ICASSP 2022."""


_BATCH = 64
"""Clips that are read at a time."""


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

    def _finalize(self) -> None:
        """Count what was added, clip by clip, from its file. `evaluate` would next read all of it into Python lists; it
        is given nothing to read, and `_compute` the counted result."""
        super()._finalize()
        if self.process_id == 0:
            references = self.data.select_columns("references")[:]["references"]
            events = {f"clip {i}": r["events"] for i, r in enumerate(references)}
            durations = {f"clip {i}": r["duration"] for i, r in enumerate(references)}
            scores = self.data.select_columns("predictions").with_format("numpy")
            self._result = self._count(scores, events, durations)
            self.data = self.data.select([])

    def _batches(self, data: datasets.Dataset) -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, len(data), _BATCH):
            rows = data[start : start + _BATCH]["predictions"]
            yield {
                f"clip {start + i}": np.asarray(clip, dtype=float).reshape(-1, len(self.labels))
                for i, clip in enumerate(rows)
            }

    def _compute(self, predictions, references):
        return self._result


class Psds(_SedMetric):
    """Polyphonic Sound Detection Scores 1 and 2 of DCASE Task 4, exact and threshold-free."""

    def _count(self, data, events, durations):
        accumulator = PsdsAccumulator(events, durations, self.labels)
        for batch in self._batches(data):
            accumulator.add(batch, self.frame_hop)
        one, two = accumulator.results()
        return {"psds1": one.value, "psds2": two.value}


class IntersectionF1(_SedMetric):
    """Intersection-based F1 (DTC 0.5, GTC 0.5) of the events above a threshold."""

    def __init__(self, labels: Sequence[str], frame_hop: float, threshold: float = 0.5, **kwargs):
        self.threshold = threshold
        super().__init__(labels, frame_hop, **kwargs)

    def _count(self, data, events, durations):
        found = {}
        for batch in self._batches(data):
            for clip, scores in batch.items():
                found[clip] = scores_to_events(scores, self.labels, self.frame_hop, self.threshold, durations[clip])
        result = intersection_f1(found, events, durations, self.labels)
        return {"intersection_f1": result.macro, "intersection_f1_micro": result.micro}


METRICS = {"psds": Psds, "intersection_f1": IntersectionF1}
