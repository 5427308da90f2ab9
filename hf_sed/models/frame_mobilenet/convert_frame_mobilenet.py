"""PretrainedSED's Frame-MobileNet checkpoints (`frame_mn06_strong_1.pt`, `frame_mn10_strong_1.pt`)."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..conversion import Converted, count_of, pretrained_sed
from .configuration_frame_mobilenet import MOBILENET_BLOCKS, FrameMobilenetConfig, scaled

_PREFIX = "model.frame_mn.features."


def recognises(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether a checkpoint holds Frame-MobileNet."""
    return f"{_PREFIX}0.0.weight" in state


def convert(state: Mapping[str, torch.Tensor]) -> Converted:
    """The encoder, or the detector with its heads."""
    size = state[f"{_PREFIX}{len(MOBILENET_BLOCKS) + 1}.0.weight"].shape[0]
    widths = [w / 10 for w in range(1, 41) if 6 * scaled(MOBILENET_BLOCKS[-1][2] * w / 10) == size]
    if not widths:
        raise ValueError(f"a Frame-MobileNet of {size} output channels is of no known width.")
    config = FrameMobilenetConfig(width=widths[0])
    tensors = {}

    def conv_norm(theirs: str, ours: str) -> None:
        # Published kernels are (frequency, time).
        tensors[f"{ours}.conv.weight"] = state[f"{theirs}.0.weight"].transpose(2, 3).contiguous()
        for key in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            tensors[f"{ours}.norm.{key}"] = state[f"{theirs}.1.{key}"]

    conv_norm(f"{_PREFIX}0", "first")
    conv_norm(f"{_PREFIX}{len(config.blocks) + 1}", "last")
    for i in range(len(config.blocks)):
        block, parts = f"{_PREFIX}{i + 1}.block", []
        for j in range(count_of(state, f"{block}.")):
            parts.append("excite" if f"{block}.{j}.conc_se_layers.0.fc1.weight" in state else "conv")
        names = ["expand", "depthwise", "project"][-parts.count("conv") :]
        for j, part in enumerate(parts):
            if part == "conv":
                conv_norm(f"{block}.{j}", f"blocks.{i}.{names.pop(0)}")
                continue
            for key in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"):
                tensors[f"blocks.{i}.excite.{key}"] = state[f"{block}.{j}.conc_se_layers.0.{key}"]
    return pretrained_sed("Frame-MobileNet", config, tensors, state)
