import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForAudioFrameClassification, pipeline

import hf_sed
from tests.conftest import LABELS
from tests.models.encoders import tiny_encoders
from tests.training.helpers import arguments, assert_same, state


@pytest.fixture
def base(saved_detector):
    return AutoModelForAudioFrameClassification.from_pretrained(saved_detector)


def logits(model, x):
    with torch.no_grad():
        return model.eval()(x).logits


def test_an_adapter_trains_saves_and_loads_back_by_the_auto_class(base, scenes, train_sources, tmp_path, monkeypatch):
    adapted = hf_sed.add_lora(base, r=4)
    trainer = hf_sed.SedTrainer(
        adapted, arguments(tmp_path / "run", learning_rate=0.01, ema_decay=0.5), train_sources, scenes["validation"]
    )
    frozen = {n: p.clone() for n, p in adapted.named_parameters() if not p.requires_grad}
    assert any("lora_A" in n for n in trainer.learner.teacher.tensors())
    assert not any("base_layer" in n for n in trainer.learner.teacher.parameter_names)
    trainer.train()
    assert all(torch.equal(p, frozen[n]) for n, p in adapted.named_parameters() if n in frozen)
    trainer.save_model()
    x = 0.1 * torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    trainer.learner.eval()
    with torch.no_grad():
        expected = trainer.learner.predict("teacher", input_values=x).logits
    assert not (tmp_path / "run" / "model.safetensors").exists()
    monkeypatch.chdir("/")
    loaded = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "run")
    assert torch.allclose(logits(loaded, x), expected, atol=1e-6)
    detect = pipeline("sound-event-detection", model=str(tmp_path / "run"))
    output = detect({"array": x[0].numpy(), "sampling_rate": 8000}, return_scores=True)
    assert torch.allclose(torch.from_numpy(output["scores"]), expected[0].sigmoid(), atol=1e-6)
    assert (
        expected - logits(AutoModelForAudioFrameClassification.from_pretrained(base.config._name_or_path), x)
    ).abs().max() > 1e-3


def test_merging_equals_the_adapter(base, tmp_path):
    adapted = hf_sed.add_lora(base, r=4, init_lora_weights=False)
    x = 0.1 * torch.randn(2, 16000)
    expected = logits(adapted, x)
    merged = adapted.merge_and_unload()
    assert torch.allclose(logits(merged, x), expected, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    assert torch.allclose(
        logits(AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "merged"), x), expected, atol=1e-5
    )


def test_an_adapter_run_resumes_exactly(saved_detector, train_sources, tmp_path):
    states = []
    for name, stops in (("whole", [6]), ("parts", [3, 6])):
        for stop in stops:
            torch.manual_seed(0)
            model = hf_sed.add_lora(AutoModelForAudioFrameClassification.from_pretrained(saved_detector), r=4)
            trainer = hf_sed.SedTrainer(model, arguments(tmp_path / name, max_steps=stop), train_sources)
            trainer.train(resume_from_checkpoint=len(stops) > 1 and stop == 6)
        states.append(state(trainer))
    assert_same(*states)


def test_heads_and_batch_norm_are_saved_with_the_adapter(base, tmp_path):
    hf_sed.add_lora(base, r=2).save_pretrained(tmp_path)
    assert set(json.loads((tmp_path / "adapter_config.json").read_text())["modules_to_save"]) == {
        "sequence_model", "strong_head", "attention_head", "batch_norm",
    }  # fmt: skip


def test_a_model_without_a_place_is_explained(detector):
    with pytest.raises(ValueError, match="save the detector"):
        hf_sed.add_lora(detector)


@pytest.mark.parametrize("name", ["atst", "beats", "passt", "frame-mobilenet", "yamnet", "ast", "wav2vec2", "whisper"])
def test_adapters_on_every_kind_of_encoder_round_trip_and_merge(name, tmp_path):
    torch.manual_seed(0)
    config = hf_sed.SedConfig(
        backbone_config=tiny_encoders()[name], labels=["a", "b"], sequence_hidden_size=4, sequence_layers=1
    )
    hf_sed.SedForAudioFrameClassification(config).save_pretrained(tmp_path / "base")
    base = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "base")
    adapted = hf_sed.add_lora(base, r=2, init_lora_weights=False)
    trained = sum(p.numel() for n, p in adapted.named_parameters() if "lora_" in n)
    assert trained > 0
    x = 0.1 * torch.randn(2, 16000)
    before = logits(base, x)
    adapted.train()
    adapted(x)  # moves the running statistics of BatchNorm, which travel with the adapter
    expected = logits(adapted, x)
    adapted.save_pretrained(tmp_path / "adapter")
    assert torch.allclose(before, logits(base, x)) == (name not in ("frame-mobilenet", "yamnet"))
    loaded = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "adapter")
    assert torch.allclose(logits(loaded, x), expected, atol=1e-5)
    assert torch.allclose(logits(adapted.merge_and_unload(), x), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["atst", "ast", "wav2vec2", "yamnet"])
