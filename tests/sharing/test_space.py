"""The demo Space, started as a Space would start it and called as its users' code would call it."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

ROOT = Path(__file__).parents[2]
SPACE = ROOT / "spaces" / "sound_event_detection"

gradio_client = pytest.importorskip("gradio_client")


@pytest.fixture
def address(saved_detector, tmp_path):
    environment = {
        **os.environ, "MODEL_ID": str(saved_detector), "GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_SERVER_NAME": "127.0.0.1",
        "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, str(SPACE / "app.py")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
    )
    try:
        lines, end = [], time.monotonic() + 120
        while time.monotonic() < end:
            line = process.stdout.readline()
            lines.append(line)
            if match := re.search(r"http://127\.0\.0\.1:\d+", line):
                yield match[0]
                return
            if not line and process.poll() is not None:
                break
        pytest.fail("".join(lines))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_api_detects_events_in_an_uploaded_file(address, tmp_path):
    rate = 22050
    soundfile.write(tmp_path / "bark.flac", 0.2 * np.random.default_rng(0).standard_normal(2 * rate), rate)
    client = gradio_client.Client(address, verbose=False)
    picture, table = client.predict(
        audio=gradio_client.handle_file(str(tmp_path / "bark.flac")), threshold=0.05, api_name="/detect"
    )
    assert picture["type"] == "matplotlib"
    assert picture["plot"].startswith("data:image")
    assert table["headers"] == ["event", "onset (s)", "offset (s)", "score"]
    label, onset, offset, score = table["data"][0]
    assert label in ("Alarm", "Bark", "Knock")
    assert 0 <= onset < offset <= 2
    assert 0.05 < score <= 1
    (tmp_path / "broken.wav").write_bytes(b"RIFF....")
    with pytest.raises(Exception, match="cannot be decoded"):
        client.predict(audio=gradio_client.handle_file(str(tmp_path / "broken.wav")), threshold=0.0, api_name="/detect")


def test_the_front_matter_is_a_spaces():
    text = (SPACE / "README.md").read_text()
    matter = yaml.safe_load(text.split("---")[1])
    assert matter["sdk"] == "gradio"
    assert (SPACE / matter["app_file"]).is_file()
    assert len(matter["short_description"]) <= 60
    assert "hf_sed" in (SPACE / "requirements.txt").read_text()
