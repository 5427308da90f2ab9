"""Evaluate a saved detector with `SedTrainer`, in as many processes as there are: argv is detector, scenes, output folder."""

import json
import sys
from pathlib import Path

import torch
from datasets import load_from_disk
from transformers import AutoModelForAudioFrameClassification

import hf_sed

if __name__ == "__main__":
    detector, scenes, output = sys.argv[1:]
    torch.set_num_threads(1)
    splits = load_from_disk(scenes)
    args = hf_sed.SedTrainingArguments(
        output, use_cpu=True, per_device_eval_batch_size=2, dataloader_num_workers=0, disable_tqdm=True
    )
    model = AutoModelForAudioFrameClassification.from_pretrained(detector)
    trainer = hf_sed.SedTrainer(model, args, eval_dataset=splits["validation"])
    metrics = trainer.evaluate()
    kept = {k: v for k, v in metrics.items() if "psds" in k or "f1" in k}
    rank = trainer.accelerator.process_index
    Path(output).mkdir(exist_ok=True)
    (Path(output) / f"rank{rank}.json").write_text(json.dumps({"processes": trainer.accelerator.num_processes, **kept}))
