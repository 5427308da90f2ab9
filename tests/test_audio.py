import io
import sys
import types

import numpy as np
import pytest
import soundfile

from hf_sed import audio
from hf_sed.audio import AudioError, audio_duration, encode_audio, load_audio

RATE = 16000
TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_formats_and_resampling(tmp_path, suffix):
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, np.stack([TONE, TONE], axis=1), RATE)
    samples = load_audio(path, 8000)
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert abs(len(samples) - 8000) < 400  # mp3 pads
    spectrum = np.abs(np.fft.rfft(samples[1000:7000] * np.hanning(6000)))
    assert abs(np.argmax(spectrum) * 8000 / 6000 - 440) < 2


def test_all_kinds_of_source_agree(tmp_path):
    data = encode_audio(TONE, RATE)
    path = tmp_path / "tone.wav"
    path.write_bytes(data)
    expected = load_audio(path, RATE)
    assert np.abs(expected - TONE).max() < 1 / 32768
    for source in (
        str(path),
        data,
        io.BytesIO(data),
        {"bytes": data, "path": None},
        {"bytes": None, "path": str(path)},
    ):
        assert np.array_equal(load_audio(source, RATE), expected)
    assert np.array_equal(load_audio({"array": TONE, "sampling_rate": RATE}, RATE), TONE)
    assert np.array_equal(load_audio({"raw": TONE, "sampling_rate": RATE}, RATE), TONE)
    assert np.array_equal(load_audio(TONE, RATE), TONE)
    assert audio_duration(path) == 1.0


def test_integers_are_scaled_and_channels_averaged():
    stereo = np.stack([np.full(10, 16384), np.zeros(10)]).astype(np.int16)
    for layout in (stereo, stereo.T):
        assert np.allclose(load_audio(layout, RATE), 0.25)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.array([0.0, np.nan, 0.0]), "NaN"),
        (np.array([], dtype=np.float32), "no samples"),
        (np.array(["a"]), "type"),
        (np.zeros((2, 3, 4)), "shape"),
        ({"array": TONE}, "sampling_rate"),
        ({"nothing": 1}, "expected array"),
        (42, "cannot read a int"),
        (b"", "empty"),
        (b"this is not audio at all", "cannot be decoded"),
    ],
)
def test_bad_sources_are_explained(source, message):
    with pytest.raises(AudioError, match=message):
        load_audio(source, RATE, name="field_07")


def test_errors_name_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.wav"):
        load_audio(tmp_path / "gone.wav", RATE)
    (tmp_path / "empty.wav").write_bytes(b"")
    with pytest.raises(AudioError, match=r"empty\.wav"):
        load_audio(tmp_path / "empty.wav", RATE)
    (tmp_path / "cut.flac").write_bytes(b"fLaC" + b"\0" * 20)
    with pytest.raises(AudioError, match=r"cut\.flac"):
        load_audio(tmp_path / "cut.flac", RATE)
    soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
    with pytest.raises(AudioError, match=r"none\.wav"):
        load_audio(tmp_path / "none.wav", RATE)


def test_a_broken_optional_library_counts_as_absent(monkeypatch):
    def broken(name):
        raise OSError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(audio.importlib, "import_module", broken)
    assert audio.optional_import("torchaudio") is None
    with pytest.raises(AudioError, match="cannot be decoded"):
        load_audio(b"not audio", RATE)


def test_torchcodec_reads_what_soundfile_cannot(monkeypatch):
    import torch

    class AudioDecoder:
        def __init__(self, raw):
            assert raw == b"m4a bytes"

        def get_all_samples(self):
            return types.SimpleNamespace(data=torch.from_numpy(np.stack([TONE, TONE])), sample_rate=RATE)

    module = types.ModuleType("torchcodec.decoders")
    module.AudioDecoder = AudioDecoder
    monkeypatch.setitem(sys.modules, "torchcodec", types.ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)
    assert np.array_equal(load_audio(b"m4a bytes", RATE), TONE)


def test_pcm_encoding_is_exact_and_clips():
    samples = np.array([0.0, 0.5, -1.0, 2.0], dtype=np.float32)
    assert load_audio(encode_audio(samples, RATE), RATE).tolist() == [0.0, 0.5, -1.0, 32767 / 32768]
