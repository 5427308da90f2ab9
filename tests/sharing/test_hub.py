"""Push and load through a stand-in for the Hub on loopback, in processes of their own (its address is read at import)."""

import base64
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def hub():
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("fake_hub.py"))], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def run(code: str, endpoint: str, home: Path, *arguments: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": endpoint, "HF_TOKEN": "hf_secret_token_123", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home), "PYTHONPATH": str(ROOT),
        "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, timeout=300, cwd=home
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def held(endpoint: str) -> dict[str, dict[str, bytes]]:
    with urllib.request.urlopen(f"{endpoint}/__files__") as reply:
        return {repo: {p: base64.b64decode(b) for p, b in files.items()} for repo, files in json.load(reply).items()}


TRAIN = """
import sys, torch
from datasets import load_from_disk
import hf_sed
from tests.conftest import tiny_config
from tests.training.helpers import arguments
data = load_from_disk(sys.argv[1])
torch.manual_seed(0)
trainer = hf_sed.SedTrainer(
    hf_sed.SedForAudioFrameClassification(tiny_config()),
    arguments(sys.argv[2], max_steps=4, save_steps=2, push_to_hub=True, hub_model_id="user/sed", hub_strategy=sys.argv[3]),
    {k: data[k] for k in ("strong", "weak", "unlabelled")}, data["validation"],
)
trainer.train()
trainer.evaluate()
trainer.push_to_hub()
trainer.learner.eval()
with torch.no_grad():
    print(repr(trainer.learner.predict("teacher", input_values=torch.sin(torch.arange(8000) / 9.0)[None]).logits.sum().item()))
"""

LOAD = """
import torch, hf_sed
from transformers import AutoFeatureExtractor, AutoModelForAudioFrameClassification, pipeline
model = AutoModelForAudioFrameClassification.from_pretrained("user/sed").eval()
assert AutoFeatureExtractor.from_pretrained("user/sed").sampling_rate == 8000
with torch.no_grad():
    print(repr(model(torch.sin(torch.arange(8000) / 9.0)[None]).logits.sum().item()))
pipeline("sound-event-detection", model="user/sed")({"array": torch.zeros(4000).numpy(), "sampling_rate": 8000})
"""


@pytest.mark.parametrize("strategy", ["end", "every_save"])
def test_a_run_is_pushed_and_loads_by_its_id(hub, scenes, tmp_path, strategy):
    scenes.save_to_disk(tmp_path / "scenes")
    pushed = run(TRAIN, hub, tmp_path, str(tmp_path / "scenes"), str(tmp_path / "run"), strategy)
    files = held(hub)["user/sed"]
    assert set(files) - {".gitattributes"} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "README.md",
    }
    assert float(run(LOAD, hub, tmp_path / "run").split()[-1]) == pytest.approx(float(pushed.split()[-1]), abs=1e-3)
    card = files["README.md"].decode()
    assert "PSDS1" in card and "user/sed" in card and "library_name: hf_sed" in card
    for name, content in files.items():
        for secret in (b"hf_secret_token_123", str(tmp_path).encode(), b"/root", b"/home"):
            assert secret not in content, (name, secret)


def test_the_card_carries_the_scores_of_the_run(hub, scenes, tmp_path):
    from huggingface_hub import ModelCard

    scenes.save_to_disk(tmp_path / "scenes")
    run(TRAIN, hub, tmp_path, str(tmp_path / "scenes"), str(tmp_path / "run"), "end")
    card = ModelCard(held(hub)["user/sed"]["README.md"].decode())
    logged = json.loads((tmp_path / "run" / "checkpoint-4" / "trainer_state.json").read_text())
    assert logged["global_step"] == 4
    scores = {r.metric_type: r.metric_value for r in card.data.eval_results}
    assert set(scores) == {"psds1", "psds2", "intersection_f1"}
    assert card.data.pipeline_tag == "audio-classification"


DATA = """
import sys
from datasets import load_from_disk, load_dataset
import hf_sed
scenes = load_from_disk(sys.argv[1])
scenes.push_to_hub("user/scenes")
loaded = load_dataset("user/scenes")
assert loaded["strong"][0]["events"] == scenes["strong"][0]["events"]
assert len(hf_sed.load_audio(loaded["strong"][0]["audio"], 8000)) == 16000
print("same")
"""


def test_scenes_are_pushed_and_loaded_without_torchcodec(hub, scenes, tmp_path):
    scenes.save_to_disk(tmp_path / "scenes")
    assert "same" in run(DATA, hub, tmp_path, str(tmp_path / "scenes"))


PUSH = "import sys; from hf_sed.cli import main; sys.exit(main(['push', sys.argv[1], 'user/by-hand']))"


def test_the_command_line_pushes_a_saved_detector(hub, saved_detector, tmp_path):
    (saved_detector / "notes.txt").write_text("private")
    run(PUSH, hub, tmp_path, str(saved_detector))
    assert set(held(hub)["user/by-hand"]) - {".gitattributes"} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }


def test_what_is_no_detector_or_refers_to_a_local_folder_is_not_pushed(tmp_path):
    from hf_sed.sharing.hub import upload_model_folder

    with pytest.raises(FileNotFoundError, match="no saved detector"):
        upload_model_folder(tmp_path, "user/x")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path)}))
    with pytest.raises(ValueError, match="local folder"):
        upload_model_folder(tmp_path, "user/x")
