import numpy as np
import pytest

from hf_sed.events import Event
from hf_sed.inference.post_processing import PostProcessing
from hf_sed.inference.tuning import tune
from hf_sed.metrics import PSDS1, intersection_f1, psds

HOP = 0.1


@pytest.fixture(scope="module")
def noisy_set():
    """Class "long" has events of 3 s with dropouts, class "short" clean ones of 0.4 s: they need different filters."""
    rng = np.random.default_rng(0)
    scores, events = {}, {}
    for i in range(12):
        array = rng.uniform(0, 0.2, (100, 2))
        a, b = int(rng.integers(5, 60)), int(rng.integers(5, 90))
        array[a : a + 30, 0] = np.where(rng.random(30) < 0.25, 0.1, 0.8)
        array[b : b + 4, 1] = 0.4
        scores[f"c{i}"] = array
        events[f"c{i}"] = [Event("long", a * HOP, (a + 30) * HOP), Event("short", b * HOP, (b + 4) * HOP)]
    return scores, events, dict.fromkeys(scores, 10.0)


@pytest.mark.parametrize("metric", ["psds1", "intersection_f1"])
def test_each_class_gets_the_filter_and_threshold_it_needs(noisy_set, metric):
    start = PostProcessing(["long", "short"], HOP)
    tuned, report = tune(*noisy_set, start, metric, "median")
    assert tuned.boxes is None
    long, short = tuned.median_filter
    assert short < 0.5
    if metric == "psds1":  # which asks for one detection of an event's length; F1 is content with its pieces
        assert long >= 0.5
    assert 0.2 < tuned.thresholds[1] < 0.4 < 0.8
    scores, events, durations = noisy_set
    candidates = {c: tuned.candidates(a) for c, a in scores.items()}
    if metric == "psds1":
        result = psds(candidates, events, durations, tuned.labels, HOP, PSDS1).per_class
        assert report["median"]["per_class"] == pytest.approx(result)
    found = {c: tuned.events(a) for c, a in scores.items()}
    plain = {c: start.events(a) for c, a in scores.items()}
    assert (
        intersection_f1(found, events, durations, tuned.labels).macro
        > intersection_f1(plain, events, durations, tuned.labels).macro
    )


def test_the_better_method_wins_and_processes_change_nothing(noisy_set):
    start = PostProcessing(["long", "short"], HOP)
    one, report = tune(*noisy_set, start, "psds1", "both", num_proc=1)
    two, again = tune(*noisy_set, start, "psds1", "both", num_proc=2)
    assert set(report) == {"median", "boxes"}
    assert report == again
    assert one == two
    assert (one.boxes is None) == (report["median"]["mean"] >= report["boxes"]["mean"])


def test_a_class_without_events_keeps_a_usable_setting(noisy_set):
    scores, events, durations = noisy_set
    only = {c: [e for e in es if e.label == "long"] for c, es in events.items()}
    tuned, _ = tune(scores, only, durations, PostProcessing(["long", "short"], HOP), "psds1", "median")
    assert tuned.thresholds[1] == 0.5
    assert len(tuned.median_filter) == 2


def test_bad_choices_are_explained(noisy_set):
    with pytest.raises(ValueError, match="metric 'f1'"):
        tune(*noisy_set, PostProcessing(["long", "short"], HOP), "f1")
    with pytest.raises(ValueError, match="method 'mean'"):
        tune(*noisy_set, PostProcessing(["long", "short"], HOP), "psds1", "mean")
