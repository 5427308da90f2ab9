"""Published BEATs checkpoints: Microsoft's (`cfg` and `model`) and PretrainedSED's (`model.model.` with two heads).

The weight norm of the position convolution, `weight_g`/`weight_v` of old or `parametrizations` of newer PyTorch, is
multiplied out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..conversion import Converted, find_prefix, pretrained_sed, without_prefix
from .configuration_beats import BeatsConfig

_LAYER = {
    "self_attn.q_proj": "attention.q_proj",
    "self_attn.k_proj": "attention.k_proj",
    "self_attn.v_proj": "attention.v_proj",
    "self_attn.out_proj": "attention.o_proj",
    "self_attn.grep_linear": "attention.gate",
    "self_attn_layer_norm": "attention_norm",
    "fc1": "fc1",
    "fc2": "fc2",
    "final_layer_norm": "final_norm",
}


def _prefix(state: Mapping[str, torch.Tensor]) -> str | None:
    needed = ("encoder.layers.0.self_attn.grep_a", "patch_embedding.weight")
    return find_prefix(state, ("model.model.", "model.beats.", ""), needed)


def recognises(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether a checkpoint holds BEATs."""
    return _prefix(state) is not None


def convert(state: Mapping[str, torch.Tensor], settings: Mapping[str, Any] | None = None) -> Converted:
    """The encoder, or PretrainedSED's detector. ``settings``: Microsoft's `cfg`."""
    prefix = _prefix(state)
    own = without_prefix(state, prefix)
    depth = 1 + max(int(k.split(".")[2]) for k in own if k.startswith("encoder.layers."))
    buckets, heads = own["encoder.layers.0.self_attn.relative_attention_bias.weight"].shape
    settings = settings or {}
    weight = _position_weight(own)
    config = BeatsConfig(
        frames="tokens" if prefix else "mean",
        patch_channels=own["patch_embedding.weight"].shape[0],
        patch_size=own["patch_embedding.weight"].shape[-1],
        hidden_size=own["encoder.layer_norm.weight"].shape[0],
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=own["encoder.layers.0.fc1.weight"].shape[0],
        conv_positions=weight.shape[2],
        conv_position_groups=weight.shape[0] // weight.shape[1],
        relative_buckets=buckets,
        relative_max_distance=int(settings.get("max_distance", 800)),
        deep_norm=bool(settings.get("deep_norm", True)),
    )
    tensors = {
        "patch_embedding.weight": own["patch_embedding.weight"],
        "relative_bias.weight": own["encoder.layers.0.self_attn.relative_attention_bias.weight"],
        "conv_positions.weight": weight,
        "conv_positions.bias": own["encoder.pos_conv.0.bias"],
    }
    whole = {"layer_norm": "patch_norm", "post_extract_proj": "projection", "encoder.layer_norm": "norm"}
    for kind in ("weight", "bias"):
        tensors |= {f"{ours}.{kind}": own[f"{theirs}.{kind}"] for theirs, ours in whole.items()}
        for i in range(depth):
            for theirs, ours in _LAYER.items():
                tensors[f"layers.{i}.{ours}.{kind}"] = own[f"encoder.layers.{i}.{theirs}.{kind}"]
    for i in range(depth):
        tensors[f"layers.{i}.attention.gate_scale"] = own[f"encoder.layers.{i}.self_attn.grep_a"]
    return pretrained_sed("BEATs", config, tensors, state)


def _position_weight(state: Mapping[str, torch.Tensor]) -> torch.Tensor:
    name = "encoder.pos_conv.0"
    if f"{name}.weight_g" in state:
        size, direction = state[f"{name}.weight_g"], state[f"{name}.weight_v"]
    else:
        size, direction = (state[f"{name}.parametrizations.weight.original{i}"] for i in (0, 1))
    return torch._weight_norm(direction, size, dim=2)
