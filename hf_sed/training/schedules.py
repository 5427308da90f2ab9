"""Ramps of loss weights, learning rate and the teacher's decay. ``step`` counts finished optimiser steps."""

from __future__ import annotations

import math


def exponential_ramp(step: float, length: int) -> float:
    """exp(-5 (1 - min(s, S) / S)²): from 0.0067 at step 0 to 1 at ``length`` (DCASE Task 4 `ExponentialWarmup`)."""
    if length <= 0:
        return 1.0
    return math.exp(-5.0 * (1.0 - min(step, length) / length) ** 2)


def ramp_cosine(step: int, ramp: int, total: int, floor: float) -> float:
    """Learning-rate factor: exponential ramp, then a cosine from 1 to ``floor`` at ``total`` steps (ATST-SED stage 2:
    floor 0.1; a floor of 1 is constant, stage 1)."""
    if step < ramp:
        return exponential_ramp(step, ramp)
    progress = min((step - ramp) / max(total - ramp, 1), 1.0)
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def ema_decay(step: int, decay: float, warmup: bool) -> float:
    """m of the update after optimiser step number ``step`` (the first is 0): min(1 - 1/(s + 1), decay) or constant."""
    return min(1.0 - 1.0 / (step + 1), decay) if warmup else decay
