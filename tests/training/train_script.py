"""Train a tiny detector in as many processes as there are. argv: scenes, output, step at which process 1 is killed (0: none).

Each process leaves the whole training state in ``rank{i}.safetensors``. Without a kill a second run follows, one whose losses
must be those of a single process: without dropout, mixing or moving BatchNorm (`EQUAL`).
"""

import os
import signal
import sys
from pathlib import Path

import torch
from datasets import load_from_disk
from safetensors.torch import save_file
from transformers import TrainerCallback, set_seed

import hf_sed
from hf_sed.training.checkpoints import last_complete_checkpoint, write_json
from tests.conftest import tiny_config
from tests.training.helpers import arguments

AGREE = {"preset": "conditional-mixup", "mixup_probability": 1.0, "max_steps": 5, "save_steps": 2, "ema_decay": 0.9}
EQUAL = {
    "preset": "ict", "mixup_probability": 0.0, "frozen": [r".*batch_norm"], "max_steps": 5, "save_strategy": "no", "ramp_steps": 0,
    "logging_steps": 1, "batch_quotas": {"strong": 3, "weak": 2, "unlabelled": 4}, "learning_rate": 0.01,
}  # fmt: skip


class Kill(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step and args.process_index == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def equal_run(sources, folder) -> list[dict]:
    """The logs of a run that gives the same losses on any number of processes."""
    set_seed(0)
    model = hf_sed.SedForAudioFrameClassification(tiny_config(conv_dropout=0.0, dropout=0.0))
    trainer = hf_sed.SedTrainer(model, arguments(folder, **EQUAL), sources)
    trainer.train()
    return [log for log in trainer.state.log_history if "loss_strong" in log]


if __name__ == "__main__":
    scenes, output, kill_at = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    data = load_from_disk(scenes)
    sources = {k: data[k] for k in ("strong", "weak", "unlabelled")}
    args = arguments(output / "agree", **AGREE)
    rank = args.process_index
    torch.manual_seed(rank)  # what a user's script that sets no seed gives: other initial weights in each process
    trainer = hf_sed.SedTrainer(
        hf_sed.SedForAudioFrameClassification(tiny_config()), args, sources, callbacks=[Kill(kill_at)]
    )
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(output / "agree") is not None)
    state = {k: v.detach().clone() for k, v in trainer.learner.state_dict().items()}
    save_file(state, output / f"rank{rank}.safetensors")
    if not kill_at:
        logs = equal_run(sources, output / "equal")
        write_json(output / f"rank{rank}.json", {"processes": args.world_size, "logs": logs})