def test_an_adapter_run_on_any_encoder_resumes_exactly_teacher_included(name, train_sources, tmp_path):
    """Save, load by the Auto class, merge and resume: what the teacher is, on every path."""
    torch.manual_seed(0)
    config = hf_sed.SedConfig(
        backbone_config=tiny_encoders()[name], labels=LABELS, sequence_hidden_size=4, sequence_layers=1, clip_length=2.0
    )
    hf_sed.SedForAudioFrameClassification(config).save_pretrained(tmp_path / "base")
    trainers = []
    for folder, stops in (("whole", [4]), ("parts", [2, 4])):
        for stop in stops:
            torch.manual_seed(0)
            model = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "base")
            args = arguments(tmp_path / folder, max_steps=stop, save_steps=2, ema_decay=0.5, learning_rate=0.01)
            trainer = hf_sed.SedTrainer(hf_sed.add_lora(model, r=2), args, train_sources)
            trainer.train(resume_from_checkpoint=len(stops) > 1 and stop == 4)
        trainers.append(trainer)
    whole, resumed = trainers
    assert_same(state(whole), state(resumed))
    learner = resumed.learner.eval()
    shared = {n for n, p in learner.student.named_parameters() if not p.requires_grad}
    assert shared and not shared & set(learner.teacher.parameter_names)
    x = 0.1 * torch.randn(2, 16000)
    with torch.no_grad():
        teacher, student = (learner.predict(n, input_values=x).logits for n in ("teacher", "student"))
    assert not torch.allclose(teacher, student, atol=1e-4)
    resumed.save_model()
    for network, expected in (("teacher", teacher), ("student", student)):
        resumed.save_network(tmp_path / network, network)
        loaded = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / network)
        assert torch.allclose(logits(loaded, x), expected, atol=1e-6)
        tensors = learner.teacher.tensors() if network == "teacher" else learner.student.state_dict()
        for key in learner.teacher.tensors():
            assert torch.equal(loaded.state_dict()[key.removeprefix("base_model.model.")], tensors[key]), key
    saved = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "parts")
    assert torch.allclose(logits(saved, x), teacher, atol=1e-6)
    base = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "base")
    merged = PeftModel.from_pretrained(base, tmp_path / "teacher").merge_and_unload()
    assert torch.allclose(logits(merged, x), teacher, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("atst", {"use_dora": True}),
        ("atst", {"use_rslora": True}),
        ("atst", {"init_lora_weights": "pissa"}),
        ("yamnet", {"use_dora": True}),
        ("yamnet", {"use_rslora": True}),
    ],
)
def test_kinds_of_adapters_train_and_round_trip(name, flags, train_sources, tmp_path):
    torch.manual_seed(0)
    config = hf_sed.SedConfig(
        backbone_config=tiny_encoders()[name], labels=LABELS, sequence_hidden_size=4, sequence_layers=1, clip_length=2.0
    )
    hf_sed.SedForAudioFrameClassification(config).save_pretrained(tmp_path / "base")
    base = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "base")
    args = arguments(tmp_path / "run", max_steps=2, save_strategy="no", ema_decay=0.5, learning_rate=0.01)
    trainer = hf_sed.SedTrainer(hf_sed.add_lora(base, r=2, **flags), args, train_sources)
    trainer.train()
    trainer.save_model()
    x = 0.1 * torch.randn(2, 16000)
    with torch.no_grad():
        expected = trainer.learner.eval().predict("teacher", input_values=x).logits
    loaded = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "run")
    assert torch.allclose(logits(loaded, x), expected, atol=1e-5)


def test_unknown_settings_are_explained(base):
    with pytest.raises(ValueError, match="no setting 'alpa'; did you mean 'alpha'"):
        hf_sed.add_lora(base, alpa=4)
    from hf_sed.training.recipe import RecipeError, recipe_from

    with pytest.raises(RecipeError, match="lora: no setting 'use_dorra'; did you mean 'use_dora'"):
        recipe_from({"data": {"path": "x"}, "lora": {"use_dorra": True}})
