"""The supervised loss. Masks say what a clip knows; nothing here asks where it comes from."""

from __future__ import annotations

import torch
import torch.nn.functional as F

_EPSILON = 1e-7


def masked_clip_mean(values: torch.Tensor, frame_mask: torch.Tensor | None) -> torch.Tensor:
    """Mean of (B, T, …) over a clip's valid frames and all further dimensions: (B,).

    A mean of clips' means, so that a batch's loss does not depend on how clips are padded or spread over micro-batches.
    """
    if values.dim() > 2:
        values = values.flatten(2).mean(2)
    if frame_mask is None:
        return values.mean(1)
    return (values * frame_mask).sum(1) / frame_mask.sum(1).clamp(min=1)


def weighted_mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean of (B,) weighted by (B,); 0, with a gradient of 0, where no clip has weight."""
    return (values * weights).sum() / weights.sum().clamp(min=_EPSILON)


def strong_bce(
    logits: torch.Tensor, targets: torch.Tensor, clip_weights: torch.Tensor, frame_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """BCE of frame logits (B, T, C) against strong targets, over the clips that have weight."""
    loss = F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none")
    return weighted_mean(masked_clip_mean(loss, frame_mask), clip_weights)


def weak_bce(probabilities: torch.Tensor, targets: torch.Tensor, clip_weights: torch.Tensor) -> torch.Tensor:
    """BCE of clip probabilities (B, C) against weak targets, over the clips that have weight."""
    with torch.autocast(device_type=probabilities.device.type, enabled=False):
        p = probabilities.float().clamp(_EPSILON, 1 - _EPSILON)
        loss = F.binary_cross_entropy(p, targets.float().clamp(0, 1), reduction="none").mean(1)
    return weighted_mean(loss, clip_weights)
