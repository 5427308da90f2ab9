import json

import numpy as np
import pytest

from hf_sed.events import Event
from hf_sed.inference.post_processing import PostProcessing
from hf_sed.inference.report import evaluate_scores, format_table, write_report
from hf_sed.metrics import bootstrap, confusion, detection_scores, psds
from tests.metrics.test_psds import CLASSES, small_set


def test_confusion_by_hand():
    truth = {"a": [Event("x", 0, 2), Event("y", 3, 5), Event("x", 8, 9)], "b": [Event("y", 0, 1)]}
    found = {
        "a": [
            Event("x", 0.5, 2.2),  # right
            Event("x", 3.0, 4.5),  # lies on y
            Event("y", 6.0, 7.0),  # lies on nothing
            Event("y", 1.5, 4.0),  # y covers less than half of it: false, but on no other class's event for 0.3 of it
        ],
        "b": [],
    }
    table = confusion(found, truth, {"a": 10.0, "b": 10.0}, ["x", "y"], dtc=0.5, cttc=0.3)
    assert table.matrix.tolist() == [[1, 1], [0, 0]]
    assert table.nothing.tolist() == [0, 2]
    assert table.missed.tolist() == [1, 2]


def test_an_evaluation_repeats_the_metrics_and_finds_the_worst_clips():
    scores, truth, durations, hop = small_set(3, clips=10)
    scores["c4"] = 1 - scores["c4"]
    decoder = PostProcessing(CLASSES, hop, thresholds=0.5)
    evaluation = evaluate_scores(scores, truth, durations, decoder, resamples=100)
    plain = detection_scores(scores, truth, durations, decoder)
    for name in ("psds1", "psds2", "intersection_f1"):
        assert evaluation.scores[name] == plain[name]
    interval = bootstrap(psds, scores, truth, durations, CLASSES, hop, resamples=100)
    assert evaluation.scores["intervals"]["psds1"] == [interval.low, interval.high]
    assert evaluation.worst(1) == ["c4"]
    events = sum(row["events"] for row in plain["per_class"].values())
    right = evaluation.confusion.matrix.trace()
    assert right > 0
    assert evaluation.confusion.missed.sum() < events
    text = format_table(evaluation.scores)
    assert text.splitlines()[1].startswith("all")
    assert f"{plain['psds1']:.3f} [" in text
    assert "[" not in format_table(plain)
    json.dumps(evaluation.as_dict())


@pytest.mark.parametrize("resamples", [0, 20])
def test_the_page_is_one_file_and_escapes_what_it_is_given(tmp_path, resamples):
    scores, truth, durations, hop = small_set(3, clips=6)
    rename = {"x": "<b>x</b>", "y": "y"}
    truth = {c: [Event(rename[e.label], e.onset, e.offset) for e in es] for c, es in truth.items()}
    decoder = PostProcessing(list(rename.values()), hop, thresholds=[0.4, 0.5], median_filter=0.6)
    evaluation = evaluate_scores(scores, truth, durations, decoder, resamples)
    write_report(evaluation, tmp_path / "new" / "page.html", "A & B", decoder=decoder)
    page = (tmp_path / "new" / "page.html").read_text()
    assert "A &amp; B" in page
    assert "&lt;b&gt;x" in page
    assert "<b>x" not in page
    assert page.count("data:image/png;base64,") == 4
    assert "http" not in page
    assert ("intervals from" in page) == bool(resamples)


def test_a_clip_without_events_counts_its_false_detections():
    truth = {"a": [Event("x", 0, 1)], "quiet": []}
    scores = {"a": np.zeros((10, 1)), "quiet": np.zeros((10, 1))}
    scores["a"][:5] = scores["quiet"][2:4] = scores["quiet"][6:7] = 0.9
    evaluation = evaluate_scores(scores, truth, dict.fromkeys(truth, 2.0), PostProcessing(["x"], 0.2), resamples=0)
    assert evaluation.errors == {"a": 0, "quiet": 2}
