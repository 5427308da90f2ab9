import itertools

import numpy as np
import pytest
import soundfile
import torch
from transformers import pipeline

import hf_sed
from hf_sed.events import Event
from hf_sed.inference.bounding_boxes import bounding_boxes, change_points
from hf_sed.inference.plots import plot_events
from hf_sed.inference.post_processing import PostProcessing, median_filter
from hf_sed.inference.windows import join_windows, window_borders


def test_median_lengths_are_seconds_and_per_class():
    scores = np.zeros((40, 2))
    scores[10, :] = 1.0  # one frame of 50 ms
    scores[20:26, :] = 1.0  # 300 ms
    filtered = median_filter(scores, [0.25, 0.0], 0.05)
    assert filtered[10, 0] == 0
    assert filtered[20:26, 0].all()
    assert np.array_equal(filtered[:, 1], scores[:, 1])
    assert np.array_equal(median_filter(scores, 0.0, 0.05), scores)
    # The same length in seconds at half the hop gives the same events.
    fine = median_filter(scores.repeat(2, axis=0), [0.25, 0.0], 0.025)
    assert not fine[20:22, 0].any() and fine[40:52, 0].all()


def test_decoding_applies_filter_then_threshold():
    scores = np.zeros((20, 1))
    scores[5] = 0.9
    scores[10:15] = 0.6
    events = PostProcessing(["a"], 0.1, 0.5, 0.3).events(scores)
    assert [(e.onset, e.offset) for e in events] == [(pytest.approx(1.0), pytest.approx(1.5))]
    assert events[0].score == pytest.approx(0.6)


def test_hysteresis_gaps_and_durations():
    scores = np.array([0, 0.4, 0.6, 0.4, 0, 0.4, 0, 0, 0, 0.7, 0, 0.7, 0.7, 0, 0])[:, None]
    plain = PostProcessing(["a"], 0.1)
    assert [(e.onset, e.offset) for e in plain.events(scores)] == [
        (pytest.approx(a), pytest.approx(b)) for a, b in [(0.2, 0.3), (0.9, 1.0), (1.1, 1.3)]
    ]
    wide = PostProcessing(["a"], 0.1, low_thresholds=0.3)
    assert (wide.events(scores)[0].onset, wide.events(scores)[0].offset) == (pytest.approx(0.1), pytest.approx(0.4))
    assert len(wide.events(scores)) == 3  # the lone 0.4 never reaches the threshold
    joined = PostProcessing(["a"], 0.1, min_gap=0.15, min_duration=0.2)
    (event,) = joined.events(scores)
    assert (event.onset, event.offset, event.score) == (pytest.approx(0.9), pytest.approx(1.3), pytest.approx(0.7))


def test_boxes_find_change_points_that_are_known():
    """Scores that step up and down at known frames: the boxes begin and end there, whatever the levels."""
    hop, levels = 0.05, [(0, 40, 0.05), (40, 80, 0.9), (80, 120, 0.1), (120, 150, 0.6), (150, 200, 0.02)]
    scores = np.concatenate([np.full(b - a, level) for a, b, level in levels])
    boxes = [b for b in bounding_boxes(scores, hop, 0.5) if b[2] > 0.3]
    assert [(a, b) for a, b, _ in boxes] == [
        (pytest.approx(2.0), pytest.approx(4.0)),
        (pytest.approx(6.0), pytest.approx(7.5)),
    ]
    assert [c for _, _, c in boxes] == [pytest.approx(0.9), pytest.approx(0.6)]
    times, response = change_points(scores, hop, 0.5)
    assert times[np.argmax(response)] == pytest.approx(2.0)
    assert times[np.argmin(response)] == pytest.approx(4.0)
    assert response.max() == pytest.approx(0.85)
    noisy = np.clip(scores + np.random.default_rng(0).normal(0, 0.03, scores.shape), 0, 1)
    found = [b for b in bounding_boxes(noisy, hop, 0.5, merge_rel=2.0) if b[2] > 0.3]
    assert len(found) == 2
    assert [(a, b) for a, b, _ in found] == [
        (pytest.approx(2.0, abs=hop), pytest.approx(4.0, abs=hop)),
        (pytest.approx(6.0, abs=hop), pytest.approx(7.5, abs=hop)),
    ]


