"""Student, teacher and the losses of a step in one module, so that one forward pass is one training step.

The teacher is an exponential moving average of the student's *trainable* parameters; what is frozen is shared. It runs
the student's own modules on those tensors (`torch.func.functional_call`), which is the same code for a fully trained
detector, a partly frozen one and a LoRA adapter. BatchNorm: the teacher keeps running statistics of its own where it
takes forward passes in training, and the student's where it takes none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers.utils import ModelOutput

from ..models.masks import length_mask
from ..models.sed.loss_sed import strong_bce, weak_bce
from ..models.sed.modeling_sed import SedForAudioFrameClassification, SedOutput, Spectrograms
from .augmentation import AugmentationChain
from .losses import consistency_loss, contrastive_loss, embedding_spread
from .method import MethodSettings
from .mixup import MixPlan, draw_plan, unmixed_plan

NETWORKS = ("student", "teacher")
_SEPARATOR = "/"  # buffer names must not hold a dot


@dataclass
class StepOutput(ModelOutput):
    """``loss``, and in ``terms`` what a log shows, detached: each part of the loss without its weight (``loss_strong``,
    ``loss_weak``, ``loss_consistency``, ``loss_contrastive``), λ statistics and the collapse monitor."""

    loss: torch.FloatTensor | None = None
    terms: dict[str, torch.Tensor] | None = None


class ProjectionHead(nn.Sequential):
    """Linear - BatchNorm - ReLU - Linear without biases and last BatchNorm (audiossl `byol.py`), on (B, T, D)."""

    def __init__(self, in_size: int, hidden_size: int, out_size: int):
        super().__init__(
            nn.Linear(in_size, hidden_size, bias=False),
            nn.BatchNorm1d(hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, out_size, bias=False),
        )

    def forward(self, x: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        if frame_mask is None:
            return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        projected = super().forward(x[frame_mask])
        return projected.new_zeros(*x.shape[:2], projected.shape[-1]).index_put((frame_mask,), projected)


class AveragedCopy(nn.Module):
    """Moving averages of a module's trainable parameters and copies of its BatchNorm statistics.

    Averages are kept in float32 at least: in bfloat16 a step of (1 - m) = 0.001 would be rounded away.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.parameter_names = [n for n, p in module.named_parameters() if p.requires_grad]
        self.statistic_names = [
            f"{name}.{key}".lstrip(".")
            for name, child in module.named_modules()
            if isinstance(child, _BatchNorm)
            for key, _ in child.named_buffers(recurse=False)
        ]
        self.dtypes: dict[str, torch.dtype] = {}
        live = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        for name in (*self.parameter_names, *self.statistic_names):
            value = live[name].detach()
            self.dtypes[name] = value.dtype
            value = value.clone() if name in self.statistic_names else value.to(_at_least_float32(value), copy=True)
            self.register_buffer(name.replace(".", _SEPARATOR), value)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Averages and statistics under the module's own names."""
        return {name.replace(_SEPARATOR, "."): value for name, value in self.named_buffers()}

    def weights(self) -> dict[str, torch.Tensor]:
        """The same in the module's own precision, as `functional_call` takes them."""
        return {name: value.to(self.dtypes[name]) for name, value in self.tensors().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, decay: float) -> None:
        """θ_T ← m θ_T + (1 - m) θ_S."""
        averages, live = self.tensors(), dict(module.named_parameters())
        pairs = [(averages[n], live[n].detach().to(averages[n].dtype)) for n in self.parameter_names]
        if pairs:
            get_ema_multi_avg_fn(decay)(*map(list, zip(*pairs, strict=True)), None)

    @torch.no_grad()
    def copy_statistics(self, module: nn.Module) -> None:
        """Take over the module's BatchNorm statistics."""
        own, live = self.tensors(), dict(module.named_buffers())
        for name in self.statistic_names:
            own[name].copy_(live[name])

    @contextmanager
    def swapped_into(self, module: nn.Module) -> Iterator[None]:
        """Within the context the module's tensors are the averages. Not for training."""
        live = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        own = {name: live[name].data for name in self.dtypes}
        try:
            for name, value in self.weights().items():
                live[name].data = value
            yield
        finally:
            for name, value in own.items():
                live[name].data = value


