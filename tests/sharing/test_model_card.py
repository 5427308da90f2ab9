import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hf_sed.sharing.model_card import model_card

ROOT = Path(__file__).parents[2]
RECORD = {
    "labels": ["Dog", "Cat"], "frame_hop": 0.064, "sampling_rate": 16000, "encoder": "hf-sed-crnn", "parameters": 1234567,
    "trained_parameters": 1234567, "seed": 3, "steps": 500, "learning_rate": 0.001, "batch_quotas": {"strong": 4, "weak": 4},
    "method": {
        "preset": "conditional-mixup", "mixup_probability": 0.5, "mixup_alpha": 0.2, "mixup_threshold": 0.9, "mixup_per": "clip",
        "consistency_weight": 10.0, "contrastive_weight": 1.0, "ramp_steps": 50, "ema_decay": 0.99, "evaluate_with": "teacher",
    },
    "clips": {"strong": 80, "weak": 160}, "validation_clips": 30, "metrics": {"psds1": 0.1234, "psds2": 0.4567, "intersection_f1": 0.5},
    "per_class": {"Dog": {"psds1": 0.1, "psds2": 0.2, "intersection_f1": 0.3, "events": 12}}, "machine": "x86_64, cpu, 1 process(es)",
    "versions": {"torch": "2.13.0"}, "model": "/root/secret/place", "data": {"path": "/root/secret/scenes"},
}  # fmt: skip


def test_a_card_says_what_the_record_says_and_no_path():
    card = model_card(RECORD, "tiny", "user/tiny")
    text = str(card)
    for expected in (
        "0.123",
        "0.457",
        "Dog (12 events)",
        "1,234,567",
        "80 strong, 160 weak",
        'model="user/tiny"',
        "reconstruction of arXiv 2606.29901",
        "seed 3",
    ):
        assert expected in text
    assert "/root" not in text
    parsed = ModelCard(text)
    assert {r.metric_type: r.metric_value for r in parsed.data.eval_results} == {
        "psds1": 0.1234,
        "psds2": 0.4567,
        "intersection_f1": 0.5,
    }
    assert parsed.data.license == "apache-2.0"


def test_a_run_without_evaluation_says_so():
    text = str(model_card({**RECORD, "metrics": {}, "per_class": None}, "tiny"))
    assert "was not evaluated" in text
    assert "model-index" not in text


@pytest.mark.parametrize("path", sorted((ROOT / "model_cards").glob("*.json")), ids=lambda p: p.name)
def test_the_committed_cards_are_what_their_records_give(path):
    record = json.loads(path.read_text())
    assert path.with_suffix(".md").read_text() == str(model_card(record, path.stem))


def test_a_finished_run_gives_its_card(tmp_path):
    from hf_sed.cli import main

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text(json.dumps(RECORD))
    assert main(["card", str(tmp_path / "run"), str(tmp_path / "tiny.md")]) == 0
    record = json.loads((tmp_path / "tiny.json").read_text())
    assert "/root" not in (tmp_path / "tiny.json").read_text()
    assert (tmp_path / "tiny.md").read_text() == str(model_card(record, "tiny"))
    assert main(["card", str(tmp_path), str(tmp_path / "none.md")]) == 2
