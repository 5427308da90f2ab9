import numpy as np
import pytest

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
