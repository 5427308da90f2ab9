"""Published ATST-Frame checkpoints: audiossl's three layouts, PretrainedSED's, and the detectors of ATST-SED.

audiossl (`atst_model.py:29-59` of ATST-SED): self-supervised (`model.teacher.encoder.`), clip-to-frame
(`encoder.encoder.frame_encoder.`), fine-tuned on AudioSet (`encoder.encoder.`). PretrainedSED: `model.atst.` with
`strong_head` and `weak_head`. ATST-SED: `atst_frame.atst.` beside a CRNN.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..conversion import DESED_LABELS, Converted, count_of, find_prefix, pretrained_sed, without_prefix
from ..crnn.configuration_crnn import CrnnConfig
from ..vit import vit_layer_tensors
from .configuration_atst import AtstConfig

# The clip-to-frame layout's prefix begins like the fine-tuned one's, so it is looked for before.
_PREFIXES = (
    "atst_frame.atst.", "model.atst.", "model.teacher.encoder.", "encoder.encoder.frame_encoder.", "encoder.encoder.", "",
)  # fmt: skip


def _prefix(state: Mapping[str, torch.Tensor]) -> str | None:
    return find_prefix(state, _PREFIXES, ("patch_embed.patch_embed.weight", "pos_embed"))


def recognises(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether a checkpoint holds ATST-Frame."""
    return _prefix(state) is not None


def convert(state: Mapping[str, torch.Tensor]) -> Converted:
    """The encoder, or the detector that the checkpoint holds."""
    prefix = _prefix(state)
    tensors, config = _encoder(without_prefix(state, prefix))
    if prefix == "atst_frame.atst.":
        return _atst_sed(state, tensors, config)
    return pretrained_sed("ATST-Frame", config, tensors, state)


def _encoder(state: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], AtstConfig]:
    size, patch = state["patch_embed.patch_embed.weight"].shape
    depth = count_of(state, "blocks.")
    config = AtstConfig(
        hidden_size=size,
        num_hidden_layers=depth,
        num_attention_heads=size // 64,
        intermediate_size=state["blocks.0.mlp.fc1.weight"].shape[0],
        patch_frames=patch // 64,
        max_frames=state["pos_embed"].shape[1] - 1,
        qkv_bias="blocks.0.attn.qkv.bias" in state,
    )
    # The self-supervised layout keeps the final norm as `norm`; the first position was a class token's.
    norm = "norm_frame" if "norm_frame.weight" in state else "norm"
    tensors = {
        "patch_embedding.weight": state["patch_embed.patch_embed.weight"],
        "patch_embedding.bias": state["patch_embed.patch_embed.bias"],
        "position_embeddings": state["pos_embed"][:, 1:].clone(),
        "mask_embedding": state.get("mask_embed", torch.zeros(1, 1, size)),
        "norm.weight": state[f"{norm}.weight"],
        "norm.bias": state[f"{norm}.bias"],
    }
    for i in range(depth):
        tensors |= vit_layer_tensors(state, f"blocks.{i}", f"layers.{i}")
    return tensors, config


def _atst_sed(state: Mapping[str, torch.Tensor], encoder: dict, config: AtstConfig) -> Converted:
    """ATST-SED: CNN branch, ATST-Frame, merge, BiGRU, attention pooling."""
    tensors = {f"model.backbone.{k}": v for k, v in encoder.items()}
    blocks = count_of(state, "cnn.cnn.conv")
    filters = [state[f"cnn.cnn.conv{i}.weight"].shape[0] for i in range(blocks)]
    for i in range(blocks):
        parts = {"conv": f"conv{i}", "batch_norm": f"batchnorm{i}", "gate": f"cg{i}.linear"}
        for ours, theirs in parts.items():
            for key, value in state.items():
                if key.startswith(f"cnn.cnn.{theirs}."):
                    tensors[f"model.cnn_branch.blocks.{i}.{ours}.{key.rsplit('.', 1)[1]}"] = value
    renamed = {"rnn.rnn.": "model.sequence_model.", "dense.": "strong_head.", "dense_softmax.": "attention_head."}
    for theirs, ours in {**renamed, "cat_tf.": "model.merge."}.items():
        tensors |= {ours + k.removeprefix(theirs): v for k, v in state.items() if k.startswith(theirs)}
    count = state["dense.weight"].shape[0]
    hidden = state["rnn.rnn.weight_hh_l0"].shape[1]
    layers = sum(k.startswith("rnn.rnn.weight_hh_l") and not k.endswith("_reverse") for k in state)
    settings = {
        "backbone_config": config.to_dict(),
        "cnn_branch": {"conv_filters": filters} if filters != list(CrnnConfig.conv_filters) else {},
        "labels": list(DESED_LABELS) if count == len(DESED_LABELS) else [f"class_{i}" for i in range(count)],
        "sequence_hidden_size": hidden,
        "sequence_layers": layers,
        "pooling": "attention",
    }
    return Converted("ATST-SED", settings, tensors)
