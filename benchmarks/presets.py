"""Cost of a training step, preset by preset on the same batch, and the share of it spent waiting for data.

    python benchmarks/presets.py --recipe recipes/few_labels.yaml --steps 20

All presets get the same batch (that of the recipe's last stage, unlabelled clips included), so that their steps can be
compared. A step is: front end, student forward, teacher forward, losses (projector and predictor included), backward,
optimiser, moving average. The second table runs `SedTrainer` itself on composed scenes with its default loader.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import tempfile
import time
from collections import defaultdict

import torch

from hf_sed.data.batches import SedClips, collate_clips
from hf_sed.data.soundscapes import compose
from hf_sed.training.method import PRESETS, MethodSettings
from hf_sed.training.recipe import load_recipe
from hf_sed.training.student_teacher import StudentTeacher
from hf_sed.training.trainer import SedTrainer

PARTS = ("front end", "student", "teacher", "losses", "backward", "optimiser", "average")


class Timer:
    """Sums wall time by part; waits for the device where there is one."""

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, defaultdict(float)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def wrap(self, owner, name: str, part: str) -> None:
        function = getattr(owner, name)

        @functools.wraps(function)
        def timed(*args, **kwargs):
            start = self.now()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part] += self.now() - start

        setattr(owner, name, timed)


def measure(preset: str, recipe, batch: dict, device: torch.device, steps: int, warmup: int) -> dict[str, float]:
    torch.manual_seed(0)
    settings = MethodSettings(preset=preset, mixup_probability=1.0)
    settings.resolve_preset()
    learner = StudentTeacher(recipe.model.build(["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]), settings)
    learner.to(device).train()
    optimizer = torch.optim.AdamW(learner.parameters(), lr=1e-4)
    timer = Timer(device)
    timer.wrap(learner.detector.model, "spectrograms", "front end")
    timer.wrap(learner, "_student_forward", "student")
    timer.wrap(learner, "_teacher_forward", "teacher")
    timer.wrap(learner, "update_teacher", "average")
    total = 0.0
    for step in range(warmup + steps):
        if step == warmup:
            timer.seconds.clear()
            total = 0.0
        start = timer.now()
        loss = learner(**batch).loss
        forward = timer.now()
        loss.backward()
        backward = timer.now()
        optimizer.step()
        optimizer.zero_grad()
        optimised = timer.now()
        learner.update_teacher(0.999)
        timer.seconds["forward"] += forward - start
        timer.seconds["backward"] += backward - forward
        timer.seconds["optimiser"] += optimised - backward
        total += timer.now() - start
    parts = {part: seconds / steps for part, seconds in timer.seconds.items()}
    parts["losses"] = parts.pop("forward") - sum(parts.get(p, 0.0) for p in ("front end", "student", "teacher"))
    heads = [m for m in (learner.projector, learner.predictor) if m is not None]
    return {
        "step": total / steps,
        **{p: parts.get(p, 0.0) for p in PARTS},
        "parameters": sum(p.numel() for p in learner.student.parameters()),
        "head_parameters": sum(p.numel() for m in heads for p in m.parameters()),
    }


def waiting_share(recipe, scenes, steps: int) -> tuple[float, float]:
    """Seconds a step of `SedTrainer`, and the share of them spent waiting for the loader."""
    waited = 0.0

    class Watched(SedTrainer):
        def get_train_dataloader(self):
            loader = super().get_train_dataloader()

            class Loader:
                def __iter__(self):
                    nonlocal waited
                    iterator, first = iter(loader), True
                    while True:
                        start = time.perf_counter()
                        try:
                            batch = next(iterator)
                        except StopIteration:
                            return
                        if not first:  # the first batch also starts the worker
                            waited += time.perf_counter() - start
                        first = False
                        yield batch

                def __len__(self):
                    return len(loader)

                def __getattr__(self, name):
                    return getattr(loader, name)

            return Loader()

    with tempfile.TemporaryDirectory() as folder:
        stage = recipe.stages[-1]
        args = recipe.arguments(
            stage, folder, max_steps=steps, save_strategy="no", eval_strategy="no", disable_tqdm=True
        )
        args.batch_quotas = {k: v for k, v in args.batch_quotas.items() if k in scenes}
        model = recipe.model.build(sorted({t for tags in scenes["weak"]["tags"] for t in tags}))
        trainer = Watched(model, args, dict(scenes))
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
    return seconds / steps, waited / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/few_labels.yaml")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--output", help="also write the numbers as JSON")
    options = parser.parse_args()
    recipe = load_recipe(options.recipe)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    quotas = recipe.arguments(recipe.stages[-1], "unused").batch_quotas
    values = recipe.data.compose or {}
    from hf_sed.data.soundscapes import settings_from

    settings = settings_from(values.get("settings") or {})
    scenes = compose(None, {"strong": 120, "weak": 120, "unlabelled": 240}, settings, num_proc=2)
    config = recipe.model.build(sorted({t for tags in scenes["weak"]["tags"] for t in tags})).config
    clips = SedClips(scenes, config)
    ten = recipe.model.build([str(i) for i in range(10)]).config
    batch = collate_clips([clips[name, i, 0] for name, quota in quotas.items() for i in range(quota)])
    batch.pop("clip_number")
    for key in ("strong_targets", "weak_targets"):  # ten classes, whatever the bank has
        batch[key] = torch.nn.functional.pad(batch[key], (0, ten.num_labels - batch[key].shape[-1]))
    batch = {k: v.to(device) for k, v in batch.items()}

    size = len(batch["groups"])
    name = (
        torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    )
    results = {p: measure(p, recipe, batch, device, options.steps, options.warmup) for p in PRESETS}
    any_row = results["conditional-mixup"]
    print(
        f"{name}, torch {torch.__version__}; {size} clips of {settings.duration:g} s; detector {any_row['parameters']:,} parameters,"
    )
    print(f"projector and predictor {any_row['head_parameters']:,}\n")
    print("| preset | s/step | clips/s | " + " | ".join(PARTS) + " | of supervised |")
    print("|---|---|---|" + "---|" * (len(PARTS) + 1))
    for preset, row in results.items():
        parts = " | ".join(f"{row[p]:.3f}" for p in PARTS)
        ratio = row["step"] / results["supervised"]["step"]
        print(f"| {preset} | {row['step']:.3f} | {size / row['step']:.0f} | {parts} | {ratio:.2f} |")
    step, share = waiting_share(recipe, scenes, 4 * options.steps)
    print(f"\nSedTrainer, conditional-mixup, default loader: {step:.3f} s/step, {share:.1%} of it waiting for data")
    if options.output:
        with open(options.output, "w") as file:
            json.dump(
                {"device": name, "clips": size, "presets": results, "trainer_step": step, "waiting_share": share},
                file,
                indent=1,
            )


if __name__ == "__main__":
    main()
