"""BEATs: log-mel features in, one vector a frame out."""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple

from ..initialization import EncoderPreTrainedModel
from ..masks import length_mask
from ..vit import additive_mask, attend
from .configuration_beats import BeatsConfig


def relative_buckets(size: int, buckets: int, max_distance: int, device=None) -> torch.Tensor:
    """Bucket (N, N) of the distance from each query to each key: half of the buckets for keys that come later; within a
    half the first half are exact distances, the others grow with their logarithm up to ``max_distance`` (T5, Raffel et al.
    2020, arXiv 1910.10683)."""
    position = torch.arange(size, device=device)
    distance = position[None] - position[:, None]
    half = buckets // 2
    exact = half // 2
    far = distance.abs().clamp(min=1).float() / exact
    grown = exact + (far.log() / math.log(max_distance / exact) * (half - exact)).long()
    bucket = torch.where(distance.abs() < exact, distance.abs(), grown.clamp(max=half - 1))
    return bucket + half * (distance > 0)


class BeatsAttention(nn.Module):
    """Self-attention whose relative position bias is gated by the query (WavLM, Chen et al. 2022, arXiv 2110.13900)."""

    is_causal = False

    def __init__(self, config: BeatsConfig):
        super().__init__()
        size, heads = config.hidden_size, config.num_attention_heads
        self.config, self.head_dim = config, size // heads
        self.q_proj, self.k_proj = nn.Linear(size, size), nn.Linear(size, size)
        self.v_proj, self.o_proj = nn.Linear(size, size), nn.Linear(size, size)
        self.gate = nn.Linear(self.head_dim, 8)
        self.gate_scale = nn.Parameter(torch.ones(1, heads, 1, 1))

    def forward(self, x: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """``positions`` (1, heads, N, N): bias of each distance; ``mask`` (B, 1, 1, N) is added."""
        query, key, value = (
            proj(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        update, reset = self.gate(query).unflatten(-1, (2, 4)).sum(-1).sigmoid().chunk(2, dim=-1)
        bias = (update * (reset * self.gate_scale - 1.0) + 2.0) * positions
        if mask is not None:
            bias = bias + mask
        return self.o_proj(attend(self, self.config, query, key, value, bias, self.head_dim**-0.5))


class BeatsLayer(GradientCheckpointingLayer):
    """norm(a x + attention(x)), then norm(a x + MLP(x)), with a of `deep_norm`."""

    def __init__(self, config: BeatsConfig):
        super().__init__()
        size, eps = config.hidden_size, config.layer_norm_eps
        self.attention = BeatsAttention(config)
        self.attention_norm, self.final_norm = nn.LayerNorm(size, eps=eps), nn.LayerNorm(size, eps=eps)
        self.fc1, self.fc2 = nn.Linear(size, config.intermediate_size), nn.Linear(config.intermediate_size, size)
        self.dropout, self.inner_dropout = nn.Dropout(config.hidden_dropout), nn.Dropout(config.activation_dropout)
        self.residual_weight = (2 * config.num_hidden_layers) ** 0.25 if config.deep_norm else 1.0

    def forward(self, x: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        x = self.attention_norm(self.residual_weight * x + self.dropout(self.attention(x, positions, mask)))
        inner = self.inner_dropout(nn.functional.gelu(self.fc1(x)))
        return self.final_norm(self.residual_weight * x + self.dropout(self.fc2(inner)))


class BeatsPreTrainedModel(EncoderPreTrainedModel):
    config_class = BeatsConfig
    base_model_prefix = "beats"
    supports_gradient_checkpointing = True
    _no_split_modules = ["BeatsLayer"]
    _supports_sdpa = True  # flash attention takes no position bias
    _supports_attention_backend = True

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, BeatsAttention):
            init.ones_(module.gate_scale)


class BeatsModel(BeatsPreTrainedModel):
    """BEATs' encoder. See [`BeatsConfig`] for the architecture and its source."""

    def __init__(self, config: BeatsConfig):
        super().__init__(config)
        size, patch = config.hidden_size, config.patch_size
        self.patch_embedding = nn.Conv2d(1, config.patch_channels, patch, stride=patch, bias=False)
        self.patch_norm = nn.LayerNorm(config.patch_channels, eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.patch_channels, size)
        self.conv_positions = nn.Conv1d(
            size, size, config.conv_positions, padding=config.conv_positions // 2, groups=config.conv_position_groups
        )
        self.norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.relative_bias = nn.Embedding(config.relative_buckets, config.num_attention_heads)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(BeatsLayer(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> BaseModelOutput:
        """Encode log-mel features (B, mel frames, mel bins).

        ``attention_mask`` (B, mel frames): true for valid frames; others are attended by none. Returns
        ``last_hidden_state`` (B, frames, hidden size), where `frames` of the config says what a frame is, and, if asked, the
        embeddings and each layer's tokens.
        """
        config = self.config
        patches = self.patch_embedding(input_values.unsqueeze(1))  # (B, channels, times, bands)
        x = self.projection(self.patch_norm(patches.flatten(2).transpose(1, 2)))
        valid = None
        if attention_mask is not None:
            lengths = attention_mask.sum(1) // config.patch_size * config.bands
            valid = length_mask(lengths, x.shape[1])
            x = x * valid[..., None]
        local = self.conv_positions(x.transpose(1, 2))[..., : x.shape[1]]
        x = self.dropout(self.norm(x + nn.functional.gelu(local).transpose(1, 2)))
        buckets = relative_buckets(x.shape[1], config.relative_buckets, config.relative_max_distance, x.device)
        positions = self.relative_bias(buckets).permute(2, 0, 1)[None]
        mask = additive_mask(valid, x.dtype)
        states = [x]
        for layer in self.layers:
            x = layer(x, positions, mask)
            states.append(x)
        hidden = x if config.frames == "tokens" else x.unflatten(1, (-1, config.bands)).mean(2)
        return self.as_output(hidden, states, output_hidden_states)
