"""What tests of training share."""

import os
import subprocess
import sys
from pathlib import Path

import torch

import hf_sed

ROOT = Path(__file__).parents[2]

QUOTAS = {"strong": 2, "weak": 2, "unlabelled": 3}


def arguments(folder, **values):
    defaults = {
        "batch_quotas": dict(QUOTAS), "max_steps": 6, "save_steps": 3, "logging_steps": 2, "ramp_steps": 4, "disable_tqdm": True,
        "dataloader_num_workers": 0, "use_cpu": True, "per_device_eval_batch_size": 3,
    }  # fmt: skip
    return hf_sed.SedTrainingArguments(output_dir=str(folder), **{**defaults, **values})


def state(trainer):
    return {k: v.clone() for k, v in trainer.learner.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def run_python(*command):
    """Run Python with a command line from the repository's own code, one thread a process; returns what it said."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, command)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
