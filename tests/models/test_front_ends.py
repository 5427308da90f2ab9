import sys

import numpy as np
import pytest
import torch
from transformers.audio_utils import spectrogram, window_function

from hf_sed.audio import optional_import
from hf_sed.models.front_ends import FRONT_END_PRESETS, MelFrontEnd, build_front_end, front_end_dict, front_end_settings

torchaudio = optional_import("torchaudio")
needs_torchaudio = pytest.mark.skipif(
    torchaudio is None, reason="torchaudio does not import here (PyPI's is a CUDA build)"
)


@pytest.fixture(scope="module")
def waveform():
    t = torch.arange(48000) / 16000
    sweep = torch.sin(2 * torch.pi * (200 + 900 * t) * t)
    return (0.3 * sweep + 0.05 * torch.randn(48000, generator=torch.Generator().manual_seed(0)))[None]


@pytest.mark.parametrize("preset", [*FRONT_END_PRESETS, "waveform"])
def test_padding_changes_no_valid_frame(preset, waveform):
    front_end = build_front_end(preset)
    short = waveform[:, :30001]
    alone = front_end.scale(front_end(short))
    padded = torch.cat(
        [torch.nn.functional.pad(short, (0, 17999), value=3.0), waveform]
    )  # what lies in the padding is ignored
    lengths = torch.tensor([30001, 48000])
    mel = front_end(padded, lengths)
    mask = front_end.frame_mask(lengths, mel.shape[1])
    together = front_end.scale(mel, mask)
    frames = front_end.num_frames(30001)
    assert mask.sum(1).tolist() == [frames, front_end.num_frames(48000)]
    assert torch.allclose(together[0, :frames], alone[0], atol=2e-5)
    assert not together[0, frames:].any()
    assert torch.allclose(together[1], front_end.scale(front_end(waveform))[0], atol=2e-5)


def test_crnn_front_end_agrees_with_transformers(waveform):
    s = FRONT_END_PRESETS["crnn"]
    reference = spectrogram(
        waveform[0].double().numpy(),
        window_function(2048, "hamming", periodic=False),
        frame_length=2048,
        hop_length=256,
        power=1.0,
        mel_filters=MelFrontEnd(s).mel_filters.numpy(),
        mel_floor=0.0,
    )
    ours = MelFrontEnd(s)(waveform)[0].T.numpy()
    assert ours.shape == reference.shape == (128, 188)
    assert np.abs(ours - reference).max() < 1e-4 * reference.max()


@needs_torchaudio
def test_crnn_front_end_agrees_with_torchaudio(waveform):
    transform = torchaudio.transforms.MelSpectrogram(
        16000, n_fft=2048, win_length=2048, hop_length=256, f_min=0, f_max=8000, n_mels=128, power=1,
        window_fn=torch.hamming_window, wkwargs={"periodic": False},
    )  # fmt: skip
    assert torch.allclose(MelFrontEnd("crnn")(waveform).transpose(1, 2), transform(waveform), atol=1e-4, rtol=1e-4)


@needs_torchaudio
@pytest.mark.parametrize(("preset", "window", "gain"), [("ast", "hanning", 1.0), ("beats", "povey", 32768.0)])
def test_kaldi_front_ends_agree_with_torchaudio(preset, window, gain, waveform):
    s = FRONT_END_PRESETS[preset]
    x = waveform * gain
    if s.remove_clip_mean:
        x = x - x.mean()
    reference = torchaudio.compliance.kaldi.fbank(
        x, num_mel_bins=128, sample_frequency=16000, window_type=window, dither=0.0, htk_compat=True, use_energy=False
    )
    front_end = MelFrontEnd(s)
    assert torch.allclose(front_end.scale(front_end(waveform))[0], (reference - s.mean) / s.scale, atol=1e-4)


@pytest.mark.parametrize(
    ("preset", "file", "key"),
    [("crnn", "atstsed", "cnn_mel"), ("atst", "atstsed", "atst_mel"), ("beats", "beats", "mel")],
)
def test_features_meet_the_published_systems(preset, file, key, shared, monkeypatch):
    monkeypatch.syspath_prepend(str(shared / "parity"))
    import rules

    reference = np.load(shared / "parity" / f"{file}.npz")[key]
    front_end = MelFrontEnd(preset)
    for number, seed in enumerate((1, 2)):
        clip = torch.as_tensor(np.asarray(rules.clip(seed), dtype=np.float32)).reshape(1, -1)
        ours = front_end.scale(front_end(clip))[0].T[::4, ::10].numpy()
        assert np.abs(ours - reference[number].reshape(ours.shape)).max() < 1e-4
    sys.modules.pop("rules")


def test_clips_of_a_batch_do_not_touch_each_other(waveform):
    for preset in FRONT_END_PRESETS:
        front_end = MelFrontEnd(preset)
        batch = torch.cat([waveform, 0.01 * waveform.flip(1)])
        alone = torch.cat([front_end.scale(front_end(x[None])) for x in batch])
        assert torch.allclose(front_end.scale(front_end(batch)), alone, atol=1e-5)


def test_digital_silence_is_finite():
    for preset in FRONT_END_PRESETS:
        front_end = MelFrontEnd(preset)
        assert torch.isfinite(front_end.scale(front_end(torch.zeros(1, 16000)))).all()


def test_settings_are_stored_complete_and_checked():
    stored = front_end_dict("crnn")
    assert front_end_settings(stored) == FRONT_END_PRESETS["crnn"]
    with pytest.raises(ValueError, match="unknown preset"):
        front_end_settings("mfcc")
    with pytest.raises(ValueError, match="unknown setting hop"):
        front_end_settings({"hop": 1})
    with pytest.raises(ValueError, match="window 'kaiser'"):
        front_end_settings({"window": "kaiser"})
    with pytest.raises(ValueError, match="shorter than one frame"):
        MelFrontEnd("ast")(torch.zeros(1, 300))


def test_very_short_clips_are_reflected():
    front_end = MelFrontEnd("crnn")
    assert front_end(torch.randn(1, 500)).shape == (1, 2, 128)