def test_boxes_are_joined_across_shallow_gaps_only():
    scores = np.concatenate([np.full(n, v) for n, v in [(40, 0.0), (20, 0.8), (20, 0.5), (20, 0.8), (40, 0.0)]])
    assert len([b for b in bounding_boxes(scores, 0.05, 0.4, merge_rel=1.2) if b[2] > 0.6]) == 2
    (box,) = [b for b in bounding_boxes(scores, 0.05, 0.4, merge_rel=2.0) if b[2] > 0.3]
    assert box == (pytest.approx(2.0), pytest.approx(5.0), pytest.approx(0.7))
    assert len([b for b in bounding_boxes(scores, 0.05, 0.4, merge_rel=2.0, merge_abs=0.2) if b[2] > 0.6]) == 2
    assert bounding_boxes(np.zeros(50), 0.05, 0.4) == [] or all(
        c == 0 for _, _, c in bounding_boxes(np.zeros(50), 0.05, 0.4)
    )


def test_a_threshold_selects_boxes_without_moving_their_borders():
    rng = np.random.default_rng(0)
    scores = np.clip(np.convolve(rng.uniform(0, 1, 220), np.ones(21) / 21, "valid"), 0, 1)[:, None]
    decoder = PostProcessing(["a"], 0.05, boxes={"length": 0.4})
    everything = {(e.onset, e.offset, e.score) for e in decoder.candidates(scores, 9.9)}
    for threshold in (0.3, 0.5, 0.55):
        events = PostProcessing(["a"], 0.05, threshold, boxes={"length": 0.4}).events(scores, 9.9)
        assert {(e.onset, e.offset, e.score) for e in events} == {b for b in everything if b[2] > threshold}


def test_boxes_travel_with_the_model(make_detector, tmp_path):
    make_detector(boxes={"length": [0.3, 0.4, 0.5], "merge_rel": 1.5}, thresholds=0.0).save_pretrained(tmp_path)
    hf_sed.SedFeatureExtractor(sampling_rate=8000).save_pretrained(tmp_path)
    detect = pipeline("sound-event-detection", model=str(tmp_path))
    x = {"array": 0.1 * np.random.default_rng(0).standard_normal(16000).astype(np.float32), "sampling_rate": 8000}
    output = detect(x, return_scores=True)
    expected = PostProcessing.of(detect.model.config).events(output["scores"], 2.0)
    assert output["events"] == [e.as_dict() for e in expected]
    assert output["events"]
    with pytest.raises(ValueError, match="boxes"):
        hf_sed.SedConfig(labels=["a"], boxes={"lenght": 0.3})


@pytest.mark.parametrize("samples", [10, 99, 100, 101, 250, 1000, 1003])
def test_windows_cover_everything_on_the_frame_grid(samples):
    borders = window_borders(samples, window=100, overlap=20, frame=8)
    covered = np.zeros(samples, dtype=int)
    for start, stop in borders:
        assert start % 8 == 0 and stop - start <= 100
        covered[start:stop] += 1
    assert covered.all()
    for (_, a), (b, _) in itertools.pairwise(borders):
        assert a - b >= 20


def test_joined_windows_of_one_sequence_are_that_sequence():
    scores = np.random.default_rng(0).uniform(size=(50, 3)).astype(np.float32)
    joined = join_windows([(0, scores[:20]), (10, scores[10:30]), (22, scores[22:])])
    assert np.allclose(joined, scores, atol=1e-6)


