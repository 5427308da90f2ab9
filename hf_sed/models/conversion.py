"""Checkpoints that authors published, recognised by their contents, to folders that `from_pretrained` reads.

Each encoder's folder has a `convert_*.py` with `recognises(tensors)` and `convert(tensors)`. Files are read without executing
anything that they hold.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

_CONVERTERS = ("yamnet", "atst", "beats", "passt", "frame_mobilenet")
_LABELS = Path(__file__).with_name("labels")

DESED_LABELS = (
    "Alarm_bell_ringing", "Blender", "Cat", "Dishes", "Dog", "Electric_shaver_toothbrush", "Frying", "Running_water",
    "Speech", "Vacuum_cleaner",
)  # fmt: skip
"""The classes of DESED in the order of the DCASE baselines' and ATST-SED's outputs."""


@dataclass(frozen=True)
class Converted:
    """What a checkpoint becomes.

    Args:
        name: of the published model.
        config: arguments of [`SedConfig`]; for a bare encoder (no heads in the checkpoint) its own config.
        tensors: state dict of the detector, or of the encoder.
    """

    name: str
    config: Any
    tensors: dict[str, torch.Tensor]


@cache
def audioset_labels(name: str, count: int) -> list[str] | None:
    """Class names "yamnet" (521) or "audioset_strong" (447) where there are ``count`` of them, else None."""
    labels = (_LABELS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return labels if len(labels) == count else None


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The contents of a `.pt`, `.pth`, `.ckpt`, `.bin`, `.safetensors` or `.h5` file.

    Raises FileNotFoundError, and ValueError for a file that is cut short, is no checkpoint, or would have to execute code
    to be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: cannot be read ({error}); download it again.") from None
    if path.suffix in (".h5", ".hdf5"):
        from .yamnet.convert_yamnet import read_h5

        return read_h5(str(path))
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):
            raise ValueError(f"{path}: is no PyTorch checkpoint that can be read without executing code.") from None
        raise ValueError(
            f"{path}: holds Python objects besides tensors and would have to execute code to be read, which hf-sed does not do. "
            "If you trust it, load it yourself and save its state dict alone with torch.save."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: cannot be read ({_first_line(error)}); it may be cut short.") from None


def convert_checkpoint(path: str | Path, output: str | Path, network: str | None = None, encoder_only: bool = False):
    """Convert a checkpoint file to the folder ``output`` (weights, config, feature extractor); returns the model.

    ``network``: "student" or "teacher", of checkpoints that hold both (default: the teacher). ``encoder_only``: leave the
    heads out, to build a detector of other classes on the encoder.

    Raises ValueError, and writes nothing, for a file that is none of the known layouts, or whose tensors do not fit what
    they were recognised as; FileExistsError where ``output`` holds a model.
    """
    output = Path(output)
    if (output / "config.json").exists():
        raise FileExistsError(f"{output}: holds a model already; choose another folder.")
    converted = convert_tensors(read_checkpoint(path), str(path), network)
    model = build(converted, str(path))
    rate = _sampling_rate(model.config)
    if encoder_only and hasattr(model, "model"):
        model = model.model.backbone
    model.save_pretrained(output)
    from .sed.feature_extraction_sed import SedFeatureExtractor

    SedFeatureExtractor(sampling_rate=rate).save_pretrained(output)
    return model


def convert_tensors(contents: Mapping[str, Any], where: str, network: str | None = None) -> Converted:
    """What a checkpoint's contents become; ``where`` names it in errors."""
    state, extra = _state_dict(contents, where, network)
    for folder in _CONVERTERS:
        module = import_module(f"hf_sed.models.{folder}.convert_{folder}")
        if module.recognises(state):
            try:
                return module.convert(state, **extra)
            except (KeyError, RuntimeError, TypeError) as error:
                raise ValueError(
                    f"{where}: looks like a checkpoint of {folder} but lacks parts of it ({_first_line(error)})."
                ) from error
    some = ", ".join(sorted(state)[:3])
    raise ValueError(
        f"{where}: none of the known layouts (ATST-Frame, ATST-SED, BEATs, frame-level PaSST, Frame-MobileNet, YAMNet). It has "
        f"{len(state)} tensors, such as {some}."
    )


