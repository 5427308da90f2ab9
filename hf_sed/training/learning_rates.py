"""Learning rates by name and by depth: which parameter learns how fast before the schedule scales all of them alike."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import nn

ENCODER = "model.backbone"
"""Where a detector has its encoder."""


def learning_rates(
    detector: nn.Module, base: float, mapping: Mapping[str, float] | None = None, layer_decay: float = 1.0
) -> dict[str, float]:
    """Parameter of the detector -> its rate before the schedule.

    Args:
        base: rate of what no pattern matches.
        mapping: regular expression -> rate; the first that matches a parameter's name at its start counts.
        layer_decay: the encoder's rates are multiplied by this to the power of [`encoder_depths`]. ATST-SED: 0.5
            (`scheduler.py:46-96`).

    Raises ValueError for a pattern that matches no parameter.
    """
    names = [n for n, _ in detector.named_parameters()]
    mapping = {pattern: float(rate) for pattern, rate in (mapping or {}).items()}
    for pattern in mapping:
        if not any(re.match(pattern, n) for n in names):
            raise ValueError(f"learning_rate_mapping: {pattern!r} matches no parameter of the detector.")
    rates = {n: next((r for pattern, r in mapping.items() if re.match(pattern, n)), base) for n in names}
    if layer_decay != 1.0:
        for name, depth in encoder_depths(detector).items():
            rates[name] *= layer_decay**depth
    return rates


def encoder_depths(detector: nn.Module) -> dict[str, int]:
    """Parameter of the encoder -> number of steps below the encoder's output, read from the model as it runs.

    The encoder's layers are the `ModuleList` that holds most of its parameters. With N of them the last has depth 1 and the first
    N; what runs after them (a final norm) has 0, what runs before them or is no module of its own (patch and position embeddings)
    N + 1.
    """
    encoder = detector.get_submodule(ENCODER)
    lists = [(n, m) for n, m in encoder.named_modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise ValueError(f"layer_decay: {type(encoder).__name__} has no list of layers; leave layer_decay at 1.")
    stack, layers = max(lists, key=lambda item: sum(p.numel() for p in item[1].parameters()))
    order = _order_of_calls(detector, encoder)
    last = order[f"{stack}.{len(layers) - 1}"]
    depths = {}
    for name, _ in encoder.named_parameters():
        if name.startswith(f"{stack}."):
            depth = len(layers) - int(name.removeprefix(f"{stack}.").split(".")[0])
        else:
            called = order.get(name.rpartition(".")[0], 0)  # 0: the encoder itself, whose call begins before all others
            depth = 0 if called > last else len(layers) + 1
        depths[f"{ENCODER}.{name}"] = depth
    return depths


def _order_of_calls(detector: nn.Module, encoder: nn.Module) -> dict[str, int]:
    """Module of the encoder -> place of its first call while the detector hears a second of silence."""
    order: dict[str, int] = {}

    def note(name: str, *_) -> None:
        order.setdefault(name, len(order))

    handles = [m.register_forward_pre_hook(partial(note, name)) for name, m in encoder.named_modules()]
    training = {m for m in detector.modules() if m.training}
    device = next(detector.parameters()).device
    try:
        detector.eval()
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            detector(torch.zeros(1, detector.config.sampling_rate, device=device))
    finally:
        for handle in handles:
            handle.remove()
        for module in detector.modules():
            module.training = module in training
    return order


def group_by_rate(
    groups: Iterable[dict], rates: Mapping[str, float], named_parameters: Iterable[tuple[str, nn.Parameter]]
) -> list[dict]:
    """An optimiser's parameter groups split so that each has one rate; parameters that ``rates`` does not know keep theirs."""
    by_id = {id(p): rates[n] for n, p in named_parameters if n in rates}
    out = []
    for group in groups:
        split: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            split.setdefault(by_id.get(id(parameter), group["lr"]), []).append(parameter)
        out += [{**group, "params": parameters, "lr": rate} for rate, parameters in split.items()]
    return out
