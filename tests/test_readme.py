"""What the README tells users to type, run as it stands but for the number of steps."""

import re
from pathlib import Path

import pytest
import soundfile
import yaml

from hf_sed.audio import load_audio
from hf_sed.data.soundscapes import SoundscapeSettings, compose
from hf_sed.events import write_annotations
from hf_sed.training.recipe import recipe_from, run_recipe

README = (Path(__file__).parents[1] / "README.md").read_text()


def block(language: str, containing: str) -> str:
    return next(b for b in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if containing in b)


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """A user's folders of audio with their annotations."""
    settings = SoundscapeSettings(duration=1.0, event_length=(0.1, 0.9), events=(1, 2))
    scenes = compose(
        None, {"strong": 8, "weak": 8, "unlabelled": 12, "validation": 3}, settings, labels=["Bark", "Knock"]
    )
    for split, dataset in scenes.items():
        (tmp_path / "clips" / split).mkdir(parents=True)
        for row in dataset:
            soundfile.write(tmp_path / "clips" / split / row["audio"]["path"], load_audio(row["audio"], 16000), 16000)
    for split in ("strong", "validation"):
        write_annotations(tmp_path / "clips" / f"{split}.tsv", {r["audio"]["path"]: r["events"] for r in scenes[split]})
    rows = "".join(f"{r['audio']['path']}\t{','.join(r['tags'])}\n" for r in scenes["weak"])
    (tmp_path / "clips" / "weak.tsv").write_text("filename\tevent_labels\n" + rows)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore:no ground truth for class")
def test_the_python_example(clips):
    code = block("python", "def train(folder")
    assert "trainer.push_to_hub()" in code  # what it does is tested in tests/sharing
    code = re.sub(r"max_steps=\d+", 'max_steps=1, use_cpu=True, save_strategy="no"', code).replace(
        "save_steps=500, ", ""
    )
    exec(code.replace("trainer.push_to_hub()", "saved = 'runs/mine/stage2'"), {})
    assert (clips / "runs" / "mine" / "stage2" / "model.safetensors").is_file()


@pytest.mark.filterwarnings("ignore:no ground truth for class")
def test_the_recipe(clips):
    recipe = recipe_from(yaml.safe_load(block("yaml", "name: mine")))
    records = run_recipe(recipe, max_steps=1, use_cpu=True, save_strategy="no")
    assert [r["model"] for r in records] == ["runs/mine/stage1", "runs/mine/stage2"]
