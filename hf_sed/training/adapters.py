"""LoRA on a detector, with `peft`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from inspect import signature
from pathlib import Path

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..checks import did_you_mean

_SAVED_WHOLE = ("cnn_branch", "merge", "sequence_model", "strong_head", "attention_head", "weak_head")
"""Parts that learn fully and are saved with the adapter."""


def lora_targets(model) -> list[str]:
    """Names of the encoder's linear layers or of its (not depthwise) convolutions, whichever hold more parameters.

    Without the key projections of attention: scores depend on queries and keys through their product alone, of which an
    adapter of the queries reaches every change of its rank.
    """
    kinds = []
    for kind in (nn.Linear, nn.Conv2d):
        layers = {n: m for n, m in model.model.backbone.named_modules() if isinstance(m, kind)}
        layers = {n: m for n, m in layers.items() if getattr(m, "groups", 1) == 1}
        kinds.append((sum(m.weight.numel() for m in layers.values()), layers))
    _, largest = max(kinds, key=lambda k: k[0])
    return [f"model.backbone.{name}" for name in largest if name.rsplit(".", 1)[-1] not in ("k_proj", "key")]


def _modules_to_save(model) -> list[str]:
    """`_SAVED_WHOLE` and every BatchNorm of the encoder: without its statistics a reload would differ."""
    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    norms = {n.rsplit(".", 1)[-1] for n, m in model.model.backbone.named_modules() if isinstance(m, _BatchNorm)}
    return [name for name in _SAVED_WHOLE if name in names] + sorted(norms)


def check_lora(values: Mapping) -> None:
    """Raise ValueError for a key that is no argument of [`add_lora`], ImportError without peft."""
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ImportError("LoRA needs peft: pip install 'hf_sed[peft]'.") from error
    own = [name for name in signature(add_lora).parameters if name not in ("model", "kwargs")]
    known = [*own, *(f.name for f in fields(LoraConfig) if f.init and f.name not in ("lora_alpha", "lora_dropout"))]
    for key in values:
        if key not in known:
            raise ValueError(f"lora: no setting {key!r}; {did_you_mean(key, known)}")


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
        target_modules: names or a regular expression; default [`lora_targets`]. Heads, sequence model, convolutional branch
            and BatchNorm always learn fully and are saved with the adapter.
        kwargs: further fields of `peft.LoraConfig`: ``use_dora`` (DoRA, arXiv 2402.09353), ``use_rslora`` (arXiv 2312.03732),
            ``init_lora_weights="pissa"`` (PiSSA, arXiv 2404.02948), …

    Raises ImportError without peft, ValueError for a setting that is not known and for a model without a place on disk or hub.
    """
    check_lora(kwargs)
    from peft import LoraConfig, get_peft_model

    if not model.config._name_or_path:
        raise ValueError(
            "an adapter refers to its base model: save the detector and load it with from_pretrained before add_lora."
        )
    if Path(model.config._name_or_path).is_dir():  # an adapter must find its base from any working directory
        model.config._name_or_path = str(Path(model.config._name_or_path).resolve())
    config = LoraConfig(
        r=r,
        lora_alpha=2 * r if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=lora_targets(model) if target_modules is None else target_modules,
        modules_to_save=_modules_to_save(model),
        **kwargs,
    )
    return get_peft_model(model, config)


def load_merged(folder: str | Path):
    """The plain detector that a saved adapter and its base make. It has no place on disk of its own."""
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForAudioFrameClassification

    base = PeftConfig.from_pretrained(folder).base_model_name_or_path
    base = AutoModelForAudioFrameClassification.from_pretrained(base)
    model = PeftModel.from_pretrained(base, folder).merge_and_unload()
    model.config._name_or_path = ""
    return model


def adapter_settings(model) -> dict | None:
    """What a model's adapter was made with, in the words of [`add_lora`]; None for a model without one."""
    if not hasattr(model, "get_base_model"):
        return None
    config = model.peft_config[model.active_adapter]
    out = {"r": config.r, "alpha": config.lora_alpha, "dropout": config.lora_dropout}
    unusual = {"use_dora": config.use_dora, "use_rslora": config.use_rslora}
    if config.init_lora_weights is not True:
        unusual["init_lora_weights"] = config.init_lora_weights
    return out | {name: value for name, value in unusual.items() if value}
