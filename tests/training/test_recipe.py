import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hf_sed.training.compare import format_table, run_comparison
from hf_sed.training.recipe import RecipeError, load_recipe, recipe_from, run_recipe

ROOT = Path(__file__).parents[2]
MODEL = {
    "backbone_config": {
        "model_type": "hf-sed-crnn",
        "front_end": {"sampling_rate": 8000, "win_length": 256, "n_fft": 256, "hop_length": 128, "num_mel_bins": 16, "f_max": 4000.0},
        "conv_filters": [4, 6], "pooling": [[2, 4], [2, 4]],
    },
    "sequence_hidden_size": 4, "sequence_layers": 1, "clip_length": 2.0,
}  # fmt: skip


@pytest.fixture
def values(tmp_path):
    return {
        "name": "tiny",
        "output_dir": str(tmp_path / "run"),
        "data": {
            "path": str(tmp_path / "scenes"),
            "compose": {
                "sizes": {"strong": 6, "weak": 4, "unlabelled": 6, "validation": 4},
                "settings": {"duration": 2.0, "sampling_rate": 8000, "event_length": [0.1, 1.5]},
                "labels": ["Alarm", "Knock"],
            },
        },
        "model": {"config": MODEL},
        "training": {
            "use_cpu": True,
            "disable_tqdm": True,
            "dataloader_num_workers": 0,
            "max_steps": 2,
            "save_steps": 1,
        },
        "stages": [
            {"name": "stage1", "training": {"preset": "supervised", "batch_quotas": {"strong": 2, "weak": 2}}},
            {
                "name": "stage2",
                "training": {"batch_quotas": {"strong": 2, "weak": 2, "unlabelled": 2}, "consistency_weight": 7},
            },
        ],
    }


def write(values, path):
    path.write_text(yaml.safe_dump(values))
    return path


def test_stages_follow_one_another_and_leave_records_and_cards(values, tmp_path):
    records = run_recipe(recipe_from(values))
    assert [r["stage"] for r in records] == ["stage1", "stage2"]
    assert records[1]["started_from"] == records[0]["model"] == str(tmp_path / "run" / "stage1")
    assert records[0]["clips"] == {"strong": 6, "weak": 4}
    assert records[1]["clips"] == {"strong": 6, "weak": 4, "unlabelled": 6}
    stored = json.loads((tmp_path / "run" / "stage2" / "results.json").read_text())
    assert stored["metrics"]["psds1"] == records[1]["metrics"]["psds1"]
    assert "PSDS1" in (tmp_path / "run" / "stage2" / "README.md").read_text()
    before = (tmp_path / "run" / "stage2" / "model.safetensors").stat().st_mtime_ns
    assert run_recipe(recipe_from(values))[1] == stored  # a finished stage is not run again
    assert (tmp_path / "run" / "stage2" / "model.safetensors").stat().st_mtime_ns == before


def test_an_unfinished_run_is_not_overwritten(values, tmp_path):
    run_recipe(recipe_from(values))
    (tmp_path / "run" / "stage2" / "results.json").unlink()
    with pytest.raises(RecipeError, match="--resume"):
        run_recipe(recipe_from(values))
    assert run_recipe(recipe_from(values), resume=True)[1]["steps"] == 2


def test_a_recipe_trains_an_adapter(values, tmp_path):
    record = run_recipe(recipe_from({**values, "lora": {"r": 2}}))[1]
    assert record["lora"] == {"r": 2, "alpha": 4, "dropout": 0.0}
    card = (tmp_path / "run" / "stage2" / "README.md").read_text()
    assert "| adapter | LoRA, r 2, alpha 4, dropout 0.0;" in card
    assert record["trained_parameters"] < record["parameters"]
    assert (tmp_path / "run" / "stage2" / "adapter_model.safetensors").is_file()
    single = {**values, "stages": None, "output_dir": str(tmp_path / "single"), "lora": {"r": 2}}
    run_recipe(recipe_from(single))  # from a new model, whose base is saved beside the adapter
    assert (tmp_path / "single" / "train" / "base" / "model.safetensors").is_file()


