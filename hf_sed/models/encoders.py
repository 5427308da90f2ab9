"""What the detector must know of an encoder: its front end, how it is called, and its frames.

An encoder of this package says so itself: its config has `front_end`, `hidden_size`, `frame_hop` (seconds),
`feature_frames(front-end frames)`, and its model maps (B, front-end frames, …) to (B, frames, hidden size). The encoders of
transformers are described here, one class a family. Whatever an encoder's own grid is, the detector sees frames in time
order, and `to_frames` brings them to another rate where its config asks for one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from .front_ends import front_end_dict, front_end_settings, mel_frames


class Encoder:
    """View of an encoder's config: of one of this package's, and base of the others.

    ``front_end``: complete settings, or "waveform"; ``hidden_size``; ``frame_hop``: seconds.
    """

    def __init__(self, config: PreTrainedConfig):
        self.config = config

    @property
    def front_end(self) -> dict | str:
        return self.config.front_end

    @property
    def sampling_rate(self) -> int:
        return 16000 if self.front_end == "waveform" else self.front_end["sampling_rate"]

    @property
    def hidden_size(self) -> int:
        return self.config.hidden_size

    @property
    def frame_hop(self) -> float:
        return self.config.frame_hop

    def feature_frames(self, frames):
        """Encoder frames of ``frames`` front-end frames (samples, for "waveform"); works on ints and tensors."""
        return self.config.feature_frames(frames)

    def num_frames(self, num_samples):
        """Encoder frames of a clip of ``num_samples`` samples; works on ints and integer tensors."""
        if self.front_end == "waveform":
            return self.feature_frames(num_samples)
        return self.feature_frames(mel_frames(front_end_settings(self.front_end), num_samples))

    def encode(self, model: nn.Module, features: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Frames (B, T, hidden size) of scaled features (B, front-end frames, …)."""
        return model(features, attention_mask=mask).last_hidden_state


class SpeechEncoder(Encoder):
    """wav2vec2, HuBERT, WavLM, data2vec-audio, UniSpeech-SAT: waveforms in, a strided convolution, 20 ms a frame.

    Where `feat_extract_norm` is "group" the first layer normalises over the whole padded clip, so that padding does
    change the valid frames; with "layer" it does not. In data2vec-audio the stacked position convolutions let what lies
    beyond a clip's end into its last frames.
    """

    front_end = "waveform"

    @property
    def frame_hop(self) -> float:
        hop = 1
        for stride in self.config.conv_stride:
            hop *= stride
        return hop / 16000

    def feature_frames(self, frames):
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride, strict=True):
            frames = (frames - kernel) // stride + 1
        return frames

    def encode(self, model, features, mask):
        least = _least(self.feature_frames, features.shape[1])
        features = nn.functional.pad(features, (0, max(least - features.shape[1], 0)))
        return model(features, attention_mask=None if mask is None else mask.long()).last_hidden_state


