import json
import math
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForAudioFrameClassification, TrainerCallback, pipeline, set_seed

import hf_sed
from hf_sed.training.method import PRESETS
from hf_sed.training.trainer import TRAINING_STATE
from tests.conftest import tiny_config
from tests.training.helpers import arguments, assert_same, state


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains_logs_evaluates_and_saves(make_trainer, preset, tmp_path):
    trainer = make_trainer(preset=preset, evaluate=True, eval_strategy="steps", eval_steps=3)
    before = state(trainer)
    trainer.train()
    after = state(trainer)
    assert any(not torch.equal(before[k], after[k]) for k in before if k.startswith("student"))
    logs = trainer.state.log_history
    terms = {"loss_strong", "loss_weak", "mixup_share", "composition_share", "mixup_lambda"}
    if preset != "supervised":
        terms.add("loss_consistency")
    if preset == "conditional-mixup":
        terms |= {"loss_contrastive", "embedding_spread"}
    assert terms <= set(logs[0])
    assert ("loss_contrastive" in logs[0]) == (preset == "conditional-mixup")
    evaluation = [log for log in logs if "eval_loss" in log]
    assert len(evaluation) == 2
    for name in ("psds1", "psds2", "intersection_f1"):
        assert evaluation[0][f"eval_{name}"] == evaluation[0][f"eval_teacher_{name}"]
        assert f"eval_student_{name}" in evaluation[0]
    trainer.save_model()
    saved = {p.name for p in (tmp_path / "run").iterdir() if p.is_file()}
    assert saved == {"config.json", "model.safetensors", "preprocessor_config.json"}
    events = pipeline("sound-event-detection", model=str(tmp_path / "run"))(
        {"array": torch.zeros(8000).numpy(), "sampling_rate": 8000}
    )
    assert isinstance(events, list)


def test_the_saved_detector_is_the_teacher_or_the_student(make_trainer, tmp_path):
    x = 0.1 * torch.randn(1, 16000)
    for network in ("teacher", "student"):
        trainer = make_trainer(network, evaluate_with=network, ema_decay=0.5)
        trainer.train()
        trainer.save_model()
        trainer.learner.eval()
        for other in ("teacher", "student"):
            trainer.save_network(tmp_path / other, other)
            loaded = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / other).eval()
            with torch.no_grad():
                assert torch.allclose(
                    loaded(x).logits, trainer.learner.predict(other, input_values=x).logits, atol=1e-6
                )
        saved = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / network).eval()
        with torch.no_grad():
            logits = {n: trainer.learner.predict(n, input_values=x).logits for n in ("teacher", "student")}
            assert (logits["teacher"] - logits["student"]).abs().max() > 1e-5
            assert torch.allclose(saved(x).logits, logits[network], atol=1e-6)


def test_gradient_accumulation_scales_the_loss(make_trainer):
    """The first update from G accumulated copies of a batch equals that of the batch itself (SGD, no noise)."""

    class Repeat:
        def __init__(self, batches, times):
            self.batches = [b for b in batches for _ in range(times)]

        def __iter__(self):
            return iter(self.batches)

        def __len__(self):
            return len(self.batches)

    steps = []
    for times in (1, 3):
        set_seed(0)
        model = hf_sed.SedForAudioFrameClassification(tiny_config(conv_dropout=0.0, dropout=0.0))
        trainer = make_trainer(
            f"ga{times}", model, max_steps=1, optim="sgd", learning_rate=0.1, max_grad_norm=0.0, mixup_probability=0.0,
            gradient_accumulation_steps=times, save_strategy="no", ramp_steps=0,
        )  # fmt: skip
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.get_train_dataloader = lambda b=batch, t=times: Repeat([b], t)
        before = {n: p.detach().clone() for n, p in trainer.learner.student.named_parameters()}
        trainer.train()
        steps.append({n: p.detach() - before[n] for n, p in trainer.learner.student.named_parameters()})
    for name in steps[0]:
        assert torch.allclose(steps[0][name], steps[1][name], atol=1e-6), name


def test_the_teacher_moves_once_an_optimiser_step(make_trainer, monkeypatch):
    calls = []
    trainer = make_trainer(gradient_accumulation_steps=2, max_steps=4, save_strategy="no")
    update = trainer.learner.update_teacher
    monkeypatch.setattr(trainer.learner, "update_teacher", lambda decay: (calls.append(decay), update(decay)))
    trainer.train()
    assert calls == pytest.approx([0.0, 0.5, 2 / 3, 0.75])


