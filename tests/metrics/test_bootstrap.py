"""Intervals over clips: a draw's value must be the metric of the drawn clips."""

import numpy as np
import pytest

from hf_sed.events import Event
from hf_sed.metrics import (
    Estimate,
    PsdsSettings,
    bootstrap,
    collar_f1,
    intersection_f1,
    mean_average_precision,
    paired_bootstrap,
    partial_auroc,
    psds,
    segment_f1,
)
from hf_sed.metrics.bootstrap import _statistic
from tests.metrics.test_psds import CLASSES, small_set

SETTINGS = PsdsSettings(0.5, 0.5, 0.3, 0.5, 1.0, 1500)
METRICS = [
    (psds, {"settings": SETTINGS}),
    (psds, {"settings": PsdsSettings(0.7, 0.7, e_max=300)}),
    (intersection_f1, {"threshold": 0.4}),
    (intersection_f1, {"threshold": "best"}),
    (collar_f1, {"threshold": 0.4}),
    (collar_f1, {"threshold": "best"}),
    (segment_f1, {"threshold": 0.4}),
    (segment_f1, {"threshold": "best"}),
    (mean_average_precision, {}),
    (mean_average_precision, {"segment": 1.0}),
    (partial_auroc, {"max_fpr": 0.3}),
]


def drawn(weights, *by_clip):
    """The evaluation set in which each clip stands as often as it was drawn."""
    clips = list(by_clip[0])
    names = [(c, f"{c} again {i}") for c, w in zip(clips, weights, strict=True) for i in range(int(w))]
    return [{new: values[c] for c, new in names} for values in by_clip]


@pytest.mark.parametrize(("metric", "settings"), METRICS)
def test_a_draw_is_the_metric_of_the_drawn_clips(metric, settings):
    scores, truth, durations, hop = small_set(4, clips=8)
    _, statistic = _statistic(metric, scores, truth, durations, CLASSES, hop, dict(settings))
    for seed in range(6):
        weights = np.random.default_rng(seed).multinomial(8, np.full(8, 1 / 8)).astype(float)
        expected = metric(*drawn(weights, scores, truth, durations), CLASSES, hop, **settings)
        value = expected.macro if hasattr(expected, "macro") else expected.value
        assert statistic(weights)[0] == pytest.approx(value, abs=1e-9)


def test_a_draw_that_asks_for_more_than_was_kept_is_counted_again(monkeypatch):
    """Clip c0 has nearly all false positives; without it a draw reaches far lower thresholds than the whole set."""
    from hf_sed.metrics import counts

    monkeypatch.setattr(counts, "_MOST_STORED", 0)
    scores, truth, durations, hop = small_set(1, clips=6)
    rng = np.random.default_rng(0)
    scores = {c: a * 0.5 for c, a in scores.items()}
    scores["c0"] = rng.uniform(0.6, 1, (25, 2))
    settings = PsdsSettings(0.7, 0.7, e_max=150)
    _, statistic = _statistic(psds, scores, truth, durations, CLASSES, hop, {"settings": settings})
    weights = np.array([0, 2, 1, 1, 1, 1.0])
    expected = psds(*drawn(weights, scores, truth, durations), CLASSES, hop, settings).value
    assert expected > 0
    assert statistic(weights)[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("metric", "settings"), METRICS)
def test_the_interval_holds_the_value_and_repeats(metric, settings):
    scores, truth, durations, hop = small_set(3, clips=12)
    inputs = (metric, scores, truth, durations, CLASSES, hop)
    result = bootstrap(*inputs, resamples=200, **settings)
    expected = metric(*inputs[1:], **settings)
    assert result.value == pytest.approx(expected.macro if hasattr(expected, "macro") else expected.value)
    assert result.low <= result.value + 0.05
    assert result.low < result.high
    assert list(result.per_class) == CLASSES
    assert result == bootstrap(*inputs, resamples=200, **settings)


def test_a_better_system_is_told_from_an_equal_one():
    scores, truth, durations, hop = small_set(3, clips=30)
    rng = np.random.default_rng(0)
    worse = {c: np.clip(a + rng.normal(0, 0.5, a.shape), 0, 1) for c, a in scores.items()}
    settings = {"settings": PsdsSettings(0.5, 0.5, e_max=1500), "resamples": 300}
    result = paired_bootstrap(psds, worse, scores, truth, durations, CLASSES, hop, **settings)
    assert result.value == pytest.approx(result.second - result.first)
    assert result.low > 0
    assert result.p_value < 0.02
    same = paired_bootstrap(psds, scores, scores, truth, durations, CLASSES, hop, **settings)
    assert (same.value, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_frames_are_compared_with_boxes_and_rare_classes_are_left_out():
    _, _, durations, _ = small_set(3, clips=5)
    truth = {"c0": [Event("x", 1.0, 2.0)], "c1": [Event("y", 1.0, 2.0)], "c2": [Event("x", 0.2, 3.0)]}
    boxes = {"c0": [Event("x", 1.0, 2.0, 0.9)], "c1": [Event("y", 1.0, 2.0, 0.8)]}
    result = bootstrap(psds, boxes, truth, durations, CLASSES, resamples=100)
    assert result.per_class["y"] == Estimate(1.0, 1.0, 1.0)  # of the draws that have an event of y
    assert 0 <= result.low < result.high <= 1
    events = {c: list(es) for c, es in boxes.items()}
    difference = paired_bootstrap(intersection_f1, {}, events, truth, durations, CLASSES, resamples=50)
    assert difference.value > 0


def test_what_cannot_be_drawn_is_explained():
    scores, truth, durations, hop = small_set()
    with pytest.raises(ValueError, match="expected psds, intersection_f1"):
        bootstrap(max, scores, truth, durations, CLASSES, hop)
    with pytest.raises(ValueError, match="level 95"):
        bootstrap(psds, scores, truth, durations, CLASSES, hop, level=95)
    del scores["c1"]
    with pytest.raises(ValueError, match="clip 'c1' has a duration but no scores"):
        bootstrap(psds, scores, truth, durations, CLASSES, hop)
