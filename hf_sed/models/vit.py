"""The pre-norm transformer block that ATST-Frame and frame-level PaSST share (ViT, Dosovitskiy et al., arXiv 2010.11929)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .initialization import EncoderPreTrainedModel


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention in plain operations, in the form of transformers' attention interface: (B, heads, N, d) in, (B, N, heads,
    d) and the weights out; ``attention_mask`` is added."""
    weights = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = weights.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    out = nn.functional.dropout(weights, p=dropout, training=module.training) @ value
    return out.transpose(1, 2).contiguous(), weights


def attend(
    module: nn.Module,
    config,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float,
) -> torch.Tensor:
    """(B, N, heads · d) from (B, heads, N, d) by the attention implementation that the config names."""
    function = ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager_attention)
    dropout = config.attention_dropout if module.training else 0.0
    out, _ = function(module, query, key, value, mask, dropout=dropout, scaling=scaling)
    return out.flatten(2)


def additive_mask(valid: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """Attention mask (B, 1, 1, N) that keeps every query from the tokens of which ``valid`` (B, N) is false."""
    if valid is None:
        return None
    mask = torch.zeros(valid.shape, dtype=dtype, device=valid.device)
    return mask.masked_fill(~valid, torch.finfo(dtype).min)[:, None, None, :]


class VitAttention(nn.Module):
    is_causal = False

    def __init__(self, config):
        super().__init__()
        size = config.hidden_size
        self.config, self.head_dim = config, size // config.num_attention_heads
        self.q_proj = nn.Linear(size, size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(size, size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(size, size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(size, size)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        query, key, value = (
            proj(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.o_proj(attend(self, self.config, query, key, value, mask, self.head_dim**-0.5))


class VitLayer(GradientCheckpointingLayer):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, config):
        super().__init__()
        size, eps = config.hidden_size, config.layer_norm_eps
        self.norm1, self.norm2 = nn.LayerNorm(size, eps=eps), nn.LayerNorm(size, eps=eps)
        self.attention = VitAttention(config)
        self.fc1, self.fc2 = nn.Linear(size, config.intermediate_size), nn.Linear(config.intermediate_size, size)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        x = x + self.dropout(self.attention(self.norm1(x), mask))
        return x + self.dropout(self.fc2(self.dropout(nn.functional.gelu(self.fc1(self.norm2(x))))))


class VitPreTrainedModel(EncoderPreTrainedModel):
    """Base of the encoders made of [`VitLayer`]."""

    supports_gradient_checkpointing = True
    _no_split_modules = ["VitLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True


def vit_layer_tensors(state, theirs: str, ours: str) -> dict[str, torch.Tensor]:
    """One block of a timm-style checkpoint (`norm1`, `attn.qkv`, `attn.proj`, `norm2`, `mlp.fc1`, `mlp.fc2`) under our
    names; the joint projection is split."""
    out = {}
    for kind in ("weight", "bias"):
        if f"{theirs}.attn.qkv.{kind}" in state:
            for name, part in zip("qkv", state[f"{theirs}.attn.qkv.{kind}"].chunk(3), strict=True):
                out[f"{ours}.attention.{name}_proj.{kind}"] = part.clone()
        for a, b in (
            ("norm1", "norm1"),
            ("attn.proj", "attention.o_proj"),
            ("norm2", "norm2"),
            ("mlp.fc1", "fc1"),
            ("mlp.fc2", "fc2"),
        ):
            out[f"{ours}.{b}.{kind}"] = state[f"{theirs}.{a}.{kind}"]
    return out


def in_windows(
    x: torch.Tensor, valid: torch.Tensor | None, size: int, how: str
) -> tuple[torch.Tensor, torch.Tensor | None, Callable[[torch.Tensor], torch.Tensor]]:
    """Embeddings (B, T, D) in windows of ``size`` frames (B · windows, size, D) where there are more and ``how`` is "window"; their
    valid frames; and the function that puts what is computed of them together again."""
    batch, frames = x.shape[:2]
    if frames <= size or how != "window":
        return x, valid, lambda h: h
    windows = -(-frames // size)
    missing = windows * size - frames
    if missing and valid is None:
        valid = torch.ones(batch, frames, dtype=torch.bool, device=x.device)
    if valid is not None:
        valid = nn.functional.pad(valid, (0, missing)).unflatten(1, (windows, size)).flatten(0, 1)
    x = nn.functional.pad(x, (0, 0, 0, missing)).unflatten(1, (windows, size)).flatten(0, 1)
    return x, valid, lambda h: h.unflatten(0, (batch, windows)).flatten(1, 2)[:, :frames]


def position_window(positions: torch.Tensor, frames: int, valid: torch.Tensor | None = None) -> torch.Tensor:
    """Position embeddings (1 or B, ``frames``, D) from learnt ones (1, N, D): the first ones, or all of them linearly
    interpolated to more frames. ``valid`` (B, frames): a clip's own frames, by whose number its embeddings are stretched."""
    known = positions.shape[1]
    if frames <= known:
        return positions[:, :frames]
    lengths = positions.new_full((1, 1), frames) if valid is None else valid.sum(1, keepdim=True)
    ratio = known / lengths.clamp(min=known)
    at = ((torch.arange(frames, device=positions.device) + 0.5) * ratio - 0.5).clamp(0, known - 1)
    low = at.floor().long()
    share = (at - low)[..., None].to(positions.dtype)
    return (1 - share) * positions[0, low] + share * positions[0, (low + 1).clamp(max=known - 1)]