def build(converted: Converted, where: str):
    """The model with the converted tensors, every one of which must have its place."""
    from transformers import AutoModel

    from .sed.configuration_sed import SedConfig
    from .sed.modeling_sed import SedForAudioFrameClassification

    if isinstance(converted.config, Mapping):
        model = SedForAudioFrameClassification(SedConfig(**converted.config))
    else:
        model = AutoModel.from_config(converted.config)
    try:
        result = model.load_state_dict(converted.tensors, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{where}: is no {converted.name} of a known size ({_first_line(error)}).") from None
    missing = [k for k in result.missing_keys if "front_end." not in k]
    if missing or result.unexpected_keys:
        wrong = [f"lacks {k}" for k in missing[:3]] + [f"has {k} too many" for k in result.unexpected_keys[:3]]
        raise ValueError(
            f"{where}: does not fit {converted.name}: {', '.join(wrong)} ({len(missing) + len(result.unexpected_keys)} in all)."
        )
    return model.eval()


def _sampling_rate(config) -> int:
    return config.sampling_rate if hasattr(config, "sampling_rate") else config.front_end["sampling_rate"]


def _state_dict(contents: Any, where: str, network: str | None) -> tuple[dict[str, torch.Tensor], dict]:
    """The tensors of a checkpoint without its wrappers, and the settings beside them (BEATs keeps its `cfg`)."""
    if not isinstance(contents, Mapping):
        raise ValueError(f"{where}: holds a {type(contents).__name__}; expected a state dict.")
    if network not in (None, "student", "teacher"):
        raise ValueError(f"network {network!r}; expected 'student' or 'teacher'.")
    wanted = network or "teacher"
    if "cfg" in contents and "model" in contents:
        return _tensors(contents["model"], where), {"settings": contents["cfg"]}
    for key in ("state_dict", f"sed_{wanted}", wanted):
        if isinstance(contents.get(key), Mapping):
            return _state_dict(contents[key], where, network)
    state = _tensors(contents, where)
    prefix = f"sed_{wanted}."
    if any(name.startswith(prefix) for name in state):  # Lightning
        return {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}, {}
    return state, {}


def _tensors(contents: Any, where: str) -> dict[str, torch.Tensor]:
    state = {k: v for k, v in contents.items() if isinstance(v, torch.Tensor)} if isinstance(contents, Mapping) else {}
    if not state:
        raise ValueError(f"{where}: holds no tensors.")
    return state


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def find_prefix(state: Mapping[str, Any], prefixes: Iterable[str], needed: Iterable[str]) -> str | None:
    """The first prefix under which a state dict has all the ``needed`` names."""
    needed = tuple(needed)
    return next((p for p in prefixes if all(f"{p}{name}" in state for name in needed)), None)


def without_prefix(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names start with ``prefix``, under what follows it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def count_of(state: Iterable[str], prefix: str) -> int:
    """Number of parts that are numbered after ``prefix``: "blocks.0.…", "blocks.1.…"."""
    return 1 + max(int(k.removeprefix(prefix).split(".")[0]) for k in state if k.startswith(prefix))


def pretrained_sed(name: str, config, encoder: dict[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> Converted:
    """An encoder as PretrainedSED wraps it (`prediction_wrapper.py:11-213`): frames of 40 ms, a linear head on each and one on
    their mean. Without a strong head, or with a weak head of other classes, the encoder alone."""
    strong, weak = state.get("strong_head.weight"), state.get("weak_head.weight")
    if strong is None or weak is None or weak.shape != strong.shape:
        return Converted(name, config, encoder)
    tensors = {f"model.backbone.{k}": v for k, v in encoder.items()}
    tensors |= {k: v for k, v in state.items() if k.startswith(("strong_head.", "weak_head."))}
    labels = audioset_labels("audioset_strong", len(strong)) or [f"class_{i}" for i in range(len(strong))]
    settings = {
        "backbone_config": config.to_dict(),
        "labels": labels,
        "output_frame_hop": 0.04,
        "sequence_model": "none",
        "pooling": "mean_embedding",
        "dropout": 0.0,
    }
    return Converted(name, settings, tensors)
