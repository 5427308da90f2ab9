"""PretrainedSED's frame-level PaSST checkpoints (`fpasst_{strong_1,weak,ssl}.pt`)."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..conversion import Converted, count_of, find_prefix, pretrained_sed, without_prefix
from ..vit import vit_layer_tensors
from .configuration_passt import PasstConfig


def _prefix(state: Mapping[str, torch.Tensor]) -> str | None:
    return find_prefix(state, ("model.fpasst.", "model.", ""), ("conv_in_1.weight", "time_new_pos_embed"))


def recognises(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether a checkpoint holds frame-level PaSST."""
    return _prefix(state) is not None


def convert(state: Mapping[str, torch.Tensor]) -> Converted:
    """The encoder, or the detector with its heads."""
    own = without_prefix(state, _prefix(state))
    depth = count_of(own, "blocks.")
    size = own["norm.weight"].shape[0]
    config = PasstConfig(
        conv_channels=[own[f"conv_in_{i}.weight"].shape[0] for i in (1, 2, 3)],
        patch_frames=own["patch_embed.proj.weight"].shape[3],
        hidden_size=size,
        num_hidden_layers=depth,
        num_attention_heads=size // 64,
        intermediate_size=own["blocks.0.mlp.fc1.weight"].shape[0],
        max_frames=own["time_new_pos_embed"].shape[3],
        qkv_bias="blocks.0.attn.qkv.bias" in own,
    )
    tensors = {
        "tokens": torch.cat([own["cls_token"], own["dist_token"]], dim=1) + own["new_pos_embed"],
        "time_embeddings": own["time_new_pos_embed"][:, :, 0].transpose(1, 2).contiguous(),
        "band_embedding": own["freq_new_pos_embed"].flatten(1)[:, None],
    }
    names = {"patch_embed.proj": "patch_embedding", "norm": "norm"}
    names |= {f"conv_in_{i + 1}": f"convs.{i}" for i in range(3)}
    for theirs, ours in names.items():
        tensors |= {f"{ours}.{kind}": own[f"{theirs}.{kind}"] for kind in ("weight", "bias")}
    for i in range(depth):
        tensors |= vit_layer_tensors(own, f"blocks.{i}", f"layers.{i}")
    return pretrained_sed("frame-level PaSST", config, tensors, state)
