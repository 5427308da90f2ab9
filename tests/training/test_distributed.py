"""Several processes on one machine, over gloo."""

import json
import socket
from pathlib import Path

import pytest
import torch
import yaml
from datasets import DatasetDict
from safetensors.torch import load_file

from hf_sed.data.batches import QuotaBatchSampler
from hf_sed.training.checkpoints import last_complete_checkpoint, written_by
from tests.training.helpers import ROOT, assert_same, run_python
from tests.training.train_script import equal_run

SCRIPT = Path(__file__).with_name("evaluate_script.py")
TRAIN_SCRIPT = Path(__file__).with_name("train_script.py")


def accelerate_launch(*arguments, config="multi_cpu.yaml"):
    """`accelerate launch` with one of the shipped configs, two processes on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launch = ["-m", "accelerate.commands.launch", "--config_file", ROOT / "recipes/accelerate" / config]
    return run_python(*launch, "--num_processes", "2", "--main_process_port", port, *arguments)


def test_two_processes_evaluate_to_the_value_of_one(saved_detector, scenes, tmp_path):
    """Five clips in batches of two: the processes get unequal shares, and the sampler repeats clips to fill them up."""
    data = DatasetDict({"validation": scenes["validation"].select(range(5))})
    data.save_to_disk(tmp_path / "scenes")
    results = {}
    for processes in (1, 2):
        output = tmp_path / f"{processes}"
        launch = []
        if processes > 1:
            launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes]
        done = run_python(*launch, SCRIPT, saved_detector, tmp_path / "scenes", output)
        assert done.returncode == 0, done.stderr[-3000:]
        results[processes] = [json.loads((output / f"rank{i}.json").read_text()) for i in range(processes)]
    (one,), two = results[1], results[2]
    assert [r.pop("processes") for r in two] == [2, 2]
    del one["processes"]
    assert two[0] == two[1]
    assert two[0] == pytest.approx(one, abs=1e-9)
    assert one["eval_intersection_f1"] > 0  # the comparison is of more than zeros


@pytest.fixture(scope="module")
def two_processes(scenes, tmp_path_factory):
    """Folder of a run of `train_script.py` on two processes, beside the scenes that it saw."""
    folder = tmp_path_factory.mktemp("two")
    scenes.save_to_disk(folder / "scenes")
    (folder / "run").mkdir()
    done = accelerate_launch(TRAIN_SCRIPT, folder / "scenes", folder / "run", 0)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_processes_agree_exactly_after_five_steps(two_processes):
    """Student, teacher, projector and predictor, parameters and BatchNorm statistics, from other weights in each process, with
    dropout, mixup and other clips on each."""
    one, two = (load_file(two_processes / "run" / f"rank{rank}.safetensors") for rank in (0, 1))
    assert {name.split(".")[0] for name in one} == {"student", "teacher", "projector", "predictor", "projector_teacher"}
    assert_same(one, two)
    checkpoint = last_complete_checkpoint(two_processes / "run" / "agree")
    assert checkpoint.name == "checkpoint-5" and written_by(checkpoint) == 2
    assert not torch.equal(
        one["student.model.backbone.blocks.0.batch_norm.running_mean"],
        one["teacher.model/backbone/blocks/0/batch_norm/running_mean"],
    )


def test_two_processes_have_the_losses_of_one_on_the_same_global_batches(two_processes, train_sources, tmp_path):
    """Nine clips a batch, three strong and two weak: the processes get unequal shares of each kind."""
    expected = equal_run(train_sources, tmp_path)
    assert len(expected) == 5
    for rank in (0, 1):
        record = json.loads((two_processes / "run" / f"rank{rank}.json").read_text())
        assert record["processes"] == 2
        for found, log in zip(record["logs"], expected, strict=True):
            for name in ("loss", "loss_strong", "loss_weak", "loss_consistency", "grad_norm"):
                assert found[name] == pytest.approx(log[name], abs=1e-5, rel=1e-5), name
    assert expected[-1]["loss_consistency"] > 1e-6  # student and teacher have parted


def test_a_killed_process_and_a_resume_end_with_the_same_weights(two_processes, tmp_path):
    (tmp_path / "run").mkdir()
    arguments = (TRAIN_SCRIPT, two_processes / "scenes", tmp_path / "run")
    assert accelerate_launch(*arguments, 3).returncode != 0
    assert last_complete_checkpoint(tmp_path / "run" / "agree").name == "checkpoint-2"
    done = accelerate_launch(*arguments, 0)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        whole, resumed = (load_file(f / "run" / f"rank{rank}.safetensors") for f in (two_processes, tmp_path))
        assert whole.keys() == resumed.keys()
        for name in whole:
            assert torch.allclose(whole[name].float(), resumed[name].float(), atol=1e-6), name


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_processes_deal_out_the_batches_of_one(processes):
    sizes, quotas = {"strong": 9, "weak": 7, "unlabelled": 20}, {"strong": 3, "weak": 2, "unlabelled": 4}
    for epoch in (0, 2):
        samplers = [
            QuotaBatchSampler(sizes, quotas, 5),
            *(QuotaBatchSampler(sizes, quotas, 5, i, processes) for i in range(processes)),
        ]
        for sampler in samplers:
            sampler.set_epoch(epoch)
        for whole, *parts in zip(*samplers, strict=True):
            assert sorted(key for part in parts for key in part) == sorted(whole)
            assert {len(part) for part in parts} <= {9 // processes, -(-9 // processes)}
    with pytest.raises(ValueError, match="9 clips a batch cannot be shared by 10 processes"):
        QuotaBatchSampler(sizes, quotas, 5, 0, 10)


def test_a_launch_that_starts_one_process_instead_of_two_says_so(two_processes, tmp_path):
    """What `accelerate launch --cpu --num_processes 2` does; through the recipe, as a user would."""
    recipe = {
        "output_dir": str(tmp_path / "run"),
        "data": {"path": str(two_processes / "scenes")},
        "model": {"config": {"sequence_hidden_size": 4, "sequence_layers": 1}},
        "training": {"preset": "supervised", "max_steps": 1, "batch_quotas": {"strong": 2, "weak": 2}},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    launch = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2")
    done = run_python(*launch, ROOT / "recipes/train.py", tmp_path / "recipe.yaml")
    assert "asked for several processes but started only this one" in done.stderr
    assert "recipes/accelerate/multi_cpu.yaml" in done.stderr


def test_a_recipe_runs_on_two_processes_and_resumes_on_one(tmp_path):
    """From no scenes at all, through two stages, the second of them an adapter; then a resume by a single process."""
    crnn = {"model_type": "hf-sed-crnn", "conv_filters": [4, 6], "pooling": [[2, 8], [2, 8]]}
    recipe = {
        "output_dir": str(tmp_path / "run"),
        "data": {
            "path": str(tmp_path / "scenes"),
            "compose": {
                "sizes": {"strong": 6, "weak": 4, "unlabelled": 6, "validation": 3},
                "settings": {"duration": 2.0},
                "labels": ["Alarm", "Knock"],
            },
        },
        "model": {"config": {"backbone_config": crnn, "sequence_hidden_size": 4, "sequence_layers": 1, "clip_length": 2.0}},
        "training": {"max_steps": 2, "save_steps": 1, "audio_cache_dir": str(tmp_path / "cache"), "disable_tqdm": True},
        "stages": [
            {"name": "stage1", "training": {"preset": "supervised", "batch_quotas": {"strong": 2, "weak": 2}}},
            {"name": "stage2", "training": {"batch_quotas": {"strong": 2, "weak": 1, "unlabelled": 2}}, "lora": {"r": 2}},
        ],
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = (ROOT / "recipes/train.py", tmp_path / "recipe.yaml")
    done = accelerate_launch(*command)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line.split(":")[0] for line in done.stdout.splitlines() if line.startswith("stage")] == ["stage1", "stage2"]
    record = json.loads((tmp_path / "run" / "stage2" / "results.json").read_text())
    assert record["machine"].endswith("2 process(es)") and record["steps"] == 2
    assert (tmp_path / "run" / "stage2" / "adapter_model.safetensors").is_file()
    assert len(list((tmp_path / "cache").glob("*.arrow"))) == 4

    (tmp_path / "run" / "stage2" / "results.json").unlink()
    done = run_python(*command, "--resume", "--set", "max_steps=3")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "was written by 2 process(es) and is resumed by 1" in done.stderr
    record = json.loads((tmp_path / "run" / "stage2" / "results.json").read_text())
    assert record["machine"].endswith("1 process(es)") and record["steps"] == 3


@pytest.mark.parametrize("path", sorted((ROOT / "recipes/accelerate").glob("*.yaml")), ids=lambda p: p.name)
def test_the_shipped_accelerate_configs_are_valid(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    many, gpu = path.stem.startswith("multi"), path.stem.endswith("gpu")
    assert (config.num_processes > 1) == many
    assert config.distributed_type == ("MULTI_GPU" if many else "NO")
    assert config.mixed_precision == ("bf16" if gpu else "no")
