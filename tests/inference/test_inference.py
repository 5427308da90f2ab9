import itertools

import numpy as np
import pytest
import soundfile
import torch
from transformers import pipeline

import hf_sed
from hf_sed.events import Event
from hf_sed.inference.plots import plot_events
from hf_sed.inference.post_processing import decode, median_filter
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
    events = decode(scores, ["a"], 0.1, 0.5, 0.3)
    assert [(e.onset, e.offset) for e in events] == [(pytest.approx(1.0), pytest.approx(1.5))]
    assert events[0].score == pytest.approx(0.6)


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
