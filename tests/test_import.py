"""`import hf_sed` is light, and works where the optional packages are absent."""

import subprocess
import sys

BLOCKER = "import sys\nfor name in ('gradio', 'evaluate', 'peft', 'datasets', 'matplotlib', 'torchaudio', 'torchcodec'): sys.modules[name] = None\n"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_no_heavy_module():
    out = run(
        "import sys, hf_sed\n"
        "heavy = {'gradio', 'evaluate', 'peft', 'datasets', 'matplotlib', 'transformers.modeling_utils', 'transformers.trainer'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert out.strip() == "[]"


def test_inference_works_without_optional_packages(saved_detector):
    code = BLOCKER + (
        "import hf_sed, numpy as np\n"
        "from transformers import pipeline\n"
        f"detect = pipeline('sound-event-detection', model={str(saved_detector)!r})\n"
        "print(type(detect({'array': np.zeros(8000, dtype='float32'), 'sampling_rate': 8000})))"
    )
    assert "list" in run(code)


def test_every_public_name_exists():
    import hf_sed

    for name in hf_sed.__all__:
        assert getattr(hf_sed, name) is not None