@pytest.mark.parametrize("lora", [None, {"r": 3}])
def test_a_stage_starts_from_the_adapter_of_the_one_before(values, tmp_path, lora):
    """Merged: what the second stage starts from gives what the first one's adapter gives."""
    import torch
    from transformers import AutoModelForAudioFrameClassification

    values["stages"][0] |= {"lora": {"r": 2}}
    values["stages"][1] |= {"lora": lora}
    values["training"] |= {"learning_rate": 0.05, "save_strategy": "no", "evaluate_with": "student"}
    values["stages"][1]["training"] |= {"learning_rate": 0.0, "frozen": [r"model\.backbone.*batch_norm"]}
    run_recipe(recipe_from(values))
    stages = [tmp_path / "run" / f"stage{i}" for i in (1, 2)]
    one, two = (AutoModelForAudioFrameClassification.from_pretrained(f).eval() for f in stages)
    assert (stages[1] / "adapter_config.json").is_file() == (lora is not None)
    assert any(p.abs().max() > 0 for n, p in one.named_parameters() if "lora_B" in n)
    x = 0.1 * torch.randn(2, 8000)
    with torch.no_grad():
        assert torch.allclose(one(x).logits, two(x).logits, atol=1e-5)


def test_a_comparison_starts_all_presets_from_the_same_model(values, tmp_path):
    values["compare"] = {
        "presets": ["supervised", "conditional-mixup"],
        "seeds": [0, 1],
        "overrides": {"supervised": {"learning_rate": 0.002}},
    }
    result = run_comparison(recipe_from(values))
    assert [r["row"] for r in result["rows"]] == ["stage1", "supervised", "conditional-mixup"]
    assert all(row["seeds"] == [0, 1] for row in result["rows"])
    runs = {(r["row"], r["seed"]): r for r in result["runs"]}
    for seed in (0, 1):
        assert (
            runs["supervised", seed]["started_from"]
            == runs["conditional-mixup", seed]["started_from"]
            == runs["stage1", seed]["model"]
        )
        assert runs["supervised", seed]["learning_rate"] == 0.002
        # A weight that the stage sets for all presets does not make a teacher of the supervised one.
        assert runs["supervised", seed]["method"]["consistency_weight"] == 0
        assert runs["conditional-mixup", seed]["method"]["consistency_weight"] == 7
        assert runs["supervised", seed]["steps"] == runs["conditional-mixup", seed]["steps"]
    assert json.loads((tmp_path / "run" / "results.json").read_text())["rows"] == json.loads(json.dumps(result["rows"]))
    table = format_table(result["rows"])
    assert table.count("\n") == 4
    for row, run in ((r, runs[r["row"], 0]) for r in result["rows"]):
        assert row["trained_parameters"] == run["trained_parameters"] > 0
        assert row["saved_bytes"] > 4 * run["parameters"]
    assert "| 2 | 2 |" in next(line for line in table.splitlines() if line.startswith("| conditional-mixup |"))


def test_a_comparison_sets_adapters_beside_all_weights(values, tmp_path):
    values["compare"] = {
        "presets": ["supervised"],
        "variants": {"": {}, "LoRA r=2": {"lora": {"r": 2}, "training": {"learning_rate": 0.005}}},
    }
    result = run_comparison(recipe_from(values))
    full, adapter = result["rows"][1:]
    assert (full["row"], adapter["row"]) == ("supervised", "supervised LoRA r=2")
    assert adapter["trained_parameters"] < full["trained_parameters"]
    runs = {r["row"]: r for r in result["runs"]}
    assert [runs[r["row"]]["learning_rate"] for r in (full, adapter)] == [0.001, 0.005]
    assert runs[full["row"]]["lora"] is None and runs[adapter["row"]]["lora"]["r"] == 2
    assert (tmp_path / "run" / "seed0" / "supervised_LoRA_r=2" / "adapter_model.safetensors").is_file()
    values["compare"]["variants"]["x"] = {"trainig": {}}
    with pytest.raises(RecipeError, match=r"compare\.variants\.x: unknown key 'trainig'"):
        recipe_from(values)


