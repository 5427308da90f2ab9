from types import SimpleNamespace

import numpy as np
import pytest
import torch

import hf_sed.metrics
from hf_sed.metrics import PSDS1, PSDS2, psds
from tests.metrics.test_psds import CLASSES, small_set


def test_the_evaluate_metrics_give_the_same_numbers_offline():
    scores, truth, durations, hop = small_set(3)
    metric = hf_sed.metrics.load("psds", labels=CLASSES, frame_hop=hop)
    clips = list(scores)
    for half in (clips[:2], clips[2:]):  # as a Trainer or a loop would add them
        metric.add_batch(
            predictions=[scores[c] for c in half],
            references=[{"events": [e.as_dict() for e in truth[c]], "duration": durations[c]} for c in half],
        )
    result = metric.compute()
    assert result["psds1"] == pytest.approx(psds(scores, truth, durations, CLASSES, hop, PSDS1).value, abs=1e-9)
    assert result["psds2"] == pytest.approx(psds(scores, truth, durations, CLASSES, hop, PSDS2).value, abs=1e-9)
    f1 = hf_sed.metrics.load("intersection_f1", labels=CLASSES, frame_hop=hop, threshold=0.4)
    references = [{"events": [e.as_dict() for e in truth[c]], "duration": durations[c]} for c in clips]
    assert (
        0
        < f1.compute(predictions=[np.asarray(scores[c]) for c in clips], references=references)["intersection_f1"]
        <= 1
    )


def test_an_unknown_metric_is_explained():
    with pytest.raises(ValueError, match="expected one of psds, intersection_f1"):
        hf_sed.metrics.load("wer", labels=CLASSES, frame_hop=0.1)


def test_a_trainer_counts_batch_by_batch_what_it_counts_at_once():
    """The protocol of `batch_eval_metrics`, padded batches and all; an interrupted evaluation is forgotten."""
    from datasets import Dataset
    from transformers import EvalPrediction

    scores, truth, durations, hop = small_set(3)
    clips = Dataset.from_list([{"events": [e.as_dict() for e in truth[c]], "duration": durations[c]} for c in scores])
    config = SimpleNamespace(
        labels=CLASSES,
        frame_hop=hop,
        thresholds=0.4,
        median_filter=0.6,
        low_thresholds=None,
        min_gap=0.0,
        min_duration=0.0,
        boxes=None,
    )
    metrics = hf_sed.metrics.DetectionMetrics(clips, config)
    array = np.stack(list(scores.values()))
    padded = np.concatenate([array, np.full((6, 3, 2), -100.0)], axis=1)
    numbers = np.arange(6)
    whole = metrics(EvalPrediction((array, array[::-1]), numbers))
    metrics(EvalPrediction((array[:2], array[:2]), numbers[:2]), compute_result=False)  # interrupted
    for part in (slice(0, 4), slice(4, 6)):
        batch = EvalPrediction(
            (torch.tensor(padded[part]), torch.tensor(padded[::-1].copy()[part])), torch.tensor(numbers[part])
        )
        by_batch = metrics(batch, compute_result=part.stop == 6)
    assert by_batch == pytest.approx(whole, abs=1e-12)
    assert whole["psds1"] == pytest.approx(metrics.last["teacher"]["psds1"], abs=1e-12)
    with pytest.raises(ValueError, match="clip 'clip 0' has a duration but no scores"):
        metrics(EvalPrediction((array[1:], array[1:]), numbers[1:]))