class AstEncoder(Encoder):
    """AST: 16 x 16 patches of a Kaldi filter bank, frequency-major, after two tokens; a frame is the mean of the patches
    of its time.

    The position embeddings are those of `max_length` mel frames. Shorter clips are padded to that with the scaled features'
    value 0, as `ASTFeatureExtractor` pads; longer ones are read in windows of it, next to each other. Attention sees the
    padding, as in the published model: a clip's frames do not depend on how far its batch pads it, since every clip is
    padded to `max_length`.
    """

    @property
    def front_end(self) -> dict:
        return {**front_end_dict("ast"), "num_mel_bins": self.config.num_mel_bins}

    @property
    def frame_hop(self) -> float:
        return self.config.time_stride * self.front_end["hop_length"] / self.front_end["sampling_rate"]

    @property
    def _grid(self) -> tuple[int, int]:
        c = self.config
        return (
            (c.num_mel_bins - c.patch_size) // c.frequency_stride + 1,
            (c.max_length - c.patch_size) // c.time_stride + 1,
        )

    def feature_frames(self, frames):
        # A window's last patch reaches to its end; the frames of the windows follow one another.
        window, per_window = self._grid[1] * self.config.time_stride, self._grid[1]
        rest = (frames % window) // self.config.time_stride
        return at_least_one(frames // window * per_window + rest)

    def encode(self, model, features, mask):
        bands, per_window = self._grid
        size, step = self.config.max_length, per_window * self.config.time_stride
        if mask is not None:
            features = features * mask[..., None]
        wanted = self.feature_frames(features.shape[1])
        windows = -(-wanted // per_window)
        features = nn.functional.pad(features, (0, 0, 0, (windows - 1) * step + size - features.shape[1]))
        parts = features.unfold(1, size, step).transpose(2, 3)  # (B, windows, size, bins)
        tokens = model(parts.flatten(0, 1)).last_hidden_state[:, 2:]
        frames = tokens.unflatten(1, (bands, per_window)).mean(1)
        return frames.unflatten(0, parts.shape[:2]).flatten(1, 2)[:, :wanted]


class WhisperEncoder(Encoder):
    """Whisper's encoder: log-mel features in, 20 ms a frame.

    It reads exactly `max_source_positions` frames (30 s): shorter clips are padded with silence, as in the published
    system, and attention sees it; longer ones are read in windows of it.
    """

    @property
    def front_end(self) -> dict:
        return {**front_end_dict("whisper"), "num_mel_bins": self.config.num_mel_bins}

    @property
    def hidden_size(self) -> int:
        return self.config.d_model

    @property
    def frame_hop(self) -> float:
        return 2 * self.front_end["hop_length"] / self.front_end["sampling_rate"]

    def feature_frames(self, frames):
        return at_least_one(frames // 2)

    def encode(self, model, features, mask):
        size = 2 * self.config.max_source_positions
        wanted = self.feature_frames(features.shape[1])
        # The scaled value of no sound: 80 dB below the loudest, at least that of the least value.
        silence = features.amax((1, 2), keepdim=True) - 2.0
        silence = silence.clamp(min=-1.5)
        if mask is not None:
            features = torch.where(mask[..., None], features, silence)
        missing = -features.shape[1] % size
        padding = silence.expand(-1, missing, features.shape[2])
        parts = torch.cat([features, padding], dim=1).unflatten(1, (-1, size))
        encoded = model(parts.flatten(0, 1).transpose(1, 2)).last_hidden_state
        return encoded.unflatten(0, parts.shape[:2]).flatten(1, 2)[:, :wanted]


FAMILIES: dict[str, type[Encoder]] = {
    "audio-spectrogram-transformer": AstEncoder,
    "data2vec-audio": SpeechEncoder,
    "hubert": SpeechEncoder,
    "unispeech-sat": SpeechEncoder,
    "wav2vec2": SpeechEncoder,
    "wavlm": SpeechEncoder,
    "whisper": WhisperEncoder,
}


def encoder_of(config: PreTrainedConfig) -> Encoder:
    """The view of an encoder's config. Raises ValueError for an encoder that the detector cannot be built on."""
    if hasattr(config, "front_end"):
        return Encoder(config)
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"backbone_config: no front end is known for {type(config).__name__} (model_type {config.model_type!r}); the "
            f"encoders of transformers that are known are {', '.join(FAMILIES)}."
        )
    return FAMILIES[config.model_type](config)


FOR_DETECTION = {"apply_spec_augment": False, "layerdrop": 0.0, "encoder_layerdrop": 0.0}
"""Settings that `from_pretrained` gives an encoder that has them: masking and skipped layers of its own would disturb
student and teacher differently."""


def build_encoder(config: PreTrainedConfig) -> nn.Module:
    """The encoder with fresh weights."""
    from transformers import AutoModel

    if config.model_type == "whisper":
        from transformers.models.whisper.modeling_whisper import WhisperEncoder as Model

        return without_unused(Model._from_config(config))
    return without_unused(AutoModel.from_config(config))


def without_unused(encoder: nn.Module) -> nn.Module:
    """The encoder with the parameters frozen that only masked pre-training uses: they would never get a gradient."""
    for name, parameter in encoder.named_parameters():
        if name.rsplit(".", 1)[-1] in ("mask_embedding", "masked_spec_embed"):
            parameter.requires_grad_(False)
    return encoder


def to_frames(x: torch.Tensor, frames: Any, lengths: torch.Tensor | None = None, own: torch.Tensor | None = None):
    """Bring encoder frames (B, N, D) to another number of frames (B, ``frames``, D): the means of fewer (as
    `adaptive_avg_pool1d`), or linear interpolation to more (as `interpolate` without aligned corners).

    ``lengths`` (B,): each clip's own encoder frames, and ``own`` (B,) the frames it is to have; a padded clip then gets what
    it would get alone.
    """
    size = x.shape[1]
    if lengths is None:
        if frames == size:
            return x
        y = x.transpose(1, 2)
        if frames < size:
            return nn.functional.adaptive_avg_pool1d(y, frames).transpose(1, 2)
        return nn.functional.interpolate(y, size=frames, mode="linear").transpose(1, 2)
    n, m = lengths[:, None], own[:, None].clamp(min=1)
    i = torch.arange(frames, device=x.device)[None]

    def at(index):
        index = index.clamp(0, size - 1)
        return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))

    first, stop = torch.minimum(i * n // m, n - 1), torch.minimum(-(-(i + 1) * n // m), n)
    total = nn.functional.pad(x.float().cumsum(1), (0, 0, 1, 0))
    sums = [total.gather(1, index[..., None].expand(-1, -1, x.shape[2])) for index in (first, stop)]
    means = ((sums[1] - sums[0]) / (stop - first).clamp(min=1)[..., None]).to(x.dtype)
    position = (((i + 0.5) * n / m) - 0.5).clamp(min=0)
    low = position.floor().long()
    share = (position - low)[..., None].to(x.dtype)
    low, high = torch.minimum(low, n - 1), torch.minimum(low + 1, n - 1)
    return torch.where((m < n)[..., None], means, (1 - share) * at(low) + share * at(high))


def at_least_one(frames):
    return frames.clamp(min=1) if isinstance(frames, torch.Tensor) else max(frames, 1)


def _least(feature_frames, size: int) -> int:
    """Least input that gives a frame, searched upwards from ``size``."""
    while feature_frames(size) < 1:
        size += 1
    return size