def test_sources_can_be_annotated_folders(values, tmp_path):
    import soundfile
    from datasets import load_from_disk

    from hf_sed.audio import load_audio
    from hf_sed.events import write_annotations

    run_recipe(recipe_from(values))
    scenes = load_from_disk(values["data"]["path"])
    for split in scenes:
        folder = tmp_path / split
        folder.mkdir()
        for row in scenes[split]:
            soundfile.write(folder / row["audio"]["path"], load_audio(row["audio"], 8000), 8000)
    write_annotations(tmp_path / "strong.tsv", {r["audio"]["path"]: r["events"] for r in scenes["strong"]})
    write_annotations(tmp_path / "validation.tsv", {r["audio"]["path"]: r["events"] for r in scenes["validation"]})
    values["data"] = {
        "sources": {
            "mine": {"audio": str(tmp_path / "strong"), "annotations": str(tmp_path / "strong.tsv")},
            "field": {"audio": str(tmp_path / "unlabelled")},
        },
        "validation": {"audio": str(tmp_path / "validation"), "annotations": str(tmp_path / "validation.tsv")},
    }
    values.update(output_dir=str(tmp_path / "mine_run"), stages=None)
    record = run_recipe(recipe_from(values))[0]
    assert record["clips"] == {"mine": 6, "field": 6}
    assert "psds1" in record["metrics"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(modle={}), "unknown key 'modle'; did you mean 'model'"),
        (
            lambda v: v["training"].update(learning_rat=1),
            "training: unknown key 'learning_rat'; did you mean 'learning_rate'",
        ),
        (lambda v: v["data"].update(pth="x"), "data: unknown key 'pth'; did you mean 'path'"),
        (lambda v: v["stages"][0].update(trainig={}), "unknown key 'trainig'; did you mean 'training'"),
        (
            lambda v: v["stages"][1]["training"].update(mixup_treshold=1),
            "stage 'stage2', training: unknown key 'mixup_treshold'; did you mean 'mixup_threshold'",
        ),
        (lambda v: v["training"].update(preset="fixmatch"), "preset 'fixmatch'"),
        (lambda v: v.pop("data"), "no `data` block"),
        (lambda v: v["stages"][1].update(name="stage1"), "different names"),
        (lambda v: v.update(compare={"presets": ["best"]}), "preset 'best'"),
        (lambda v: v.update(data=["x"]), "expected keys and values"),
    ],
)
def test_bad_recipes_are_explained_before_anything_runs(values, change, message, tmp_path):
    change(values)
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(values, tmp_path / "r.yaml"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["model"]["config"].update(sequence_hiden_size=3), "did you mean 'sequence_hidden_size'"),
        (lambda v: v["data"]["compose"].update(size={}), "did you mean 'sizes'"),
        (lambda v: v.update(data={"path": "/nowhere/at/all"}), "does not exist"),
        (lambda v: v["data"].update(validation="test"), "no split 'test'"),
    ],
)
def test_bad_blocks_are_explained(values, change, message):
    values = json.loads(json.dumps(values))
    change(values)
    with pytest.raises(RecipeError, match=message):
        run_recipe(recipe_from(values))


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.name)
def test_the_shipped_recipes_are_valid(path):
    assert load_recipe(path).stages


def test_accelerate_launch_runs_the_same_yaml(values, tmp_path):
    recipe = write(values, tmp_path / "r.yaml")
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "1",
        str(ROOT / "recipes" / "train.py"),
        str(recipe),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "stage2" in done.stdout
    assert (tmp_path / "run" / "stage2" / "model.safetensors").is_file()


def test_a_model_starts_from_an_encoder_or_a_detector(saved_detector, tmp_path):
    from hf_sed import SedForAudioFrameClassification
    from hf_sed.training.recipe import ModelRecipe

    SedForAudioFrameClassification.from_pretrained(saved_detector).model.backbone.save_pretrained(tmp_path / "encoder")
    recipe = ModelRecipe(
        init_from=str(tmp_path / "encoder"), config={"sequence_model": "none"}, backbone={"dropout": 0.25}
    )
    model = recipe.build(["Owl", "Fox"])
    assert model.config.labels == ["Owl", "Fox"]
    assert model.config.backbone_config.dropout == 0.25
    assert ModelRecipe(init_from=str(saved_detector)).build(["Owl"]).config.labels == ["Alarm", "Bark", "Knock"]
    assert ModelRecipe(init_from=str(saved_detector), labels=["Owl"]).build([]).config.labels == ["Owl"]
    with pytest.raises(ValueError, match="backbone_settings are for encoders"):
        ModelRecipe(init_from=str(saved_detector), backbone={"dropout": 0.5}).build([])
