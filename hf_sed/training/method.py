"""The method's settings and its presets. `method.md` in words: what one training step computes.

Choices marked [R] are this project's reconstruction of arXiv 2606.29901, whose equations were not available; each is a
setting here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from ..checks import check_choices
from .augmentation import build_augmentation

PRESETS: dict[str, dict] = {
    "supervised": {"mixup_threshold": 1.0, "consistency_weight": 0.0, "contrastive_weight": 0.0},
    "mean-teacher": {"mixup_threshold": 1.0, "contrastive_weight": 0.0, "teacher_sees_mixed": True},
    "ict": {"mixup_threshold": 1.0, "contrastive_weight": 0.0},
    "conditional-mixup": {},
}
"""Each preset is a few settings, nothing else: supervised (labelled clips only), mean-teacher (DCASE baseline, ATST-SED
stage 1), ict (interpolation consistency, ATST-SED stage 2), conditional-mixup (ATST-SEDv2 [R])."""

_DEFAULTS = {
    "mixup_threshold": 0.9,
    "consistency_weight": 10.0,
    "contrastive_weight": 1.0,
    "teacher_sees_mixed": False,
}


@dataclass
class MethodSettings:
    """What a semi-supervised step computes. A setting that is None takes its preset's value.

    Args:
        preset: "supervised", "mean-teacher", "ict" or "conditional-mixup".
        mixup_probability: share of batches that are mixed.
        mixup_alpha: λ comes from Beta(alpha, alpha), folded to [0.5, 1].
        mixup_threshold: τ; λ up to τ composes two clips, above it the second clip only disturbs the first.
        mixup_domain: "spectrogram" (linear mel, the reference) or "waveform".
        mixup_per: "clip" draws λ for every clip, "group" once for every kind of clip (ATST-SED).
        mixup_labels: targets of a composition: "soft" (weighted by λ) or "hard" (union).
        teacher_sees_mixed: the teacher's input is the student's mixed one rather than the clean clips.
        consistency_weight: w_mt, weight of the pseudo-label loss after the ramp.
        consistency_mixed_factor: what it is multiplied by in mixed batches (ATST-SED stage 2: 1/8, see
            `recipes/desed_stage2.yaml`).
        consistency_weak_factor: weight of its clip-level part relative to its frame-level part.
        contrastive_weight: w_con, weight of the embedding-level contrastive loss [R] after the ramp.
        contrastive_layer: "sequence" (what the heads read) or "backbone" (the encoder's output) [R].
        projector_hidden_size: width inside projector and predictor; None: twice the embedding's, at most the
            published 4096, which would outweigh a small encoder.
        projector_size: width of the compared vectors; None: the embedding's, at most the published 256.
        augmentation: each a dict with its ``name``, or that as JSON, see `hf_sed.training.augmentation`.
        weak_loss_weight: weight of the supervised clip-level loss (ATST-SED: 1 in stage 1, 0.5 in stage 2).
        ramp_steps: optimiser steps over which both losses and, in the "ramp" schedule, the learning rate rise.
        ema_decay: m of the teacher's moving average.
        ema_warmup: m = min(1 - 1/(s + 1), ema_decay) (stage 1) rather than constant (stage 2).
        teacher_dropout: the teacher's forward pass keeps dropout on, as the reference's does.
        evaluate_with: network that selects the best model and is saved, "teacher" or "student".
        frozen: regular expressions; parameters of the detector whose name one of them matches at its start do not learn
            ("model.backbone" is the whole encoder). A BatchNorm whose parameters are all frozen keeps its statistics too.
    """

    preset: str = field(
        default="conditional-mixup", metadata={"help": "supervised, mean-teacher, ict or conditional-mixup"}
    )
    mixup_probability: float = 0.5
    mixup_alpha: float = 0.2
    mixup_threshold: float | None = None
    mixup_domain: str = "spectrogram"
    mixup_per: str = "clip"
    mixup_labels: str = "soft"
    teacher_sees_mixed: bool | None = None
    consistency_weight: float | None = None
    consistency_mixed_factor: float = 1.0
    consistency_weak_factor: float = 0.5
    contrastive_weight: float | None = None
    contrastive_layer: str = "sequence"
    projector_hidden_size: int | None = None
    projector_size: int | None = None
    augmentation: list[str] = field(default_factory=list, metadata={"help": "augmentations, each as JSON"})
    weak_loss_weight: float = 0.5
    ramp_steps: int = 0
    ema_decay: float = 0.999
    ema_warmup: bool = True
    teacher_dropout: bool = True
    evaluate_with: str = "teacher"
    frozen: list[str] = field(default_factory=list)

    def resolve_preset(self) -> None:
        """Fill what is None from the preset and check every choice. Raises ValueError naming the setting."""
        check_choices(self, {"preset": tuple(PRESETS)})
        for name, default in _DEFAULTS.items():
            if getattr(self, name) is None:
                setattr(self, name, PRESETS[self.preset].get(name, default))
        choices = {
            "mixup_domain": ("spectrogram", "waveform"),
            "mixup_per": ("clip", "group"),
            "mixup_labels": ("soft", "hard"),
            "contrastive_layer": ("sequence", "backbone"),
            "evaluate_with": ("teacher", "student"),
        }
        check_choices(self, choices)
        self.augmentation = [json.loads(a) if isinstance(a, str) else a for a in self.augmentation]
        for augmentation in self.augmentation:
            build_augmentation(augmentation)
        for name, low, high in (("mixup_probability", 0, 1), ("mixup_threshold", 0.5, 1), ("ema_decay", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} {getattr(self, name)}; expected a number from {low} to {high}.")

    @property
    def uses_teacher(self) -> bool:
        """Whether a training step needs the teacher's forward pass, and so can learn from unlabelled clips."""
        return self.consistency_weight > 0 or self.contrastive_weight > 0
