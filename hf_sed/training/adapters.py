"""LoRA on a detector, with `peft`."""

from __future__ import annotations

from pathlib import Path

from torch import nn

_SAVED_WHOLE = ("sequence_model", "strong_head", "attention_head", "batch_norm")
"""Small parts that learn fully and are saved with the adapter; without BatchNorm's statistics a reload would differ."""


def lora_targets(model) -> list[str]:
    """Names of the encoder's linear and (where it has none) convolutional layers."""
    backbone = model.model.backbone
    linear = [n for n, m in backbone.named_modules() if isinstance(m, nn.Linear)]
    names = linear or [n for n, m in backbone.named_modules() if isinstance(m, nn.Conv2d) and m.groups == 1]
    return [f"model.backbone.{name}" for name in names]


def add_lora(
    model,
    r: int = 8,
    alpha: int | None = None,
    dropout: float = 0.0,
    target_modules: list[str] | str | None = None,
    **kwargs,
):
    """Wrap a detector in a LoRA adapter; what comes back trains, saves and loads like a detector.

    Args:
        model: a detector that was loaded or saved, since an adapter only refers to its base.
        r: rank.
        alpha: scale, default 2 r.
        target_modules: names or a regular expression; default the linear layers of the encoder (its convolutions where it
            has none). Heads, sequence model and BatchNorm always learn fully and are saved with the adapter.
        kwargs: further fields of `peft.LoraConfig` (`use_rslora`, `use_dora`, `init_lora_weights`, …).

    Raises ImportError without peft, ValueError for a model without a place on disk or hub.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError("LoRA needs peft: pip install 'hf_sed[peft]'.") from error
    if not model.config._name_or_path:
        raise ValueError(
            "an adapter refers to its base model: save the detector and load it with from_pretrained before add_lora."
        )
    if Path(model.config._name_or_path).is_dir():  # an adapter must find its base from any working directory
        model.config._name_or_path = str(Path(model.config._name_or_path).resolve())
    present = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    config = LoraConfig(
        r=r,
        lora_alpha=2 * r if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=lora_targets(model) if target_modules is None else target_modules,
        modules_to_save=[name for name in _SAVED_WHOLE if name in present],
        **kwargs,
    )
    return get_peft_model(model, config)
