"""Speed and memory of every encoder under the detector, on 10 s clips.

    python benchmarks/encoders.py                   # all, forward and forward + backward
    python benchmarks/encoders.py --encoders atst beats --batch-size 4 --dtypes float32 bfloat16

Weights are random, sizes the published ones. Each row is a process of its own, so that its peak memory (of the process; on a GPU
of the allocator) is no other's. Clips a second, and how many seconds of audio a second that is. SDPA stands beside eager
attention where the encoder has attention.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch


def configs() -> dict:
    """Name -> (config, attention implementations)."""
    from transformers import ASTConfig, HubertConfig, Wav2Vec2Config, WhisperConfig

    import hf_sed

    attention = ("sdpa", "eager")
    quiet = {"apply_spec_augment": False, "layerdrop": 0.0}
    return {
        "crnn": (hf_sed.CrnnConfig(), (None,)),
        "yamnet": (hf_sed.YamnetConfig(out_layers=[6, 12, 14]), (None,)),
        "frame-mobilenet-06": (hf_sed.FrameMobilenetConfig(width=0.6), (None,)),
        "frame-mobilenet-10": (hf_sed.FrameMobilenetConfig(), (None,)),
        "atst": (hf_sed.AtstConfig(), attention),
        "passt": (hf_sed.PasstConfig(), attention),
        "beats": (hf_sed.BeatsConfig(), attention),
        "ast": (ASTConfig(), attention),
        "wav2vec2-base": (Wav2Vec2Config(**quiet), attention),
        "hubert-base": (HubertConfig(**quiet), attention),
        "whisper-base": (
            WhisperConfig(d_model=512, encoder_layers=6, encoder_attention_heads=8, encoder_ffn_dim=2048),
            attention,
        ),
    }


def measure(name: str, attention: str | None, dtype: str, batch_size: int, repeats: int, threads: int) -> dict:
    """One row."""
    import hf_sed

    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = configs()[name][0]
    config._attn_implementation = attention
    detector = hf_sed.SedForAudioFrameClassification(
        hf_sed.SedConfig(backbone_config=config, labels=list("0123456789"))
    )
    detector.to(device)
    x = 0.1 * torch.randn(batch_size, 160000, device=device)

    def wait() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def run(backward: bool) -> float:
        best = float("inf")
        for _ in range(repeats + 1):  # the first one warms up
            start = wait()
            with (
                torch.set_grad_enabled(backward),
                torch.autocast(device.type, getattr(torch, dtype), dtype != "float32"),
            ):
                logits = detector(x).logits
            if backward:
                logits.float().square().mean().backward()
                detector.zero_grad()
            best = min(best, wait() - start)
        return best

    detector.eval()
    forward = run(backward=False)
    after_forward = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    detector.train()
    both = run(backward=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if device.type == "cuda":
        after_forward, peak = None, torch.cuda.max_memory_allocated() / 2**30
    count = sum(p.numel() for p in detector.parameters())
    return {
        "encoder": name, "attention": attention or "", "dtype": dtype, "parameters": count,
        "forward": batch_size / forward, "both": batch_size / both, "memory_forward": after_forward, "memory": peak,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", choices=list(configs()), default=list(configs()))
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = (options.batch_size, options.repeats, options.threads)
    if options.one:
        print(json.dumps(measure(*json.loads(options.one), *sizes)))
        return
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {options.threads} threads"
    print(f"{device}, torch {torch.__version__}, batches of {options.batch_size} ten-second clips\n")
    print("| encoder | attention | dtype | parameters (M) | forward (clips/s) | × real time | forward + backward (clips/s) | "
          "peak memory, forward (GiB) | with backward (GiB) |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for name in options.encoders:
        for dtype in options.dtypes:
            for attention in configs()[name][1]:
                command = [sys.executable, "-W", "ignore", __file__, "--one", json.dumps([name, attention, dtype])]
                command += ["--batch-size", str(sizes[0]), "--repeats", str(sizes[1]), "--threads", str(sizes[2])]
                row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
                memory = "" if row["memory_forward"] is None else f"{row['memory_forward']:.2f}"
                print(
                    f"| {name} | {row['attention']} | {dtype} | {row['parameters'] / 1e6:.2f} | {row['forward']:.2f} | "
                    f"{10 * row['forward']:.0f} | {row['both']:.2f} | {memory} | {row['memory']:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