class StudentTeacher(nn.Module):
    """The trainable module of [`SedTrainer`]. The detector inside is `student`; the rest exists in training only."""

    def __init__(self, student: nn.Module, settings: MethodSettings):
        super().__init__()
        self.settings = settings
        self.student = student
        self._freeze(settings.frozen)
        self.projector = self.predictor = self.projector_teacher = None
        if settings.contrastive_weight > 0:
            config = self.detector.config
            size = config.hidden_size if settings.contrastive_layer == "sequence" else config.encoder.hidden_size
            hidden = settings.projector_hidden_size or min(2 * size, 4096)
            out = settings.projector_size or min(size, 256)
            self.projector = ProjectionHead(size, hidden, out)
            self.predictor = ProjectionHead(out, hidden, out)
            self.projector_teacher = AveragedCopy(self.projector)
        self.teacher = AveragedCopy(student)
        model = self.detector.model
        front_ends = [f for f in (model.front_end, model.cnn_front_end) if f is not None]
        self.augmentation = AugmentationChain(settings.augmentation, front_ends)

    def _freeze(self, patterns: Sequence[str]) -> None:
        """Parameters that match do not learn. Raises ValueError for a pattern that matches none."""
        for pattern in patterns:
            matching = [p for n, p in self.detector.named_parameters() if re.match(pattern, n)]
            if not matching:
                raise ValueError(f"frozen: {pattern!r} matches no parameter of the detector.")
            for parameter in matching:
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> StudentTeacher:
        """As `nn.Module.train`; a BatchNorm with frozen parameters stays in evaluation mode."""
        super().train(mode)
        for module in self.student.modules():
            if (
                isinstance(module, _BatchNorm)
                and module.affine
                and not any(p.requires_grad for p in module.parameters())
            ):
                module.eval()
        return self

    @property
    def detector(self) -> SedForAudioFrameClassification:
        """The plain detector, also where `student` is a PEFT model around it."""
        return self.student.get_base_model() if hasattr(self.student, "get_base_model") else self.student

    def forward(
        self,
        input_values: torch.Tensor,
        strong_targets: torch.Tensor,
        weak_targets: torch.Tensor,
        strong_mask: torch.Tensor,
        weak_mask: torch.Tensor,
        groups: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        ramp: float = 1.0,
        plan: MixPlan | None = None,
        shares: torch.Tensor | None = None,
    ) -> StepOutput:
        """Losses of a batch.

        Args:
            input_values (B, samples), attention_mask (B, samples): clean waveforms.
            strong_targets (B, T, C), strong_mask (B,): events, and which clips have them.
            weak_targets (B, C), weak_mask (B,): tags, and which clips train the clip-level output.
            groups (B,): clips of the same number are mixed with one another.
            ramp: factor of the semi-supervised weights.
            plan: how to mix; drawn where it is None.
            shares (3,): factors of what is a mean over strong, over weak and over all clips, where this is one of several
                processes (`hf_sed.training.processes.loss_shares`).
        """
        s = self.settings
        of_strong, of_weak, of_all = (1.0, 1.0, 1.0) if shares is None else shares
        plan = (draw_plan(groups, s) if plan is None else plan).to(input_values.device)
        model = self.detector.model
        input_values, strong_targets = self.augmentation.shift(
            self.detector.config, input_values, strong_targets, attention_mask
        )
        clean = mixed = model.spectrograms(input_values, attention_mask)
        if plan.mixed and s.mixup_domain == "spectrogram":
            mixed = clean.mixed(plan)
        elif plan.mixed:
            mask = None
            if clean.lengths is not None:
                mask = length_mask(plan.lengths(clean.lengths), clean.samples)
            mixed = model.spectrograms(plan.mix(input_values), mask)

        of_teacher = (mixed if s.teacher_sees_mixed else clean) if s.uses_teacher else None
        of_student, of_teacher = self.augmentation.views(mixed, of_teacher, groups)
        student = self._student_forward(of_student)
        target_of = plan.target if s.mixup_labels == "soft" else plan.union
        terms = {
            "loss_strong": of_strong
            * strong_bce(student.logits, target_of(strong_targets), strong_mask, student.frame_mask),
            "loss_weak": of_weak * weak_bce(student.clip_probabilities, target_of(weak_targets), weak_mask),
        }
        loss = terms["loss_strong"] + s.weak_loss_weight * terms["loss_weak"]
        if s.uses_teacher:
            teacher = self._teacher_forward(of_teacher)
            target_plan = unmixed_plan(len(groups)).to(input_values.device) if s.teacher_sees_mixed else plan
            if s.consistency_weight > 0:
                terms["loss_consistency"] = of_all * self._consistency(student, teacher, target_plan)
                weight = s.consistency_weight * (s.consistency_mixed_factor if plan.mixed else 1.0)
                loss = loss + weight * ramp * terms["loss_consistency"]
            if s.contrastive_weight > 0:
                contrastive, terms["embedding_spread"] = self._contrastive(student, teacher, target_plan)
                terms["loss_contrastive"] = of_all * contrastive
                loss = loss + s.contrastive_weight * ramp * terms["loss_contrastive"]
        terms["mixup_share"] = of_all * (plan.weight < 1).float().mean()
        terms["composition_share"] = of_all * (plan.effective < 1).float().mean()
        terms["mixup_lambda"] = of_all * plan.weight.mean()
        return StepOutput(loss, {name: value.detach() for name, value in terms.items()})

    def _student_forward(self, spectrograms: Spectrograms) -> SedOutput:
        return self.student(spectrograms=spectrograms, output_hidden_states=self._reads_encoder)

    @property
    def _reads_encoder(self) -> bool:
        """Whether the contrastive loss compares the encoder's frames."""
        return self.settings.contrastive_weight > 0 and self.settings.contrastive_layer == "backbone"

    def _teacher_forward(self, spectrograms: Spectrograms) -> SedOutput:
        inputs = {"spectrograms": spectrograms, "output_hidden_states": self._reads_encoder}
        with torch.inference_mode(), self._dropout_off(not self.settings.teacher_dropout):
            output = functional_call(self.student, self.teacher.weights(), (), inputs)
        # Tensors made in inference mode may not be saved for a backward pass; copies of the few that are read may.
        return SedOutput(**{k: _outside_inference(v) for k, v in output.items()})

    @contextmanager
    def _dropout_off(self, off: bool) -> Iterator[None]:
        modules = [m for m in self.student.modules() if off and m.training and isinstance(m, nn.Dropout | nn.RNNBase)]
        for module in modules:
            module.training = False
        try:
            yield
        finally:
            for module in modules:
                module.training = True

    def _consistency(self, student: SedOutput, teacher: SedOutput, plan: MixPlan) -> torch.Tensor:
        strong = teacher.logits.float().sigmoid()
        if teacher.frame_mask is not None:
            strong = strong * teacher.frame_mask[..., None]  # beyond its end a clip is silent
        return consistency_loss(
            student.logits.float().sigmoid(),
            student.clip_probabilities,
            plan.target(strong),
            plan.target(teacher.clip_probabilities),
            student.frame_mask,
            self.settings.consistency_weak_factor,
        )

    def _contrastive(self, student: SedOutput, teacher: SedOutput, plan: MixPlan) -> tuple[torch.Tensor, torch.Tensor]:
        predicted = self.predictor(self.projector(self._embeddings(student), student.frame_mask), student.frame_mask)
        with torch.no_grad():
            arguments = (self._embeddings(teacher), teacher.frame_mask)
            target = functional_call(self.projector, self.projector_teacher.weights(), arguments)
            spread = embedding_spread(target, teacher.frame_mask)
        return contrastive_loss(predicted, target, plan, teacher.frame_mask), spread

    def _embeddings(self, output: SedOutput) -> torch.Tensor:
        return output.embeddings if self.settings.contrastive_layer == "sequence" else output.hidden_states[0]

    @torch.no_grad()
    def update_teacher(self, decay: float) -> None:
        """The moving average after an optimiser step."""
        self.teacher.update(self.student, decay)
        if not self.settings.uses_teacher:
            self.teacher.copy_statistics(self.student)
        if self.projector is not None:
            self.projector_teacher.update(self.projector, decay)

    @torch.no_grad()
    def predict(self, network: str, **inputs) -> SedOutput:
        """Output of the "student" or the "teacher" for waveforms, in evaluation mode."""
        if network == "student":
            return self.student(**inputs)
        return functional_call(self.student, self.teacher.weights(), (), inputs)

    def moving_statistics(self) -> list[torch.Tensor]:
        """Running means and variances that training moves: the student's, teacher's, projector's and predictor's."""
        found = []
        pairs = (
            (self.student, self.teacher),
            (self.projector, self.projector_teacher),
            (self.predictor, None),
        )
        for module, copy in pairs:
            copied = {} if copy is None else copy.tensors()
            for name, child in () if module is None else module.named_modules():
                if isinstance(child, _BatchNorm) and child.training and child.track_running_stats:
                    for key in ("running_mean", "running_var"):
                        found.append(getattr(child, key))
                        if copy is not None:
                            found.append(copied[f"{name}.{key}"])
        return found

    def activation_checkpointing_enable(self, **kwargs) -> None:
        """What `Trainer` calls for ``activation_checkpointing=True``."""
        self.detector.activation_checkpointing_enable(**kwargs)

    @contextmanager
    def as_network(self, network: str) -> Iterator[nn.Module]:
        """The detector with the tensors of the "student" or the "teacher", to be saved or exported."""
        if network == "student":
            yield self.student
        else:
            with self.teacher.swapped_into(self.student):
                yield self.student

    def save_pretrained(self, save_directory, **kwargs) -> None:
        """Save the network that `evaluate_with` names as a plain detector."""
        with self.as_network(self.settings.evaluate_with) as detector:
            detector.save_pretrained(save_directory, **kwargs)


def _outside_inference(value):
    if isinstance(value, tuple):
        return tuple(_outside_inference(v) for v in value)
    return value.clone() if isinstance(value, torch.Tensor) else value


def _at_least_float32(value: torch.Tensor) -> torch.dtype:
    return torch.promote_types(value.dtype, torch.float32)
