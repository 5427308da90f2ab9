import math

import pytest

from hf_sed.training.schedules import ema_decay, exponential_ramp, ramp_cosine


def test_exponential_ramp():
    assert exponential_ramp(0, 100) == pytest.approx(math.exp(-5))
    assert exponential_ramp(50, 100) == pytest.approx(math.exp(-1.25))
    assert exponential_ramp(100, 100) == exponential_ramp(9999, 100) == 1.0
    assert exponential_ramp(0, 0) == 1.0


def test_learning_rate_of_atst_sed_stage_2():
    """290 steps of ramp, cosine to a tenth at step 7 250: lr (0.9 (1 + cos) / 2 + 0.1)."""
    assert ramp_cosine(0, 290, 7250, 0.1) == pytest.approx(math.exp(-5))
    assert ramp_cosine(290, 290, 7250, 0.1) == 1.0
    assert ramp_cosine((290 + 7250) // 2, 290, 7250, 0.1) == pytest.approx(0.55)
    assert ramp_cosine(7250, 290, 7250, 0.1) == pytest.approx(0.1)
    assert ramp_cosine(5000, 290, 7250, 1.0) == 1.0  # stage 1 stays constant


def test_ema_decay():
    assert [ema_decay(s, 0.999, True) for s in (0, 1, 9)] == pytest.approx([0.0, 0.5, 0.9])
    assert ema_decay(10_000, 0.999, True) == 0.999
    assert ema_decay(0, 0.999, False) == 0.999
