"""Semi-supervised losses. The supervised ones are the model's own: `hf_sed.models.sed.loss_sed`."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..models.sed.loss_sed import masked_clip_mean
from .mixup import MixPlan


def consistency_loss(
    student_strong: torch.Tensor,
    student_weak: torch.Tensor,
    target_strong: torch.Tensor,
    target_weak: torch.Tensor,
    frame_mask: torch.Tensor | None,
    weak_factor: float,
) -> torch.Tensor:
    """Pseudo-label loss: MSE of frame probabilities (B, T, C) plus ``weak_factor`` times that of clip probabilities
    (B, C), over all clips (ATST-SED `stage2_trainer.py:129-161`)."""
    strong = masked_clip_mean((student_strong - target_strong) ** 2, frame_mask).mean()
    return strong + weak_factor * F.mse_loss(student_weak, target_weak)


def cosine_distance(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """2 - 2 cos of (…, D) vectors, the distance of BYOL and of ATST-Frame's pretraining (audiossl `byol.py:24-41`)."""
    return 2 - 2 * F.cosine_similarity(prediction.float(), target.float(), dim=-1)


def contrastive_loss(
    prediction: torch.Tensor, target: torch.Tensor, plan: MixPlan, frame_mask: torch.Tensor | None
) -> torch.Tensor:
    """Embedding-level contrastive loss [R]: λ_eff d(p, z(a)) + (1 - λ_eff) d(p, z(b)) over all valid frames.

    ``prediction`` (B, T, P): the student's predictor output for the mixed clips; ``target`` (B, T, P): the teacher's
    projector output for the clean ones, or where the teacher saw the mixed clips (then ``plan`` is unmixed).
    ``frame_mask`` (B, T): the clean clips' own frames; a frame that a clip does not have has no embedding to meet.
    """
    own = cosine_distance(prediction, target)
    if not plan.mixed:
        return masked_clip_mean(own, frame_mask).mean()
    weight = plan.effective[:, None].expand_as(own)
    other = cosine_distance(prediction, target[plan.partner])
    if frame_mask is None:
        return (weight * own + (1 - weight) * other).mean()
    weight_own, weight_other = weight * frame_mask, (1 - weight) * frame_mask[plan.partner]
    total = (weight_own + weight_other).sum(1).clamp(min=1e-7)
    return ((weight_own * own + weight_other * other).sum(1) / total).mean()


def embedding_spread(projected: torch.Tensor, frame_mask: torch.Tensor | None) -> torch.Tensor:
    """Mean over dimensions of the standard deviation of unit vectors (B, T, P) over frames; 0 means collapse, at most
    P^-1/2 (1/16 for 256 dimensions)."""
    unit = F.normalize(projected.float(), dim=-1)
    unit = unit.flatten(0, 1) if frame_mask is None else unit[frame_mask]
    return unit.std(dim=0, unbiased=False).mean()
