"""YAMNet's published variables (Keras names, `.h5` or `.safetensors`) to a detector of its 521 classes."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import torch

from ..conversion import Converted, audioset_labels
from .configuration_yamnet import YamnetConfig

_VARIABLE = re.compile(r"(layer\d+/(?:conv|depthwise_conv|pointwise_conv)(?:/bn)?|logits)/(\w+)$")
_DEPTHWISE = re.compile(r"layer(\d+)/depthwise_conv/depthwise_kernel")


def recognises(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether a checkpoint's tensors are YAMNet's."""
    return "layer1/conv/kernel" in state and "layer2/depthwise_conv/depthwise_kernel" in state


def convert(state: Mapping[str, torch.Tensor]) -> Converted:
    """The detector: YAMNet's convolutions, and its classifier on every frame and on the mean of the frames.

    Over 0.96 s, YAMNet's patch, the clip probabilities are YAMNet's scores.
    """
    count = max(int(m[1]) for m in map(_DEPTHWISE.fullmatch, state) if m)
    tensors = {}
    for number in range(1, count + 1):
        ours = f"backbone.layers.{number - 1}"
        if number == 1:
            pairs = [("conv", "conv", "conv_norm", "kernel")]
        else:
            pairs = [
                ("depthwise_conv", "conv", "conv_norm", "depthwise_kernel"),
                ("pointwise_conv", "pointwise", "pointwise_norm", "kernel"),
            ]
        for theirs, conv, norm, kernel in pairs:
            name = f"layer{number}/{theirs}"
            # Keras keeps (height, width, in, out), depthwise (height, width, in, 1).
            order = (2, 3, 0, 1) if kernel == "depthwise_kernel" else (3, 2, 0, 1)
            tensors[f"model.{ours}.{conv}.weight"] = state[f"{name}/{kernel}"].permute(*order).contiguous()
            beta = state[f"{name}/bn/beta"]
            tensors[f"model.{ours}.{norm}.weight"] = torch.ones_like(beta)  # YAMNet trains no scale
            tensors[f"model.{ours}.{norm}.bias"] = beta
            tensors[f"model.{ours}.{norm}.running_mean"] = state[f"{name}/bn/moving_mean"]
            tensors[f"model.{ours}.{norm}.running_var"] = state[f"{name}/bn/moving_variance"]
            tensors[f"model.{ours}.{norm}.num_batches_tracked"] = torch.tensor(0)
    for head in ("strong_head", "weak_head"):
        tensors[f"{head}.weight"] = state["logits/kernel"].T.contiguous().clone()
        tensors[f"{head}.bias"] = state["logits/bias"].clone()
    config = {
        "backbone_config": YamnetConfig().to_dict(),
        "labels": audioset_labels("yamnet", state["logits/bias"].numel()),
        "sequence_model": "none",
        "pooling": "mean_embedding",
        "dropout": 0.0,
    }
    return Converted("YAMNet", config, tensors)


def read_h5(path: str) -> dict[str, torch.Tensor]:
    """The variables of a Keras `.h5` file under the names that `.safetensors` files hold. Needs h5py."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"{path}: reading .h5 files needs h5py: pip install 'hf_sed[h5]'.") from error
    state = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            # layer1/layer1/conv/kernel:0: Keras puts a group of the layer's name before the variable's own.
            match = _VARIABLE.search(name.removesuffix(":0"))
            if match:
                state[match[0]] = torch.from_numpy(np.asarray(item))

    with h5py.File(path) as file:
        file.visititems(visit)
    return state
