"""Conditional mixup [R]: one plan a batch, applied alike to inputs, targets, pseudo-labels and embeddings.

x̃ = λ a + (1 - λ) b for a clip a and its partner b of the same kind. Up to the threshold τ both clips are in the scene
(composition), above it b is only a disturbance (perturbation). One rule serves everything that x̃ is compared with:
λ_eff = λ in a composition, else 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .method import MethodSettings


@dataclass(frozen=True)
class MixPlan:
    """Who is mixed with whom, and how much.

    Args:
        partner (B,): index of b for each clip a.
        weight (B,): λ, the weight of a in the input.
        effective (B,): λ_eff, the weight of a in what the input is compared with.
    """

    partner: torch.Tensor
    weight: torch.Tensor
    effective: torch.Tensor

    @property
    def mixed(self) -> bool:
        return bool((self.weight < 1).any())

    def to(self, device: torch.device) -> MixPlan:
        return MixPlan(self.partner.to(device), self.weight.to(device), self.effective.to(device))

    def mix(self, values: torch.Tensor) -> torch.Tensor:
        """The mixed input: λ a + (1 - λ) b along the first dimension."""
        return _combine(values, self.partner, self.weight)

    def target(self, values: torch.Tensor) -> torch.Tensor:
        """What the mixed input is compared with: λ_eff a + (1 - λ_eff) b."""
        return _combine(values, self.partner, self.effective)

    def union(self, targets: torch.Tensor) -> torch.Tensor:
        """Hard targets: the classes of a and, in a composition, those of b."""
        composed = (self.effective < 1).view(-1, *[1] * (targets.dim() - 1))
        return torch.where(composed, torch.maximum(targets, targets[self.partner]), targets)

    def lengths(self, lengths: torch.Tensor | None) -> torch.Tensor | None:
        """Lengths of the mixed clips (B,): those of a and, in a composition, of the longer of a and b."""
        if lengths is None:
            return None
        return torch.where(self.effective < 1, torch.maximum(lengths, lengths[self.partner]), lengths)


def conditional_plan(weight: torch.Tensor, partner: torch.Tensor, threshold: float) -> MixPlan:
    """A plan from λ (B,) and partners (B,): composition where max(λ, 1 - λ) ≤ τ, else perturbation of a."""
    composed = torch.maximum(weight, 1 - weight) <= threshold
    return MixPlan(partner, weight, torch.where(composed, weight, torch.ones_like(weight)))


def unmixed_plan(size: int) -> MixPlan:
    """The plan that leaves every clip alone."""
    one = torch.ones(size)
    return MixPlan(torch.arange(size), one, one)


def draw_plan(groups: torch.Tensor, settings: MethodSettings) -> MixPlan:
    """Draw a batch's plan from torch's global generator on the CPU, whose state a checkpoint holds.

    ``groups`` (B,): clips are mixed with clips of the same group.
    """
    groups = groups.cpu()
    if float(torch.rand(())) >= settings.mixup_probability:
        return unmixed_plan(len(groups))
    partner, weight = torch.arange(len(groups)), torch.ones(len(groups))
    beta = torch.distributions.Beta(settings.mixup_alpha, settings.mixup_alpha)
    for group in groups.unique():
        members = torch.nonzero(groups == group).squeeze(1)
        partner[members] = members[torch.randperm(len(members))]
        drawn = beta.sample((len(members) if settings.mixup_per == "clip" else 1,))
        weight[members] = torch.maximum(drawn, 1 - drawn)
    return conditional_plan(weight, partner, settings.mixup_threshold)


def _combine(values: torch.Tensor, partner: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    weight = weight.to(values.dtype).view(-1, *[1] * (values.dim() - 1))
    return weight * values + (1 - weight) * values[partner]
