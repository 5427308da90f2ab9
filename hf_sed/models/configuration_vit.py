"""What the configs of the encoders made of `hf_sed.models.vit` share."""

from __future__ import annotations

from ..checks import check_choices
from .auto import EncoderConfig


class VitConfig(EncoderConfig):
    """Base of the configs of ATST-Frame and frame-level PaSST: the transformer's size (the base one), and its positions.

    Args:
        max_frames: learnt position embeddings, one a frame (250 are 10 s).
        long_clips: of clips with more frames: "interpolate" (stretch the position embeddings) or "window" (read pieces of
            ``max_frames`` one after another).
        qkv_bias: whether query, key and value have a bias.
    """

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
        check_choices(self, {"long_clips": ("interpolate", "window")})
        super().__post_init__(**kwargs)