def test_the_best_model_is_loaded_whole(make_trainer):
    """Student, teacher and heads of the best checkpoint come back, not those of the last step."""

    class Spoil(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 3:  # after the first evaluation
                with torch.no_grad():
                    for p in model.student.parameters():
                        p.mul_(0)

    scores = iter([0.9, 0.1])
    trainer = make_trainer(
        callbacks=[Spoil()],
        evaluate=True,
        eval_strategy="steps",
        eval_steps=3,
        load_best_model_at_end=True,
        save_steps=3,
        greater_is_better=True,
    )
    trainer.compute_metrics = lambda prediction, compute_result: {"psds1": next(scores)} if compute_result else {}
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-3")
    assert_same(state(trainer), load_file(Path(trainer.state.best_model_checkpoint) / TRAINING_STATE))


def test_plain_trainer_features_go_on_working(make_trainer):
    schedule = {"learning_rate_schedule": "transformers", "lr_scheduler_type": "linear", "warmup_steps": 2}
    trainer = make_trainer(bf16=True, report_to="none", max_steps=4, logging_steps=1, learning_rate=0.01, **schedule)
    trainer.train()
    rates = [log["learning_rate"] for log in trainer.state.log_history if "learning_rate" in log]
    assert rates == pytest.approx([0.0, 0.005, 0.01, 0.005])
    assert all(torch.isfinite(p).all() for p in trainer.learner.parameters())


def test_learning_rate_follows_the_ramp(make_trainer):
    trainer = make_trainer(
        max_steps=6,
        ramp_steps=4,
        logging_steps=1,
        learning_rate=0.01,
        final_learning_rate_ratio=0.1,
        save_strategy="no",
    )
    trainer.train()
    rates = [log["learning_rate"] for log in trainer.state.log_history if "learning_rate" in log]
    factors = [math.exp(-5 * (1 - step / 4) ** 2) for step in range(4)] + [1.0, 0.55]
    assert rates == pytest.approx([0.01 * factor for factor in factors])


def test_supervised_leaves_unlabelled_sources_out(make_trainer):
    trainer = make_trainer(preset="supervised")
    assert trainer.args.batch_quotas == {"strong": 2, "weak": 2}
    assert trainer.args.per_device_train_batch_size == 4
    assert set(trainer.clip_counts) == {"strong", "weak"}


def test_quotas_default_to_an_even_spread(make_trainer):
    assert make_trainer(batch_quotas=None, per_device_train_batch_size=9).args.batch_quotas == {
        "strong": 3,
        "weak": 3,
        "unlabelled": 3,
    }


@pytest.mark.parametrize(
    ("change", "values", "message"),
    [
        (lambda s: {"strong": s["strong"]}, {"batch_quotas": None}, "learns from unlabelled clips"),
        (lambda s: {"unlabelled": s["unlabelled"]}, {"batch_quotas": None}, "no source with labelled clips"),
        (lambda s: {**s, "weak": s["weak"].select([])}, {}, "source 'weak' has no clips"),
        (lambda s: s, {"batch_quotas": {"strong": 99, "unlabelled": 2}}, "99 clips of source 'strong'"),
        (lambda s: s, {"batch_quotas": {"stong": 1}}, "names the source 'stong'"),
    ],
)
def test_what_cannot_work_is_said_before_training(make_trainer, train_sources, change, values, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(sources=change(train_sources), **values)


def test_evaluation_needs_events(make_detector, scenes, train_sources, tmp_path):
    with pytest.raises(ValueError, match="kind 'strong'"):
        hf_sed.SedTrainer(make_detector(), arguments(tmp_path), train_sources, scenes["weak"])


def test_checkpoints_hold_no_pickle_and_no_local_path(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.train()
    trainer.save_model()
    for path in (tmp_path / "run").iterdir():
        if path.is_file() and path.suffix == ".json":
            assert str(tmp_path) not in path.read_text()
    assert not list((tmp_path / "run").rglob("training_args.bin"))
    assert "use_cache" not in json.loads((tmp_path / "run" / "config.json").read_text())


def test_evaluation_scores_match_the_metric_functions(make_trainer, scenes, tmp_path):
    """The Trainer's numbers equal `hf-sed evaluate`'s on the saved model."""
    from hf_sed.inference.evaluation import evaluate_detector

    trainer = make_trainer(evaluate=True, max_steps=2, save_strategy="no")
    trainer.train()
    metrics = trainer.evaluate()
    trainer.save_model()
    detector = pipeline("sound-event-detection", model=str(tmp_path / "run"))
    scores = evaluate_detector(detector, scenes["validation"], resamples=0).scores
    for name in ("psds1", "psds2", "intersection_f1"):
        assert metrics[f"eval_{name}"] == pytest.approx(scores[name], abs=1e-6)


def test_data_loading_is_not_counted_twice(make_trainer):
    """A step's batch is built once: an epoch touches each weak clip exactly once."""
    trainer = make_trainer(max_steps=4, save_strategy="no")
    seen = []
    get = trainer.train_dataset.__class__.__getitem__
    started = time.perf_counter()
    try:
        trainer.train_dataset.__class__.__getitem__ = lambda self, key: (seen.append(key), get(self, key))[1]
        trainer.train()
    finally:
        trainer.train_dataset.__class__.__getitem__ = get
    assert time.perf_counter() > started
    weak = [k[1] for k in seen if k[0] == "weak"]
    assert sorted(weak) == list(range(8))


def test_frozen_parts_stay_as_they_are_statistics_included(make_trainer):
    trainer = make_trainer(frozen=[r"model\.backbone"], max_steps=2, learning_rate=0.01)
    before = state(trainer)
    trainer.train()
    after = state(trainer)
    backbone = [k for k in before if k.startswith("student.model.backbone")]
    assert any("running_mean" in k for k in backbone)
    assert all(torch.equal(before[k], after[k]) for k in backbone)
    assert not torch.equal(before["student.strong_head.weight"], after["student.strong_head.weight"])
    assert not any("backbone" in n and "weight" in n for n in trainer.learner.teacher.parameter_names)
    resumed = make_trainer("again", frozen=[r"model\.backbone"], max_steps=2)
    assert not any(p.requires_grad for p in resumed.learner.detector.model.backbone.parameters())
    with pytest.raises(ValueError, match=r"'model\.encoder' matches no parameter"):
        make_trainer(frozen=["model.encoder"])


def test_only_frozen_batch_norm_keeps_its_statistics(make_trainer):
    trainer = make_trainer(frozen=[r"model\.backbone\.blocks\.0\.batch_norm"], max_steps=2)
    before = state(trainer)
    trainer.train()
    after = state(trainer)
    name = "student.model.backbone.blocks.{}.batch_norm.running_mean"
    assert torch.equal(before[name.format(0)], after[name.format(0)])
    assert not torch.equal(before[name.format(1)], after[name.format(1)])
    weight = "student.model.backbone.blocks.0.conv.weight"
    assert not torch.equal(before[weight], after[weight])


def test_learning_rates_by_name_follow_the_schedule(make_trainer):
    mapping = {r"model\.backbone\.blocks\.0": 0.001, r"model\.backbone": 0.01}
    trainer = make_trainer(
        learning_rate=0.1, learning_rate_mapping=mapping, ramp_steps=0, final_learning_rate_ratio=0.5, weight_decay=0.1, max_steps=2
    )  # fmt: skip
    trainer.create_optimizer_and_scheduler(2)
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in trainer.optimizer.param_groups for p in g["params"]}
    names = dict(trainer.learner.named_parameters())
    assert len(rates) == sum(p.requires_grad for p in names.values())
    assert rates[id(names["student.model.backbone.blocks.0.conv.weight"])] == (0.001, 0.1)
    assert rates[id(names["student.model.backbone.blocks.0.conv.bias"])] == (0.001, 0.0)
    assert rates[id(names["student.model.backbone.blocks.1.conv.weight"])] == (0.01, 0.1)
    assert rates[id(names["student.strong_head.weight"])] == (0.1, 0.1)
    trainer.train()
    last = {round(g["lr"] / g["initial_lr"], 6) for g in trainer.optimizer.param_groups}
    assert last == {0.5}


def test_arguments_come_from_a_command_line(tmp_path):
    from transformers import HfArgumentParser

    command = [
        "--output_dir", str(tmp_path), "--preset", "ict", "--frozen", "model.backbone", "model.merge", "--layer_decay", "0.5",
        "--learning_rate_mapping", '{"model.backbone": 0.1}', "--batch_quotas", '{"strong": 2}',
        "--augmentation", '{"name": "gain", "decibels": [-3, 3]}', '{"name": "time_shift"}',
    ]  # fmt: skip
    (args,) = HfArgumentParser(hf_sed.SedTrainingArguments).parse_args_into_dataclasses(command)
    assert args.frozen == ["model.backbone", "model.merge"]
    assert args.learning_rate_mapping == {"model.backbone": 0.1} and args.layer_decay == 0.5
    assert [a["name"] for a in args.augmentation] == ["gain", "time_shift"]
    assert "augmentations, each as JSON" in HfArgumentParser(hf_sed.SedTrainingArguments).format_help()
