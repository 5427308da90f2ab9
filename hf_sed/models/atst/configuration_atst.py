"""Configuration of ATST-Frame."""

from __future__ import annotations

from ..auto import EncoderConfig


class AtstConfig(EncoderConfig):
    """ATST-Frame (Li et al. 2023, arXiv 2306.04186; ATST-SED `audio_transformer.py:55-249`). The defaults are the base size:
    patches of 4 mel frames and all 64 bins, 40 ms a frame, 12 layers of 768.

    Args:
        front_end: preset name or dict of constants, see `hf_sed.models.front_ends`; stored complete.
        patch_frames: mel frames of a patch.
        max_frames: learnt position embeddings, one a frame (250 are 10 s).
        long_clips: of clips with more frames: "interpolate" (stretch the position embeddings) or "window" (read pieces of
            ``max_frames`` one after another, as audiossl's `embedding.py` does).
        qkv_bias: whether query, key and value have a bias; the published models' have none.
    """

    model_type = "hf-sed-atst"

    front_end: str | dict = "atst"
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    patch_frames: int = 4
    max_frames: int = 250
    long_clips: str = "window"
    qkv_bias: bool = False
    layer_norm_eps: float = 1e-6
    hidden_dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        if self.long_clips not in ("interpolate", "window"):
            raise ValueError(f"long_clips {self.long_clips!r}; expected 'interpolate' or 'window'.")
        super().__post_init__(**kwargs)

    @property
    def frame_hop(self) -> float:
        """Seconds between output frames."""
        return self.patch_frames * self.front_end["hop_length"] / self.front_end["sampling_rate"]

    def feature_frames(self, mel_frames):
        """Output frames of an input of ``mel_frames`` frames; works on ints and integer tensors."""
        return mel_frames // self.patch_frames
