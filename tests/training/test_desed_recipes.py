"""The DESED recipes as a user runs them, on a few one-second clips in DESED's layout and a narrow ATST-Frame."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from transformers import AutoModelForAudioFrameClassification, pipeline

import hf_sed
from hf_sed.cli import main
from hf_sed.data.desed import LABELS, LAYOUT
from hf_sed.events import write_annotations

RECIPES = Path(__file__).parents[2] / "recipes"
FEW = [
    "--set", "batch_quotas={strong: 1, synthetic: 1, weak: 2, unlabelled: 2}", "max_steps=2", "eval_steps=1", "save_steps=1",
    "dataloader_num_workers=0", "disable_tqdm=true", "per_device_eval_batch_size=2", "ramp_steps=1",
]  # fmt: skip


@pytest.fixture
def desed(tmp_path, monkeypatch):
    """DESED's root; the working directory holds runs/atst."""
    random = np.random.default_rng(0)
    for split in ("strong", "synthetic", "weak", "unlabelled", "synthetic_validation"):
        audio, metadata = (None if part is None else tmp_path / "DESED" / part for part in LAYOUT[split])
        audio.mkdir(parents=True)
        names = [f"{split}{i}.wav" for i in range(3)]
        for name in names:
            soundfile.write(audio / name, 0.1 * random.standard_normal(16000), 16000)
        if metadata is not None:
            metadata.parent.mkdir(parents=True, exist_ok=True)
        if split == "weak":
            metadata.write_text("filename\tevent_labels\n" + "".join(f"{n}\tDog,{LABELS[0]}\n" for n in names))
        elif metadata is not None:
            # One file that has gone from the web, as some of DESED's have.
            events = {
                n: [hf_sed.Event(LABELS[(i + j) % 10], 0.1, 0.6) for j in range(4)]
                for i, n in enumerate([*names, "gone.wav"])
            }
            write_annotations(metadata, events)
    torch.manual_seed(0)
    encoder = hf_sed.AtstConfig(hidden_size=16, intermediate_size=16, num_attention_heads=2, num_hidden_layers=3)
    monkeypatch.chdir(tmp_path)
    hf_sed.AtstModel(encoder).save_pretrained("runs/atst")
    return tmp_path / "DESED"


@pytest.mark.filterwarnings("ignore:.*files are not in", "ignore:no ground truth for class")
def test_the_stages_follow_one_another(desed, capsys):
    for name in ("desed_stage1", "desed_stage2", "desed_stage2_conditional"):
        assert main(["train", str(RECIPES / f"{name}.yaml"), "--data", str(desed), *FEW]) == 0, capsys.readouterr().err
    runs = {
        n: json.loads(Path(f"runs/desed/{n}/results.json").read_text())
        for n in ("stage1", "stage2", "stage2_conditional")
    }
    one, two, new = runs.values()
    assert one["started_from"] == "runs/atst"
    assert two["started_from"] == new["started_from"] == "runs/desed/stage1"
    assert one["trained_parameters"] < two["trained_parameters"]
    assert two["clips"] == {"strong": 3, "synthetic": 3, "weak": 3, "unlabelled": 3}
    assert two["layer_decay"] == 0.5 and two["method"]["augmentation"][0]["name"] == "frequency_warp"
    before, after = (
        AutoModelForAudioFrameClassification.from_pretrained(f"runs/desed/{n}") for n in ("stage1", "stage2")
    )
    original = hf_sed.AtstModel.from_pretrained("runs/atst").state_dict()
    frozen = before.model.backbone.state_dict()
    assert all(torch.equal(value, frozen[name]) for name, value in original.items())
    assert not torch.equal(frozen["layers.2.fc1.weight"], after.model.backbone.layers[2].fc1.weight)
    assert before.config.labels == list(LABELS) and before.config.frame_hop == pytest.approx(0.064)
    assert after.config.median_filter[1] == pytest.approx(20 * 0.064)
    events = pipeline("sound-event-detection", model="runs/desed/stage2_conditional")(
        str(next((desed / "audio/train/weak").iterdir()))
    )
    assert isinstance(events, list)


@pytest.mark.filterwarnings("ignore:.*files are not in", "ignore:no ground truth for class")
def test_the_second_stage_as_an_adapter(desed):
    """As the recipe's comment says."""
    assert main(["train", str(RECIPES / "desed_stage1.yaml"), "--data", str(desed), *FEW]) == 0
    recipe = yaml.safe_load((RECIPES / "desed_stage2.yaml").read_text())
    (stage,) = recipe["stages"]
    stage["lora"] = {"r": 2}
    stage["training"] |= {
        "layer_decay": 1.0,
        "learning_rate_mapping": {"model.cnn_branch": 0.0002, "model.backbone": 0.001},
    }
    Path("lora.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["train", "lora.yaml", "--data", str(desed), *FEW]) == 0
    loaded = AutoModelForAudioFrameClassification.from_pretrained("runs/desed/stage2")
    base = AutoModelForAudioFrameClassification.from_pretrained("runs/desed/stage1")
    names = [n for n, _ in loaded.named_parameters() if "lora_A" in n]
    assert len(names) == 3 * 5 + 1  # five linear layers of each block (not the keys), and the patch embedding
    assert torch.equal(loaded.model.backbone.layers[0].fc1.base_layer.weight, base.model.backbone.layers[0].fc1.weight)
    record = json.loads(Path("runs/desed/stage2/results.json").read_text())
    assert record["lora"]["r"] == 2
