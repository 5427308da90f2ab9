"""Configuration of BEATs."""

from __future__ import annotations

from ...checks import check_choices
from ..auto import EncoderConfig


class BeatsConfig(EncoderConfig):
    """BEATs (Chen et al. 2023, arXiv 2212.09058; Microsoft unilm `beats/BEATs.py`, `backbone.py`). Patches of 16 mel frames
    and 16 bins, in time order with the 8 bands of a time next to each other. Positions are relative, so that clips may have
    any length.

    Args:
        front_end: preset name or dict of constants, see `hf_sed.models.front_ends`; stored complete.
        frames: what the encoder's frames are: "mean" (over the bands, 160 ms) or "tokens" (every token one after another, 8 in
            160 ms, as PretrainedSED reads them).
        deep_norm: residuals are weighed by (2 layers)^(1/4).
    """

    model_type = "hf-sed-beats"

    front_end: str | dict = "beats"
    frames: str = "mean"
    patch_size: int = 16
    patch_channels: int = 512
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    conv_positions: int = 128
    conv_position_groups: int = 16
    relative_buckets: int = 320
    relative_max_distance: int = 800
    deep_norm: bool = True
    layer_norm_eps: float = 1e-5
    hidden_dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    activation_dropout: float | int = 0.0

    def __post_init__(self, **kwargs):
        check_choices(self, {"frames": ("mean", "tokens")})
        super().__post_init__(**kwargs)

    @property
    def bands(self) -> int:
        """Patches of one time."""
        return self.front_end["num_mel_bins"] // self.patch_size

    @property
    def frame_hop(self) -> float:
        """Seconds between output frames."""
        hop = self.patch_size * self.front_end["hop_length"] / self.front_end["sampling_rate"]
        return hop if self.frames == "mean" else hop / self.bands

    def feature_frames(self, mel_frames):
        """Output frames of an input of ``mel_frames`` frames; works on ints and integer tensors."""
        return mel_frames // self.patch_size * (1 if self.frames == "mean" else self.bands)
