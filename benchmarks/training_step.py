"""What a semi-supervised fine-tuning step costs: reference-style, ours, and ours as an adapter, on the same batch.

    python benchmarks/training_step.py --encoder atst-frame --cnn-branch --batch-size 4
    python benchmarks/training_step.py --recipe recipes/few_labels_yamnet.yaml   # model, batch and frozen parts of its last stage

- reference-style: two full models, front end once for each, eager attention, Adam without fusing and the average parameter by
  parameter, as in ATST-SED and the DCASE baseline.
- ours: `StudentTeacher` with SDPA and a fused optimiser; also with float32 matrix products as `float32_matmul_precision:
  medium` has them, with the encoder under `torch.compile` (``--compile``), in bfloat16 (``--bf16``; on a GPU always).
- ours, LoRA: the same code around an adapter (``--rank``).

All compute the ict preset's step, every batch mixed, on ten-second clips. Each row is a process of its own, so that its peak
memory is no other's. "Training state" is what exists beside the model: the teacher's tensors, gradients, optimiser.

Weights follow a rule (no download): sines of the tensor's name and place, scaled as an initialisation would. Afterwards the
adapter is trained for a few more steps, saved, loaded by the Auto class, merged, and its run resumed: what differs is printed.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import torch

import hf_sed
from hf_sed.training.losses import consistency_loss
from hf_sed.training.method import MethodSettings
from hf_sed.training.mixup import draw_plan
from hf_sed.training.recipe import load_recipe
from hf_sed.training.student_teacher import StudentTeacher

LABELS = list("0123456789")
KINDS = (0, 0, 1, 2)  # strong, strong, weak, unlabelled


ENCODERS = {
    "atst-frame": hf_sed.AtstConfig,
    "beats": hf_sed.BeatsConfig,
    "passt": hf_sed.PasstConfig,
    "yamnet": hf_sed.YamnetConfig,
}


@torch.no_grad()
def fill_by_rule(model: torch.nn.Module) -> None:
    """Weights that depend on a tensor's name and shape alone."""
    for name, p in model.named_parameters():
        phase = zlib.crc32(name.encode()) % 1000
        values = torch.sin(torch.arange(p.numel(), dtype=torch.float64) * 12.9898 + phase).view(p.shape)
        scale = p[0].numel() ** -0.5 if p.dim() > 1 else 0.1
        p.copy_(scale * values + (1.0 if "norm" in name and p.dim() == 1 and name.endswith("weight") else 0.0))


def build_detector(options, attention: str) -> hf_sed.SedForAudioFrameClassification:
    if options.recipe:
        detector = load_recipe(options.recipe).model.build(LABELS)
        if detector._supports_attention_backend and hasattr(detector.config.backbone_config, "num_attention_heads"):
            detector.set_attn_implementation(attention)
    else:
        sed = hf_sed.SedConfig(
            backbone_config=ENCODERS[options.encoder]().to_dict(),
            labels=LABELS,
            cnn_branch={} if options.cnn_branch else None,
        )
        if hasattr(sed.backbone_config, "num_attention_heads"):
            sed._attn_implementation = attention
        detector = hf_sed.SedForAudioFrameClassification(sed)
    fill_by_rule(detector)
    return detector


