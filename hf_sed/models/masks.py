"""Masks of padded batches."""

from __future__ import annotations

import torch


def length_mask(lengths: torch.Tensor, size: int) -> torch.Tensor:
    """Boolean (B, ``size``): true for the first ``lengths`` (B,) places of each row, a clip's own."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]
