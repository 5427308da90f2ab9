"""Tiny scenes and tiny models. No hub is reached: the environment says so before anything is imported."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
import torch

import hf_sed
from hf_sed.data.soundscapes import SoundscapeSettings, compose

SHARED = Path(__file__).resolve().parents[2] / "shared"
LABELS = ["Alarm", "Bark", "Knock"]

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The project's reference data; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"the reference data {SHARED} is absent")
    return SHARED


@pytest.fixture(scope="session")
def scenes():
    """Two-second scenes of three synthesised classes: 8 strong, 8 weak, 12 unlabelled, 6 for validation."""
    settings = SoundscapeSettings(duration=2.0, sampling_rate=8000, events=(1, 2), event_length=(0.1, 1.5))
    sizes = {"strong": 8, "weak": 8, "unlabelled": 12, "validation": 6}
    return compose(None, sizes, settings, seed=3, labels=LABELS)


@pytest.fixture
def train_sources(scenes):
    return {name: scenes[name] for name in ("strong", "weak", "unlabelled")}


def tiny_config(**changes) -> hf_sed.SedConfig:
    """A detector of some thousand parameters at 8 kHz with frames of 64 ms."""
    backbone = hf_sed.CrnnConfig(
        front_end={
            "sampling_rate": 8000,
            "win_length": 256,
            "n_fft": 256,
            "hop_length": 128,
            "num_mel_bins": 16,
            "f_max": 4000.0,
        },
        conv_filters=[4, 6, 8],
        pooling=[[2, 2], [2, 2], [1, 4]],
        dropout=changes.pop("conv_dropout", 0.1),
        batch_norm_momentum=0.1,
    )
    values = {
        "labels": LABELS,
        "sequence_hidden_size": 5,
        "sequence_layers": 1,
        "dropout": 0.1,
        "clip_length": 2.0,
        "median_filter": 0.2,
    }
    return hf_sed.SedConfig(backbone_config=backbone.to_dict(), **{**values, **changes})


@pytest.fixture
def make_detector():
    """Factory of tiny detectors: the same seed gives the same weights."""

    def make(seed: int = 0, **changes) -> hf_sed.SedForAudioFrameClassification:
        torch.manual_seed(seed)
        return hf_sed.SedForAudioFrameClassification(tiny_config(**changes))

    return make


@pytest.fixture
def detector(make_detector):
    return make_detector()


@pytest.fixture
def saved_detector(detector, tmp_path):
    """Folder of a saved tiny detector with its feature extractor."""
    folder = tmp_path / "detector"
    detector.eval().save_pretrained(folder)
    hf_sed.SedFeatureExtractor(sampling_rate=8000).save_pretrained(folder)
    return folder
