"""Checks of settings that name what is wrong and what is right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any


def check_choices(settings: Any, choices: Mapping[str, Sequence], where: str = "") -> None:
    """Raise ValueError where an attribute of ``settings`` is not one of its ``choices``."""
    for name, allowed in choices.items():
        value = getattr(settings, name)
        if value not in allowed:
            raise ValueError(f"{where}{name} {value!r}; expected one of {', '.join(map(str, allowed))}.")


def did_you_mean(key: Any, known: Iterable[str]) -> str:
    """What to say of a key that is not ``known``: the nearest that is, or all of them."""
    known = list(known)
    near = get_close_matches(str(key), known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"the known keys are {', '.join(known)}."
