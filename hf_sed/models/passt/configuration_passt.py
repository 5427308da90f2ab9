"""Configuration of frame-level PaSST."""

from __future__ import annotations

from ..auto import EncoderConfig


class PasstConfig(EncoderConfig):
    """Frame-level PaSST (PaSST: Koutini et al. 2022, arXiv 2110.05069; PretrainedSED, arXiv 2409.09546,
    `models/frame_passt/fpasst.py:349-530`): three convolutions, patches of two frames and all bands, a transformer.

    Args:
        front_end: preset name or dict of constants, see `hf_sed.models.front_ends`; stored complete.
        conv_channels: of the three convolutions, the first and the last with stride 2.
        patch_frames: frames of a patch after the convolutions; patches overlap by all but one.
        max_frames: learnt time embeddings, one a frame (250 are 10 s).
        long_clips: of clips with more frames: "interpolate" (stretch the time embeddings) or "window" (read pieces of
            ``max_frames`` one after another; the published model cuts them off).
    """

    model_type = "hf-sed-passt"

    front_end: str | dict = "passt"
    conv_channels: list[int] | tuple[int, ...] = (16, 32, 64)
    patch_frames: int = 2
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_frames: int = 250
    long_clips: str = "window"
    qkv_bias: bool = True
    layer_norm_eps: float = 1e-6
    hidden_dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        self.conv_channels = list(self.conv_channels)
        if self.long_clips not in ("interpolate", "window"):
            raise ValueError(f"long_clips {self.long_clips!r}; expected 'interpolate' or 'window'.")
        super().__post_init__(**kwargs)

    @property
    def frame_hop(self) -> float:
        """Seconds between output frames."""
        return 4 * self.front_end["hop_length"] / self.front_end["sampling_rate"]

    def feature_frames(self, mel_frames):
        """Output frames of an input of ``mel_frames`` frames; works on ints and integer tensors."""
        return (mel_frames + 3) // 4