def test_the_pipeline_takes_what_users_have(saved_detector, tmp_path):
    detect = pipeline("sound-event-detection", model=str(saved_detector))
    rng = np.random.default_rng(0)
    stereo = 0.1 * rng.standard_normal((22050 * 3, 2)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", stereo, 22050)
    from_path = detect(str(tmp_path / "a.wav"), thresholds=0.45, median_filter=0.0)
    samples, rate = soundfile.read(tmp_path / "a.wav", dtype="float32")
    from_array = detect({"array": samples, "sampling_rate": rate}, thresholds=0.45, median_filter=0.0)
    assert from_path == from_array
    assert from_path, "a random detector at a low threshold finds something"
    for event in from_path:
        assert set(event) == {"label", "onset", "offset", "score"}
        assert 0 <= event["onset"] < event["offset"] <= 3.0
        assert 0.45 < event["score"] <= 1
    assert [e["onset"] for e in from_path] == sorted(e["onset"] for e in from_path)
    both = detect(
        [str(tmp_path / "a.wav"), {"raw": samples[:8000, 0], "sampling_rate": rate}],
        batch_size=2,
        thresholds=0.45,
        median_filter=0.0,
    )
    assert both[0] == from_path
    assert len(both) == 2
    assert detect((tmp_path / "a.wav").read_bytes(), thresholds=0.45, median_filter=0.0) == from_path


def test_saved_thresholds_and_median_lengths_are_used(make_detector, tmp_path):
    x = {"array": 0.1 * np.random.default_rng(0).standard_normal(16000).astype(np.float32), "sampling_rate": 8000}
    for name, values in {"all": {"thresholds": [0.0, 1.0, 1.0]}, "none": {"thresholds": 1.0}}.items():
        make_detector(**values).save_pretrained(tmp_path / name)
        hf_sed.SedFeatureExtractor(sampling_rate=8000).save_pretrained(tmp_path / name)
    assert [e["label"] for e in pipeline("sound-event-detection", model=str(tmp_path / "all"))(x)] == ["Alarm"]
    assert pipeline("sound-event-detection", model=str(tmp_path / "none"))(x) == []


def test_long_recordings_are_detected_in_windows(saved_detector):
    detect = pipeline("sound-event-detection", model=str(saved_detector))
    model, config = detect.model, detect.model.config
    samples = 0.1 * np.random.default_rng(0).standard_normal(8000 * 11).astype(np.float32)
    output = detect({"array": samples, "sampling_rate": 8000}, return_scores=True, batch_size=3)
    assert output["duration"] == 11.0
    assert output["scores"].shape == (config.num_frames(8000 * 11), 3)
    with torch.no_grad():
        first = model(torch.from_numpy(samples[None, : 2 * 8000])).logits.sigmoid()[0].numpy()
    assert np.allclose(output["scores"][:20], first[:20], atol=1e-5)
    one_by_one = detect({"array": samples, "sampling_rate": 8000}, return_scores=True)
    assert np.allclose(one_by_one["scores"], output["scores"], atol=1e-5)


def test_a_bad_file_is_named(saved_detector, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"RIFFnonsense")
    with pytest.raises(hf_sed.AudioError, match=r"bad\.wav"):
        pipeline("sound-event-detection", model=str(saved_detector))(str(tmp_path / "bad.wav"))


def test_the_picture_shows_detected_and_true_events(tmp_path):
    wave = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    figure = plot_events(
        wave, 8000, [Event("b", 0.5, 1.0, 0.8)], [Event("a", 0.1, 0.4)], labels=["a", "b", "c"], title="clip"
    )
    figure.savefig(tmp_path / "p.png")
    lower = figure.axes[1]
    assert [t.get_text() for t in lower.get_yticklabels()] == ["a", "b"]
    boxes = sorted((round(p.get_x(), 3), round(p.get_width(), 3)) for p in lower.patches)
    assert boxes == [(0.1, 0.3), (0.5, 0.5)]
    plot_events(wave, 8000, [])  # nothing found is a picture too
