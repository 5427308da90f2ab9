"""Train in a process that is killed again and again, and resume it until it is done. argv: scenes, folder, seed.

Everything is imported once; each attempt is a fork of this process. Prints a JSON line: how each attempt ended, and how many
of them found a half-written checkpoint.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from datasets import load_from_disk
from transformers import TrainerCallback, set_seed

import hf_sed
from hf_sed.training import trainer as trainer_module
from hf_sed.training.checkpoints import last_complete_checkpoint, what_is_missing
from tests.conftest import tiny_config
from tests.training.helpers import arguments

STEPS, SAVE_STEPS = 75, 5


class Tell(TrainerCallback):
    """Writes a byte to the parent when training begins and after each step."""

    def __init__(self, pipe):
        self.pipe = pipe

    def on_train_begin(self, *args, **kwargs):
        os.write(self.pipe, b"t")

    def on_step_end(self, *args, **kwargs):
        os.write(self.pipe, b"s")


def train(scenes: str, folder: str, pipe: int, die_in: str | None) -> None:
    data = load_from_disk(scenes)
    set_seed(0)
    model = hf_sed.SedForAudioFrameClassification(tiny_config())
    sources = {k: data[k] for k in ("strong", "weak", "unlabelled")}
    args = arguments(folder, max_steps=STEPS, save_steps=SAVE_STEPS, logging_steps=100, save_total_limit=2)
    trainer = hf_sed.SedTrainer(model, args, sources, callbacks=[Tell(pipe)])
    save_checkpoint = trainer._save_checkpoint

    def saving(*arguments):
        os.write(pipe, b"c")
        save_checkpoint(*arguments)

    trainer._save_checkpoint = saving

    def die(*arguments, **keywords):
        os.kill(os.getpid(), signal.SIGKILL)

    if die_in == "before the manifest":
        trainer_module.seal = die
    elif die_in == "before the optimiser":
        trainer._save_optimizer_and_scheduler = die
    elif die_in == "in the training state":

        def cut_short(tensors, path):
            Path(path).write_bytes(b"\x00" * 1000)
            die()

        trainer_module.save_file = cut_short
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(folder) is not None)
    trainer.save_model()


def attempt(scenes: str, folder: str, moment: str | None = None, delay: float = 0.0, die_in: str | None = None) -> str:
    """Fork, train, and send SIGKILL ``delay`` seconds after the first byte ``moment``. Returns "killed" or "done"."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        status = 1
        try:
            train(scenes, folder, write, die_in)
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    while byte := os.read(read, 1):
        if moment is not None and byte == moment.encode():
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
            break
    os.close(read)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        if os.WEXITSTATUS(status) != 0:
            raise SystemExit("training failed")
        return "done"
    return "killed"


if __name__ == "__main__":
    scenes, folder, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    ends, half_written = [], 0
    if seed >= 0:
        draw = random.Random(seed)
        kills = [{"moment": "t", "delay": draw.uniform(0, 0.15)}]
        kills += [{"moment": "s", "delay": draw.uniform(0, 0.05)} for _ in range(2)]
        kills += [{"moment": "c", "delay": draw.uniform(0, 0.02)} for _ in range(3)]
        inside = ("before the manifest", "before the optimiser", "in the training state")
        kills += [{"die_in": place} for place in inside]
        draw.shuffle(kills)
        for kill in kills:
            ends.append(attempt(scenes, folder, **kill))
            half_written += any(what_is_missing(p) is not None for p in Path(folder).glob("checkpoint-*"))
    ends.append(attempt(scenes, folder))
    print(json.dumps({"ends": ends, "half_written": half_written}))