def make_batch(config, size: int, device) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    kinds = torch.tensor([KINDS[i * len(KINDS) // size] for i in range(size)])
    strong = (torch.rand(size, config.num_frames(160000), len(LABELS), generator=generator) > 0.9).float()
    batch = {
        "input_values": 0.1 * torch.randn(size, 160000, generator=generator),
        "strong_targets": strong,
        "weak_targets": strong.amax(1),
        "strong_mask": (kinds == 0).float(),
        "weak_mask": (kinds == 1).float(),
        "groups": kinds,
    }
    return {k: v.to(device) for k, v in batch.items()}


def settings_of(options) -> MethodSettings:
    settings = MethodSettings(preset="ict", mixup_probability=1.0, frozen=options.frozen)
    settings.resolve_preset()
    return settings


class ReferenceStyle:
    """The step as the reference systems run it."""

    def __init__(self, detector, options):
        from hf_sed.models.sed.loss_sed import strong_bce, weak_bce

        self.losses = strong_bce, weak_bce
        self.settings = settings_of(options)
        self.student = StudentTeacher(detector, self.settings).train().student  # frozen BatchNorm in evaluation mode
        self.teacher = copy.deepcopy(self.student)
        for parameter in self.teacher.parameters():
            parameter.requires_grad_(False)
        self.trained = [p for p in self.student.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.trained, lr=1e-4)

    def loss(self, batch):
        s, (strong_bce, weak_bce) = self.settings, self.losses
        plan = draw_plan(batch["groups"], s).to(batch["input_values"].device)
        mixed = self.student.model.spectrograms(batch["input_values"]).mixed(plan)
        student = self.student(spectrograms=mixed)
        with torch.no_grad():
            teacher = self.teacher(spectrograms=self.teacher.model.spectrograms(batch["input_values"]))
        loss = strong_bce(student.logits, plan.target(batch["strong_targets"]), batch["strong_mask"])
        weak = weak_bce(student.clip_probabilities, plan.target(batch["weak_targets"]), batch["weak_mask"])
        pseudo = consistency_loss(
            student.logits.float().sigmoid(), student.clip_probabilities,
            plan.target(teacher.logits.float().sigmoid()), plan.target(teacher.clip_probabilities), None, s.consistency_weak_factor,
        )  # fmt: skip
        return loss + s.weak_loss_weight * weak + s.consistency_weight * pseudo

    def average(self):
        with torch.no_grad():
            for ours, theirs in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                ours.mul_(0.999).add_(theirs, alpha=1 - 0.999)

    def teacher_tensors(self):
        return [*self.teacher.parameters(), *self.teacher.buffers()]


class Ours:
    """The step of [`StudentTeacher`], with the optimiser that `SedTrainer` uses."""

    def __init__(self, detector, options):
        self.learner = StudentTeacher(detector, settings_of(options)).train()
        if options.compile:
            self.learner.detector.model.backbone.compile()
        self.trained = [p for p in self.learner.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4, weight_decay=0.0, fused=True)

    def loss(self, batch):
        return self.learner(**batch).loss

    def average(self):
        self.learner.update_teacher(0.999)

    def teacher_tensors(self):
        return list(self.learner.teacher.buffers())


def step(system, batch, bf16: bool, device) -> float:
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        loss = system.loss(batch)
    loss.backward()
    system.optimizer.step()
    system.optimizer.zero_grad()
    system.average()
    return float(loss.detach())


def size_of(tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def measure(name: str, options) -> dict:
    """One row."""
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bf16, options.compile = "bfloat16" in name, "compiled" in name
    if "medium" in name:
        torch.set_float32_matmul_precision("medium")
    reference = name.startswith("reference")
    detector = build_detector(options, "eager" if reference else "sdpa").to(device)
    parameters = sum(p.numel() for p in detector.parameters())
    with tempfile.TemporaryDirectory() as folder:
        if "LoRA" in name:
            detector.save_pretrained(folder)
            detector = hf_sed.add_lora(hf_sed.SedForAudioFrameClassification.from_pretrained(folder), r=options.rank)
            detector.to(device)
        system = (ReferenceStyle if reference else Ours)(detector, options)
        batch = make_batch(detector.config, options.batch_size, device)
        seconds, losses = [], []
        for number in range(options.warmup + options.steps):
            torch.manual_seed(number)
            if device.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            losses.append(step(system, batch, bf16, device))
            if number >= options.warmup:
                seconds.append(time.perf_counter() - start)
        optimiser = [v for s in system.optimizer.state.values() for v in s.values() if torch.is_tensor(v)]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated() / 2**30
        row = {
            "system": name, "seconds": statistics.median(seconds), "peak": peak, "first_loss": losses[0], "parameters": parameters,
            "trained": sum(p.numel() for p in system.trained),
            "state": size_of(system.teacher_tensors()) + size_of(system.trained) + size_of(optimiser),
        }  # fmt: skip
        if "LoRA" in name:
            row |= round_trip(system, batch, options, Path(folder), device)
    return row


def round_trip(system: Ours, batch, options, base: Path, device) -> dict:
    """Bytes of the saved adapter, and the largest differences after loading, merging and resuming."""
    from peft import PeftModel
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForAudioFrameClassification

    learner, folder = system.learner, base / "adapter"
    x = batch["input_values"][:2]

    @torch.no_grad()
    def logits(model):
        return model.to(device).eval()(x).logits

    learner.eval()
    expected = learner.predict("teacher", input_values=x).logits
    with learner.as_network("teacher") as teacher:
        teacher.save_pretrained(folder)
    loaded = AutoModelForAudioFrameClassification.from_pretrained(folder)
    merged = PeftModel.from_pretrained(
        AutoModelForAudioFrameClassification.from_pretrained(base), folder
    ).merge_and_unload()
    out = {
        "adapter_bytes": sum(p.stat().st_size for p in folder.glob("*.safetensors")),
        "loaded": float((logits(loaded) - expected).abs().max()),
        "merged": float((logits(merged) - expected).abs().max()),
        "change": float((logits(AutoModelForAudioFrameClassification.from_pretrained(base)) - expected).abs().max()),
    }
    # Resume: the state goes to a file and into a new run, which then takes the same step.
    save_file({k: v.detach().clone() for k, v in learner.state_dict().items()}, base / "state.safetensors")
    torch.save(system.optimizer.state_dict(), base / "optimizer.pt")
    other = Ours(
        hf_sed.add_lora(AutoModelForAudioFrameClassification.from_pretrained(base), r=options.rank).to(device), options
    )
    other.learner.load_state_dict(load_file(base / "state.safetensors"))
    other.optimizer.load_state_dict(torch.load(base / "optimizer.pt"))
    for run in (system, other):
        run.learner.train()
        torch.manual_seed(99)
        step(run, batch, False, device)
    pairs = zip(learner.state_dict().values(), other.learner.state_dict().values(), strict=True)
    out["resumed"] = max(float((a.float() - b.float()).abs().max()) for a, b in pairs)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="atst-frame", choices=list(ENCODERS))
    parser.add_argument("--recipe", help="take model, batch size and frozen parts from there")
    parser.add_argument("--cnn-branch", action="store_true", help="ATST-SED's convolutional branch beside it")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--frozen", nargs="*", default=[])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--bf16", action="store_true", help="rows in bfloat16 autocast too")
    parser.add_argument("--compile", action="store_true", help="a row with the encoder under torch.compile too")
    parser.add_argument("--output", help="also write the rows as JSON")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.recipe:
        recipe = load_recipe(options.recipe)
        stage = recipe.arguments(recipe.stages[-1], Path("unused"))
        options.batch_size, options.frozen = sum(stage.batch_quotas.values()), stage.frozen
    if options.one:
        print(json.dumps(measure(options.one, options)))
        return
    cuda = torch.cuda.is_available()
    names = ["reference-style", "ours", "ours, LoRA", "ours, medium", "ours, LoRA, medium"]
    names += ["ours, compiled"] if options.compile else []
    names += ["ours, bfloat16", "ours, LoRA, bfloat16"] if options.bf16 or cuda else []
    names += ["ours, compiled, bfloat16"] if options.compile and (options.bf16 or cuda) else []
    rows = []
    for name in names:
        command = [sys.executable, "-W", "ignore", __file__, "--one", name, *sys.argv[1:]]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], file=sys.stderr)
    device = torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU, {options.threads} threads"
    print(f"{device}, torch {torch.__version__}, {options.recipe or options.encoder}"
          f"{' and CNN branch' if options.cnn_branch else ''}, "
          f"{options.batch_size} ten-second clips, {rows[0]['parameters']:,} parameters\n")  # fmt: skip
    print(
        "| step | s/step | of reference-style's speed | peak memory (GiB) | trained parameters | training state (MB) |"
    )
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['system']} | {row['seconds']:.2f} | {rows[0]['seconds'] / row['seconds']:.2f} | {row['peak']:.2f} | "
            f"{row['trained']:,} | {row['state'] / 1e6:.1f} |"
        )
    full, lora = rows[1], rows[2]
    print(
        f"\nloss of the first step: {', '.join(format(row['first_loss'], '.6f') for row in rows)}\n"
        f"LoRA's training state: {lora['state'] / full['state']:.1%} of the full one's; adapter on disk {lora['adapter_bytes'] / 1e6:.2f} MB\n"
        f"adapter (logits {lora['change']:.2g} away from its base): loaded {lora['loaded']:.1e}, merged {lora['merged']:.1e}, resumed "
        f"{lora['resumed']:.1e} apart"
    )
    if options.output:
        Path(options.output).write_text(
            json.dumps({"device": device, "options": vars(options), "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
