"""Mel front ends as one module with named presets. They live in the model and run in float32 whatever its dtype.

The computation has two steps, since mixing happens between them (`method.md`, step 2): `forward` gives the *linear* mel
spectrogram of waveforms, `scale` the log-scaled, normalised features that an encoder reads. Each clip of a batch is
treated alone: samples beyond a clip's end, statistics of other clips and padding never enter its features.

| preset | used by | source of the constants |
|---|---|---|
| crnn | DESED/DCASE CRNN, ATST-SED's CNN branch | ATST-SED `ultra_sed_trainer.py:98-110,235-238`, `scaler.py:116-121` |
| atst | ATST-Frame | ATST-SED `datasets_atst_sed.py:34-46`, `stage2_trainer.py:29-41` |
| ast | AST | transformers `ASTFeatureExtractor` (Kaldi filter bank of zero-mean waveforms) |
| beats | BEATs | Microsoft BEATs `BEATs.py:118-131` (Kaldi filter bank of 16-bit-scaled waveforms) |
| passt | frame-level PaSST | PretrainedSED `fpasst_wrapper.py:9-32`, `preprocess.py:50-140` |
| frame_mobilenet | Frame-MobileNet | the same with a symmetric window, `models/frame_mn/` |
| yamnet | YAMNet | TensorFlow models `research/audioset/yamnet/features.py`, `params.py` |
| whisper | Whisper's encoder | transformers `WhisperFeatureExtractor` |
| waveform | wav2vec2, HuBERT, WavLM, data2vec-audio | transformers `Wav2Vec2FeatureExtractor` with `do_normalize` |

"waveform" is no mel spectrogram: `WaveformFrontEnd` passes samples through, and its `scale` gives each clip mean 0 and
variance 1. (The models of this family that were trained without it normalise over time in their first layer.)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace

import numpy as np
import torch
from torch import nn
from transformers.audio_utils import mel_filter_bank

from ..checks import check_choices
from .masks import length_mask


@dataclass(frozen=True)
class FrontEndSettings:
    """Constants of a mel front end. Rates and frequencies in Hz, lengths in samples."""

    sampling_rate: int = 16000
    win_length: int = 2048
    hop_length: int = 256
    n_fft: int = 2048
    window: str = "hamming"
    """hamming, hann or povey (Hann to the power 0.85)."""
    periodic: bool = False
    center: bool = True
    """Frame i is centred at sample i * hop_length, clip ends reflected; else it starts there (Kaldi's snip_edges)."""
    num_mel_bins: int = 128
    f_min: float = 0.0
    f_max: float = 8000.0
    mel_scale: str = "htk"
    """htk or slaney (triangles in Hz) or kaldi (triangles in mel)."""
    mel_norm: str | None = None
    """slaney (triangles of equal area) or None (of equal height)."""
    power: float = 1.0
    waveform_preemphasis: float = 0.0
    """x[t + 1] - c x[t] of the whole waveform, one sample shorter (``preemphasis`` is within each frame)."""
    drop_last_frame: bool = False
    """Leave out the last centred frame."""
    waveform_gain: float = 1.0
    remove_clip_mean: bool = False
    remove_dc_offset: bool = False
    preemphasis: float = 0.0
    log: str = "db"
    """db (20 log10 of an amplitude, 10 log10 of a power) or ln."""
    floor: float = 1e-5
    """Least value before the logarithm."""
    log_offset: float = 0.0
    """Added before the logarithm."""
    top_db: float | None = None
    """Largest distance in dB below the clip's loudest value."""
    log_range: tuple[float, float] | None = (-50.0, 80.0)
    """Clamp of the logarithm."""
    scaler: str = "minmax"
    """minmax (each clip to [0, 1]) or affine ((x - mean) / scale)."""
    mean: float = 0.0
    scale: float = 1.0


FRONT_END_PRESETS: dict[str, FrontEndSettings] = {
    "crnn": FrontEndSettings(),
    "atst": FrontEndSettings(
        win_length=1024, hop_length=160, n_fft=1024, window="hann", periodic=True, num_mel_bins=64, f_min=60.0, f_max=7800.0,
        power=2.0, floor=1e-10, top_db=80.0, scaler="affine", mean=(50.6842 - 79.6482) / 2, scale=(50.6842 + 79.6482) / 2,
    ),
    "ast": FrontEndSettings(
        win_length=400, hop_length=160, n_fft=512, window="hann", center=False, f_min=20.0, mel_scale="kaldi", power=2.0,
        remove_clip_mean=True, remove_dc_offset=True, preemphasis=0.97, log="ln", floor=1.1920928955078125e-07, log_range=None,
        scaler="affine", mean=-4.2677393, scale=2 * 4.5689974,
    ),
    "beats": FrontEndSettings(
        win_length=400, hop_length=160, n_fft=512, window="povey", center=False, f_min=20.0, mel_scale="kaldi", power=2.0,
        waveform_gain=32768.0, remove_dc_offset=True, preemphasis=0.97, log="ln", floor=1.1920928955078125e-07, log_range=None,
        scaler="affine", mean=15.41663, scale=2 * 6.55582,
    ),
    "passt": FrontEndSettings(
        win_length=400, hop_length=160, n_fft=512, window="hann", periodic=True, f_max=7000.0, mel_scale="kaldi", power=2.0,
        waveform_preemphasis=0.97, log="ln", floor=1e-7, log_range=None, scaler="affine", mean=-4.5, scale=5.0,
    ),
    "yamnet": FrontEndSettings(
        win_length=400, hop_length=160, n_fft=512, window="hann", periodic=True, center=False, num_mel_bins=64, f_min=125.0, mel_scale="kaldi",
        f_max=7500.0, log="ln", floor=0.0, log_offset=0.001, log_range=None, scaler="affine",
    ),
    "whisper": FrontEndSettings(
        win_length=400, hop_length=160, n_fft=400, window="hann", periodic=True, num_mel_bins=80, mel_scale="slaney",
        mel_norm="slaney", power=2.0, drop_last_frame=True, floor=1e-10, top_db=80.0, log_range=None, scaler="affine",
        mean=-40.0, scale=40.0,
    ),
}  # fmt: skip
FRONT_END_PRESETS["frame_mobilenet"] = replace(FRONT_END_PRESETS["passt"], periodic=False)


def front_end_settings(value: str | dict | FrontEndSettings) -> FrontEndSettings:
    """Settings from a preset's name or a dict of them, as configs hold it. Raises ValueError for an unknown name."""
    if isinstance(value, FrontEndSettings):
        return value
    if isinstance(value, str):
        if value not in FRONT_END_PRESETS:
            raise ValueError(f"front_end {value!r}: unknown preset; the presets are {', '.join(FRONT_END_PRESETS)}.")
        return FRONT_END_PRESETS[value]
    unknown = set(value) - {f.name for f in fields(FrontEndSettings)}
    if unknown:
        raise ValueError(f"front_end: unknown setting {', '.join(sorted(unknown))}.")
    values = dict(value)
    if values.get("log_range") is not None:
        values["log_range"] = tuple(values["log_range"])
    settings = FrontEndSettings(**values)
    choices = {
        "window": ("hamming", "hann", "povey"),
        "mel_scale": ("htk", "slaney", "kaldi"),
        "mel_norm": ("slaney", None),
        "log": ("db", "ln"),
        "scaler": ("minmax", "affine"),
    }
    check_choices(settings, choices, "front_end: ")
    return settings


def front_end_dict(value: str | dict | FrontEndSettings) -> dict:
    """The settings as the JSON-ready dict that a config stores: complete, so that a preset can never change under a model."""
    values = asdict(front_end_settings(value))
    values["log_range"] = list(values["log_range"]) if values["log_range"] is not None else None
    return values


def mel_frames(settings: FrontEndSettings, num_samples):
    """Frames of a clip of ``num_samples`` samples; works on ints and integer tensors."""
    num_samples = num_samples - int(settings.waveform_preemphasis > 0)
    if settings.center:
        return num_samples // settings.hop_length + int(not settings.drop_last_frame)
    return (num_samples - settings.win_length) // settings.hop_length + 1


def analysis_window(settings: FrontEndSettings) -> torch.Tensor:
    """The analysis window (``win_length``,), float32."""
    if settings.window == "hamming":
        return torch.hamming_window(settings.win_length, periodic=settings.periodic)
    window = torch.hann_window(settings.win_length, periodic=settings.periodic)
    return window**0.85 if settings.window == "povey" else window


def mel_filters(settings: FrontEndSettings) -> torch.Tensor:
    """The filter bank (``n_fft`` // 2 + 1, mel bins), float32."""
    kaldi = settings.mel_scale == "kaldi"
    # Kaldi gives no weight to the Nyquist bin, which its filter bank leaves out.
    bins = settings.n_fft // 2 if kaldi else settings.n_fft // 2 + 1
    nyquist = settings.sampling_rate / 2
    if kaldi:
        frequencies = np.arange(bins) * settings.sampling_rate / settings.n_fft
        mel = lambda f: 1127.0 * np.log(1.0 + np.asarray(f, dtype=np.float64) / 700.0)  # noqa: E731
        edges = np.linspace(mel(settings.f_min), mel(min(settings.f_max, nyquist)), settings.num_mel_bins + 2)
        points = mel(frequencies)[:, None]
        up = (points - edges[:-2]) / (edges[1:-1] - edges[:-2])
        down = (edges[2:] - points) / (edges[2:] - edges[1:-1])
        bank = np.concatenate([np.maximum(0.0, np.minimum(up, down)), np.zeros((1, settings.num_mel_bins))])
    else:
        bank = mel_filter_bank(
            bins,
            settings.num_mel_bins,
            settings.f_min,
            settings.f_max,
            settings.sampling_rate,
            norm=settings.mel_norm,
            mel_scale=settings.mel_scale,
        )
    return torch.from_numpy(np.asarray(bank)).to(torch.float32)


class MelFrontEnd(nn.Module):
    """Waveforms to linear mel spectrograms (`forward`), and those to normalised log-mel features (`scale`)."""

    def __init__(self, settings: str | dict | FrontEndSettings):
        super().__init__()
        self.settings = front_end_settings(settings)
        # Persistent: transformers fills non-persistent buffers with garbage in from_pretrained (transformers #48892).
        self.register_buffer("window", analysis_window(self.settings))
        self.register_buffer("mel_filters", mel_filters(self.settings))

    def num_frames(self, num_samples):
        """Frames of a clip of ``num_samples`` samples; works on ints and integer tensors."""
        return mel_frames(self.settings, num_samples)

    def forward(self, waveforms: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Linear mel spectrogram (B, frames, mel bins) in float32 of waveforms (B, samples).

        ``lengths`` (B,): samples of each clip before its padding. Frames beyond a clip's own are zero. Raises
        ValueError for clips shorter than one frame.
        """
        s = self.settings
        with torch.autocast(device_type=waveforms.device.type, enabled=False):
            x = waveforms.float() * s.waveform_gain
            samples = x.shape[1]
            if self.num_frames(samples) < 1 or samples < 2:
                raise ValueError(
                    f"a clip of {samples} samples is shorter than one frame of the front end ({s.win_length} samples)."
                )
            if lengths is not None:
                x = x * length_mask(lengths, samples)
            own = lengths
            if s.waveform_preemphasis:
                x = x[:, 1:] - s.waveform_preemphasis * x[:, :-1]
                own = None if lengths is None else lengths - 1
            if s.remove_clip_mean:
                x = x - x.sum(1, keepdim=True) / (samples if lengths is None else lengths[:, None])
            frames = self._frames(x, own)
            if s.remove_dc_offset:
                frames = frames - frames.mean(-1, keepdim=True)
            if s.preemphasis:
                previous = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
                frames = frames - s.preemphasis * previous
            frames = frames * self.window
            if s.center and s.n_fft > s.win_length:  # in the middle, as torch.stft has them: the same rounding
                left = (s.n_fft - s.win_length) // 2
                frames = nn.functional.pad(frames, (left, s.n_fft - s.win_length - left))
            spectrum = torch.fft.rfft(frames, n=s.n_fft)
            spectrum = torch.view_as_real(spectrum).square().sum(-1) if s.power == 2.0 else spectrum.abs() ** s.power
            mel = (spectrum @ self.mel_filters)[:, : self.num_frames(samples)]
            if lengths is not None:
                mel = mel * self._frame_mask(mel, lengths)
        return mel

    def scale(self, mel: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Normalised log-mel features (B, frames, mel bins) of a linear mel spectrogram.

        ``frame_mask`` (B, frames), true for a clip's own frames: statistics are taken over those, others become 0.
        """
        s = self.settings
        with torch.autocast(device_type=mel.device.type, enabled=False):
            x = mel.float().clamp(min=s.floor) + s.log_offset
            x = x.log10() * (20.0 if s.power == 1.0 else 10.0) if s.log == "db" else x.log()
            invalid = None if frame_mask is None else ~frame_mask[..., None]
            if s.top_db is not None:
                top = (x if invalid is None else x.masked_fill(invalid, -torch.inf)).amax(dim=(1, 2), keepdim=True)
                x = torch.maximum(x, top - s.top_db)
            if s.log_range is not None:
                x = x.clamp(*s.log_range)
            if s.scaler == "minmax":
                low = (x if invalid is None else x.masked_fill(invalid, torch.inf)).amin(dim=(1, 2), keepdim=True)
                high = (x if invalid is None else x.masked_fill(invalid, -torch.inf)).amax(dim=(1, 2), keepdim=True)
                x = (x - low) / (high - low + 1e-8)
            else:
                x = (x - s.mean) / s.scale
            return x if invalid is None else x.masked_fill(invalid, 0.0)

    def frame_mask(self, lengths: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Boolean (B, ``num_frames``): true for the frames of clips of ``lengths`` samples."""
        return length_mask(self.num_frames(lengths), num_frames)

    def _frame_mask(self, mel: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return self.frame_mask(lengths, mel.shape[1])[..., None]

    def _frames(self, x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        s = self.settings
        if s.center:
            # Reflect each clip at its own end, so that padding never enters a valid frame.
            pad, samples = s.n_fft // 2, x.shape[1]
            position = torch.arange(-pad, samples + pad, device=x.device)
            if lengths is None:
                x = x[:, _reflect(position, samples)]
            else:
                index = _reflect(position[None], lengths[:, None].clamp(min=2))
                x = x.gather(1, index) * (position < lengths[:, None] + pad)
            offset = (s.n_fft - s.win_length) // 2
            if offset:
                x = x[:, offset : x.shape[1] - offset]
        return x.unfold(1, s.win_length, s.hop_length)


class WaveformFrontEnd(nn.Module):
    """For encoders that read waveforms: samples are the frames."""

    def __init__(self, sampling_rate: int = 16000):
        super().__init__()
        self.sampling_rate = sampling_rate

    def num_frames(self, num_samples):
        return num_samples

    def forward(self, waveforms: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Waveforms (B, samples) in float32; samples beyond a clip's own are zero."""
        x = waveforms.float()
        return x if lengths is None else x * self.frame_mask(lengths, x.shape[1])

    def scale(self, waveforms: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Each clip with mean 0 and variance 1 over its own samples, of which ``mask`` (B, samples) is true."""
        x = waveforms.float()
        valid = torch.ones_like(x) if mask is None else mask.float()
        count = valid.sum(1, keepdim=True)
        x = (x - (x * valid).sum(1, keepdim=True) / count) * valid
        return x / ((x * x).sum(1, keepdim=True) / count + 1e-7).sqrt()

    frame_mask = MelFrontEnd.frame_mask


def build_front_end(settings: str | dict | FrontEndSettings) -> MelFrontEnd | WaveformFrontEnd:
    """The front end that a config names: "waveform", or the settings of a mel front end."""
    return WaveformFrontEnd() if settings == "waveform" else MelFrontEnd(settings)


def _reflect(position: torch.Tensor, length) -> torch.Tensor:
    """Index into a clip of ``length`` samples that continues it by reflection without repeating the border."""
    period = 2 * (length - 1)
    position = position.abs() % period
    return torch.where(position < length, position, period - position)
