"""What tests of training share."""

import torch

import hf_sed

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
