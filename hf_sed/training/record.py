"""What a run was and gave: enough to repeat it, to fill a table and to write its card."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import version
from typing import TYPE_CHECKING

from .adapters import adapter_settings
from .method import MethodSettings

if TYPE_CHECKING:
    from .trainer import SedTrainer


def training_record(trainer: SedTrainer, metrics: Mapping[str, float] | None = None) -> dict:
    """A JSON-ready record of a trainer's run. ``metrics``: what `evaluate` gave; default: the last evaluation logged."""
    args, detector = trainer.args, trainer.learner.detector
    config = detector.config
    if metrics is None:
        metrics = next((log for log in reversed(trainer.state.log_history) if "eval_loss" in log), {})
    return {
        "labels": config.labels,
        "frame_hop": config.frame_hop,
        "sampling_rate": config.sampling_rate,
        "encoder": config.backbone_config.model_type,
        "parameters": sum(p.numel() for p in detector.parameters()),
        "trained_parameters": sum(p.numel() for p in trainer.learner.student.parameters() if p.requires_grad),
        "seed": args.seed,
        "lora": adapter_settings(trainer.learner.student),
        "steps": trainer.state.global_step,
        "method": {f.name: getattr(args, f.name) for f in fields(MethodSettings)},
        "learning_rate": args.learning_rate,
        "learning_rate_mapping": args.learning_rate_mapping or {},
        "layer_decay": args.layer_decay,
        "batch_quotas": args.batch_quotas,
        "clips": trainer.clip_counts,
        "validation_clips": None if trainer.eval_dataset is None else len(trainer.eval_dataset),
        "metrics": {k.removeprefix("eval_"): v for k, v in metrics.items() if isinstance(v, int | float)},
        "per_class": getattr(trainer.compute_metrics, "last", {}).get(args.evaluate_with, {}).get("per_class"),
        "machine": f"{platform.machine()}, {args.device.type}, {args.world_size} process(es)",
        "versions": {name: version(name) for name in ("torch", "transformers", "datasets", "accelerate")},
    }
