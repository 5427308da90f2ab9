import os

import numpy as np
import pytest
import soundfile
import torch

import hf_sed
from hf_sed.audio import AudioError, load_audio
from hf_sed.data import audio_cache
from hf_sed.data.audio_cache import resampled
from hf_sed.data.batches import SedClips, collate_clips
from hf_sed.events import write_annotations
from tests.conftest import tiny_config


@pytest.fixture
def folder(tmp_path):
    """Three stereo recordings at 22.05 kHz with events."""
    random = np.random.default_rng(0)
    (tmp_path / "clips").mkdir()
    for i in range(3):
        soundfile.write(tmp_path / "clips" / f"{i}.flac", 0.1 * random.standard_normal((22050, 2)), 22050)
    write_annotations(tmp_path / "a.tsv", {f"{i}.flac": [hf_sed.Event("Bark", 0.1, 0.5)] for i in range(3)})
    return tmp_path


def clips(folder):
    return hf_sed.load_annotated_folder(folder / "clips", folder / "a.tsv")


def count_decoding(monkeypatch):
    calls = []
    monkeypatch.setattr(audio_cache, "load_audio", lambda *a: (calls.append(1), load_audio(*a))[1])
    return calls


@pytest.mark.parametrize("num_proc", [None, 2])
def test_a_batch_is_the_same_to_the_bit(folder, num_proc):
    plain, config = clips(folder), tiny_config()
    cached = resampled(plain, 8000, folder / "cache", num_proc)
    batches = [
        collate_clips([SedClips({"x": d}, config, max_seconds=0.5, seed=3)["x", i, 7] for i in range(3)])
        for d in (plain, cached)
    ]
    for key, value in batches[0].items():
        assert torch.equal(value, batches[1][key]), key
    assert set(cached.column_names) == set(plain.column_names)
    assert cached.features["audio"] == plain.features["audio"]


def test_composed_scenes_are_cached_too(scenes, tmp_path):
    cached = resampled(scenes["strong"], 4000, tmp_path)
    for a, b in zip(scenes["strong"], cached, strict=True):
        assert np.array_equal(load_audio(a["audio"], 4000), load_audio(b["audio"], 4000))
        assert a["events"] == b["events"]


def test_it_is_written_once_and_again_when_the_audio_changes(folder, monkeypatch):
    calls = count_decoding(monkeypatch)
    resampled(clips(folder), 8000, folder / "cache")
    assert len(calls) == 3
    resampled(clips(folder), 8000, folder / "cache")
    assert len(calls) == 3
    resampled(clips(folder), 16000, folder / "cache")
    assert len(calls) == 6
    # Annotations are not part of it.
    write_annotations(folder / "a.tsv", {f"{i}.flac": [hf_sed.Event("Knock", 0.2, 0.3)] for i in range(3)})
    again = resampled(clips(folder), 8000, folder / "cache")
    assert len(calls) == 6 and again[0]["tags"] == ["Knock"]
    os.utime(folder / "clips" / "1.flac", ns=(1, 1))
    resampled(clips(folder), 8000, folder / "cache")
    assert len(calls) == 9


def test_a_corrupt_file_is_named(folder):
    dataset = clips(folder)
    (folder / "clips" / "1.flac").write_bytes(b"no audio")
    with pytest.raises(AudioError, match=r"1\.flac: cannot be decoded"):
        resampled(dataset, 8000, folder / "cache")


def test_training_with_a_cache_is_the_same_run(make_detector, train_sources, tmp_path):
    from tests.training.helpers import arguments, assert_same, state

    states = []
    for cache in (None, str(tmp_path / "cache")):
        args = arguments(tmp_path / "run", max_steps=2, save_strategy="no", audio_cache_dir=cache)
        trainer = hf_sed.SedTrainer(make_detector(), args, train_sources)
        torch.manual_seed(0)
        trainer.train()
        states.append(state(trainer))
    assert_same(*states)
    assert len(list((tmp_path / "cache").glob("*-8000*.arrow"))) == 3
