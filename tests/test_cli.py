"""What a user types."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from hf_sed.cli import main
from hf_sed.events import read_annotations
from tests.training.test_recipe import MODEL

COMPOSE = [
    "--strong", "6", "--weak", "4", "--unlabelled", "6", "--validation", "4", "--labels", "Alarm", "Knock", "--seed", "0",
    "--set", "duration=2", "sampling_rate=8000", "event_length=[0.1,1.5]",
]  # fmt: skip


def recipe(tmp_path, **training):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "name": "cli",
                "output_dir": str(tmp_path / "run"),
                "data": {"path": str(tmp_path / "scenes")},
                "model": {"config": MODEL},
                "training": {
                    "use_cpu": True, "disable_tqdm": True, "dataloader_num_workers": 0, "max_steps": 2, "save_steps": 1,
                    "batch_quotas": {"strong": 2, "weak": 2, "unlabelled": 2}, **training,
                },
            }
        )
    )  # fmt: skip
    return str(path)


def test_compose_train_evaluate_detect(tmp_path, capsys):
    scenes, model = str(tmp_path / "scenes"), str(tmp_path / "run" / "train")
    assert main(["compose", "bank", scenes, *COMPOSE]) == 0
    assert "6 strong, 4 weak, 6 unlabelled, 4 validation" in capsys.readouterr().out
    assert main(["train", recipe(tmp_path)]) == 0
    assert "psds1" in capsys.readouterr().out
    assert main(["train", recipe(tmp_path), "--output-dir", str(tmp_path / "other"), "--set", "max_steps=1"]) == 0
    assert json.loads((tmp_path / "other" / "train" / "results.json").read_text())["steps"] == 1
    capsys.readouterr()
    report = tmp_path / "report.html"
    output = ["--output", str(tmp_path / "scores.json"), "--report", str(report)]
    assert main(["evaluate", model, scenes, *output, "--resamples", "20"]) == 0
    assert "Clips with most errors" in report.read_text()
    out = capsys.readouterr().out
    assert "PSDS1" in out and "Knock" in out
    assert 0 <= json.loads((tmp_path / "scores.json").read_text())["psds1"] <= 1
    assert main(["tune", model, scenes, "--metric", "intersection_f1", "--num-proc", "2"]) == 0
    assert "written to" in capsys.readouterr().out
    saved = json.loads((Path(model) / "config.json").read_text())
    assert len(saved["thresholds"]) == 2
    assert main(["evaluate", model, scenes, "--output", str(tmp_path / "tuned.json"), "--resamples", "0"]) == 0
    before, after = (json.loads((tmp_path / f"{n}.json").read_text())["intersection_f1"] for n in ("scores", "tuned"))
    assert after >= before  # the pipeline uses what was tuned, here on the same clips
    capsys.readouterr()
    folder = tmp_path / "field"
    folder.mkdir()
    rng = np.random.default_rng(0)
    soundfile.write(folder / "a.wav", 0.1 * rng.standard_normal(44100), 44100)
    soundfile.write(folder / "b.flac", 0.1 * rng.standard_normal((44100, 2)), 44100)
    assert (
        main(["detect", str(folder), "--model", model, "--threshold", "0.01", "--output", str(tmp_path / "events.tsv")])
        == 0
    )
    out = capsys.readouterr().out
    assert "a.wav" in out and "b.flac" in out
    assert set(read_annotations(tmp_path / "events.tsv").events) == {str(folder / "a.wav"), str(folder / "b.flac")}


def test_one_bad_file_does_not_lose_the_others(saved_detector, tmp_path, capsys):
    soundfile.write(tmp_path / "good.wav", np.zeros(8000) + 0.1, 8000)
    (tmp_path / "bad.wav").write_bytes(b"")
    status = main(
        [
            "detect",
            str(tmp_path / "bad.wav"),
            str(tmp_path / "good.wav"),
            "--model",
            str(saved_detector),
            "--threshold",
            "0.01",
        ]
    )
    captured = capsys.readouterr()
    assert status == 1
    assert "bad.wav: the file is empty" in captured.err
    assert "good.wav" in captured.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "no_such.yaml"], "no_such.yaml: no such recipe"),
        (["compose", "/no/such/folder", "/tmp/out-of-nothing"], "no such folder of recordings"),
        (["compose", "bank", "/tmp/out-of-nothing", "--set", "duraton=3"], "did you mean 'duration'"),
        (["evaluate", "model", "/no/such/scenes"], "no such folder of scenes"),
        (["compose", "bank", "/tmp/out-of-nothing", "--set", "duration"], "NAME=VALUE"),
    ],
)
def test_mistakes_are_one_line_not_a_traceback(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_an_interrupted_run_says_how_to_go_on_and_goes_on(tmp_path):
    assert main(["compose", "bank", str(tmp_path / "scenes"), *COMPOSE]) == 0
    path = recipe(tmp_path, max_steps=2000, save_steps=20, save_total_limit=2)
    command = [sys.executable, "-m", "hf_sed.cli", "train", path]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        # A shell starts background jobs with SIGINT ignored, and children inherit that; a user's terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    end = time.monotonic() + 120
    while time.monotonic() < end and not list((tmp_path / "run" / "train").glob("checkpoint-*/trainer_state.json")):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"go on with: hf-sed train {path} --resume" in errors
    refused = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    done = subprocess.run(
        [*command, "--resume", "--set", "max_steps=60"], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert Path(tmp_path / "run" / "train" / "model.safetensors").is_file()


def test_real_recordings_compose_and_a_detector_runs_on_one(shared, tmp_path, saved_detector, capsys):
    sizes = [
        "--strong",
        "3",
        "--weak",
        "2",
        "--unlabelled",
        "4",
        "--validation",
        "2",
        "--labelled-sources",
        "3",
        "--seed",
        "0",
    ]
    for processes in ("1", "2"):
        assert (
            main(["compose", str(shared / "recordings"), str(tmp_path / processes), *sizes, "--num-proc", processes])
            == 0
        )
    for file in sorted((tmp_path / "1").rglob("*.arrow")):
        assert file.read_bytes() == (tmp_path / "2" / file.relative_to(tmp_path / "1")).read_bytes()
    recording = sorted((shared / "recordings" / "Dog").glob("*.ogg"))[0]
    capsys.readouterr()
    assert main(["detect", str(recording), "--model", str(saved_detector), "--threshold", "0.01"]) == 0
    assert recording.name in capsys.readouterr().out
