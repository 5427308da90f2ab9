"""The identities at the end of method.md."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from hf_sed.training.losses import contrastive_loss, embedding_spread
from hf_sed.training.method import PRESETS, MethodSettings
from hf_sed.training.mixup import MixPlan, conditional_plan, draw_plan, unmixed_plan
from hf_sed.training.student_teacher import StudentTeacher

GROUPS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])


def settings(preset="conditional-mixup", **values) -> MethodSettings:
    out = MethodSettings(preset=preset, **values)
    out.resolve_preset()
    return out


def make_batch(config, seed=0, samples=16000):
    g = torch.Generator().manual_seed(seed)
    strong = (torch.rand(8, config.num_frames(samples), 3, generator=g) > 0.7).float()
    return {
        "input_values": 0.1 * torch.randn(8, samples, generator=g),
        "strong_targets": strong * (GROUPS == 0)[:, None, None],
        "weak_targets": strong.amax(1) * (GROUPS < 2)[:, None],
        "strong_mask": (GROUPS == 0).float(),
        "weak_mask": (GROUPS == 1).float(),
        "groups": GROUPS,
    }


@pytest.fixture
def make_learner(make_detector):
    def make(preset="conditional-mixup", seed=0, dropout=0.0, teacher_offset=0.05, **values):
        learner = StudentTeacher(make_detector(seed, conv_dropout=dropout, dropout=dropout), settings(preset, **values))
        g = torch.Generator().manual_seed(99)
        with torch.no_grad():  # a teacher that differs from the student
            for value in learner.teacher.tensors().values():
                if value.is_floating_point():
                    value.add_(teacher_offset * torch.rand(value.shape, generator=g))
        return learner.train()

    return make


def a_plan(threshold=0.9, weights=(0.95, 0.6, 0.7, 0.55, 0.99, 0.8, 0.92, 0.75)) -> MixPlan:
    return conditional_plan(torch.tensor(weights), torch.tensor([1, 2, 0, 4, 3, 6, 7, 5]), threshold)


# --- mixing ---------------------------------------------------------------------------------------------------------


def test_one_rule_decides_composition_and_perturbation():
    plan = a_plan(0.9)
    assert plan.effective.tolist() == pytest.approx([1, 0.6, 0.7, 0.55, 1, 0.8, 1, 0.75])
    assert torch.equal(a_plan(1.0).effective, a_plan(1.0).weight)  # τ = 1: interpolation consistency
    assert torch.equal(a_plan(0.5).effective, torch.ones(8))  # τ = 0.5: perturbation only


def test_swapping_the_clips_changes_nothing_in_a_composition():
    values, c = torch.randn(2, 5, 3), 0.7
    one = conditional_plan(torch.tensor([c, c]), torch.tensor([1, 0]), 0.9)
    other = conditional_plan(torch.tensor([1 - c, 1 - c]), torch.tensor([1, 0]), 0.9)
    swapped = values.flip(0)
    assert torch.allclose(one.mix(values), other.mix(swapped))
    assert torch.allclose(one.target(values), other.target(swapped))
    assert torch.equal(one.union(values.abs()), other.union(swapped.abs()))


def test_drawn_plans_mix_within_groups_and_fold_lambda():
    torch.manual_seed(0)
    drawn = [draw_plan(GROUPS, settings(mixup_probability=1.0)) for _ in range(200)]
    for plan in drawn:
        assert torch.equal(GROUPS[plan.partner], GROUPS)
        assert (plan.weight >= 0.5).all()
    composed = torch.stack([(p.effective < 1).float() for p in drawn]).mean()
    assert composed == pytest.approx(0.327, abs=0.05)  # P(λ ≤ 0.9) under folded Beta(0.2, 0.2)
    per_group = draw_plan(GROUPS, settings(mixup_probability=1.0, mixup_per="group"))
    assert len(set(per_group.weight.tolist())) == 3
    assert not draw_plan(GROUPS, settings(mixup_probability=0.0)).mixed
    share = sum(draw_plan(GROUPS, settings()).mixed for _ in range(300)) / 300
    assert share == pytest.approx(0.5, abs=0.1)


def test_hard_targets_are_the_union_only_where_composed():
    targets = torch.eye(3).repeat(3, 1)[:8]
    plan = a_plan(0.9)
    hard = plan.union(targets)
    for i in range(8):
        expected = targets[i] if plan.effective[i] == 1 else torch.maximum(targets[i], targets[plan.partner[i]])
        assert torch.equal(hard[i], expected)


# --- losses and presets ---------------------------------------------------------------------------------------------


def test_threshold_one_without_contrastive_loss_is_ict(make_learner):
    batch = make_batch(make_learner().detector.config)
    a = make_learner("conditional-mixup", mixup_threshold=1.0, contrastive_weight=0.0)
    b = make_learner("ict")
    assert torch.equal(a(**batch, plan=a_plan(1.0)).loss, b(**batch, plan=a_plan(1.0)).loss)


def test_without_mixing_every_preset_is_plain_mean_teacher(make_learner):
    batch = make_batch(make_learner().detector.config)
    values = {"mixup_probability": 0.0, "contrastive_weight": 0.0, "consistency_weight": 3.0}
    losses = [make_learner(preset, **values)(**batch).loss for preset in ("mean-teacher", "ict", "conditional-mixup")]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])
    learner = make_learner("ict", **values)
    student = learner.student(batch["input_values"])
    teacher = learner._teacher_forward(learner.detector.model.spectrograms(batch["input_values"]))
    expected = ((student.logits.sigmoid() - teacher.logits.sigmoid()) ** 2).mean() + 0.5 * (
        (student.clip_probabilities - teacher.clip_probabilities) ** 2
    ).mean()
    assert torch.allclose(make_learner("ict", **values)(**batch).terms["loss_consistency"], expected, atol=1e-6)


def test_the_ict_loss_by_hand(make_learner):
    learner, plan = make_learner("ict", consistency_weight=2.0), a_plan(1.0)
    batch = make_batch(learner.detector.config)
    out = learner(**batch, plan=plan, ramp=0.5)
    learner = make_learner("ict")
    clean = learner.detector.model.spectrograms(batch["input_values"])
    (mel,), lam = clean.values, plan.weight[:, None, None]
    student = learner.student(spectrograms=replace(clean, values=(lam * mel + (1 - lam) * mel[plan.partner],)))
    teacher = learner._teacher_forward(clean)
    t, w = teacher.logits.sigmoid(), teacher.clip_probabilities
    y = batch["strong_targets"]
    strong = nn.functional.binary_cross_entropy(
        student.logits.sigmoid(), lam * y + (1 - lam) * y[plan.partner], reduction="none"
    )
    v, flat = batch["weak_targets"], plan.weight[:, None]
    weak = nn.functional.binary_cross_entropy(
        student.clip_probabilities, flat * v + (1 - flat) * v[plan.partner], reduction="none"
    )
    consistency = ((student.logits.sigmoid() - (lam * t + (1 - lam) * t[plan.partner])) ** 2).mean() + 0.5 * (
        (student.clip_probabilities - (flat * w + (1 - flat) * w[plan.partner])) ** 2
    ).mean()
    expected = strong[GROUPS == 0].mean() + 0.5 * weak[GROUPS == 1].mean() + 2.0 * 0.5 * consistency
    assert torch.allclose(out.loss, expected, atol=1e-5)


def test_equal_networks_give_zero_consistency_and_contrastive_loss(make_learner):
    """λ_eff = 1, student = teacher, q the identity."""
    learner = make_learner(teacher_offset=0.0)
    learner.predictor = type("Identity", (nn.Module,), {"forward": lambda self, x, mask=None: x})()
    terms = learner(**make_batch(learner.detector.config), plan=unmixed_plan(8)).terms
    assert terms["loss_consistency"] < 1e-12
    assert terms["loss_contrastive"].abs() < 1e-5
    assert terms["embedding_spread"] > 0


def test_the_contrastive_loss_by_hand():
    g = torch.Generator().manual_seed(0)
    p, z = torch.randn(8, 4, 6, generator=g), torch.randn(8, 4, 6, generator=g)
    plan, total = a_plan(0.9), 0.0

    def d(a, b):
        return 2 - 2 * torch.dot(a, b) / (a.norm() * b.norm())

    for i in range(8):
        lam, j = plan.effective[i], plan.partner[i]
        total += sum(lam * d(p[i, t], z[i, t]) + (1 - lam) * d(p[i, t], z[j, t]) for t in range(4)) / 4
    assert torch.allclose(contrastive_loss(p, z, plan, None), total / 8, atol=1e-5)
    assert torch.allclose(contrastive_loss(p, z, plan, torch.ones(8, 4, dtype=torch.bool)), total / 8, atol=1e-5)


def test_the_collapse_monitor():
    spread = torch.randn(4, 2000, 256, generator=torch.Generator().manual_seed(0))
    assert embedding_spread(spread, None) == pytest.approx(1 / 16, rel=0.01)
    assert embedding_spread(torch.ones(4, 20, 256), None) < 1e-6


def test_supervised_ignores_unlabelled_clips_and_needs_no_teacher(make_learner):
    learner = make_learner("supervised", mixup_probability=0.0).eval()
    batch = make_batch(learner.detector.config)
    out = learner(**batch)
    assert "loss_consistency" not in out.terms and "loss_contrastive" not in out.terms
    other = {**batch, "input_values": torch.where((GROUPS == 2)[:, None], torch.zeros(()), batch["input_values"])}
    assert torch.allclose(learner(**other).loss, out.loss, atol=1e-6)


@pytest.mark.parametrize("domain", ["spectrogram", "waveform"])
@pytest.mark.parametrize("layer", ["sequence", "backbone"])
def test_padding_with_silence_changes_no_loss(make_learner, domain, layer):
    results = []
    for samples in (9000, 16000):
        learner = make_learner(mixup_domain=domain, contrastive_layer=layer)
        batch = make_batch(learner.detector.config, samples=9000)
        batch["input_values"] = nn.functional.pad(batch["input_values"], (0, samples - 9000))
        frames = learner.detector.config.num_frames(samples)
        batch["strong_targets"] = nn.functional.pad(
            batch["strong_targets"], (0, 0, 0, frames - batch["strong_targets"].shape[1])
        )
        batch["attention_mask"] = (torch.arange(samples) < 9000).long().expand(8, -1)
        results.append(learner(**batch, plan=a_plan()))
    for name, value in results[0].terms.items():
        assert torch.allclose(value, results[1].terms[name], atol=2e-5), name
    assert torch.allclose(results[0].loss, results[1].loss, atol=1e-4)


def test_clips_of_different_length_can_be_mixed(make_learner):
    learner = make_learner()
    batch = make_batch(learner.detector.config)
    lengths = torch.tensor([16000, 9000, 12000, 16000, 5000, 8000, 16000, 7000])
    batch["attention_mask"] = (torch.arange(16000) < lengths[:, None]).long()
    out = learner(**batch, plan=a_plan())
    out.loss.backward()
    assert torch.isfinite(out.loss)
    assert all(torch.isfinite(p.grad).all() for p in learner.parameters() if p.grad is not None)


@pytest.mark.parametrize(("plan", "factor"), [(a_plan(), 0.125), (unmixed_plan(8), 1.0)], ids=["mixed", "unmixed"])
def test_mixed_batches_can_weigh_the_pseudo_labels_less(make_learner, plan, factor):
    parts = []
    for mixed_factor in (1.0, 0.125):
        learner = make_learner("ict", teacher_offset=0.5, consistency_weight=8.0, consistency_mixed_factor=mixed_factor)
        out = learner(**make_batch(learner.detector.config), plan=plan)
        parts.append(out.loss.detach() - out.terms["loss_strong"] - 0.5 * out.terms["loss_weak"])
    assert float(parts[1]) == pytest.approx(factor * float(parts[0]), rel=1e-4)


# --- teacher --------------------------------------------------------------------------------------------------------


def test_gradients_reach_the_student_and_no_teacher_tensor(make_learner):
    learner = make_learner(dropout=0.1)
    learner(**make_batch(learner.detector.config), plan=a_plan()).loss.backward()
    for module in (learner.student, learner.projector, learner.predictor):
        assert all(p.grad is not None for p in module.parameters())
    for copy in (learner.teacher, learner.projector_teacher):
        assert list(copy.parameters()) == []
        assert all(not b.requires_grad and b.grad is None for b in copy.buffers())


def test_the_teacher_is_the_closed_form_average(make_learner):
    learner = make_learner(teacher_offset=0.0)
    start = {n: p.detach().double().clone() for n, p in learner.student.named_parameters()}
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.05)
    history, decay = [], 0.9
    for step in range(5):
        learner(**make_batch(learner.detector.config, seed=step), plan=a_plan()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        learner.update_teacher(decay)
        history.append({n: p.detach().double().clone() for n, p in learner.student.named_parameters()})
    for name, value in learner.teacher.tensors().items():
        if name in start:
            expected = decay**5 * start[name] + sum(
                (1 - decay) * decay ** (4 - i) * h[name] for i, h in enumerate(history)
            )
            assert torch.allclose(value.double(), expected, atol=1e-6), name


def test_frozen_parameters_are_shared_not_copied(make_detector):
    model = make_detector()
    model.model.backbone.requires_grad_(False)
    learner = StudentTeacher(model, settings())
    assert not any(
        name.startswith("model.backbone") and "running" not in name and "num_batches" not in name
        for name in learner.teacher.tensors()
    )
    assert any(name.startswith("strong_head") for name in learner.teacher.tensors())


def test_batch_norm_of_the_teacher(make_learner):
    """Own statistics where it takes forward passes; the student's where it takes none."""
    name = "model.backbone.blocks.0.batch_norm.running_mean"
    learner = make_learner()
    before = learner.teacher.tensors()[name].clone()
    learner(**make_batch(learner.detector.config), plan=unmixed_plan(8))
    learner.update_teacher(0.9)
    student = dict(learner.student.named_buffers())[name]
    assert not torch.equal(learner.teacher.tensors()[name], before)
    assert not torch.equal(learner.teacher.tensors()[name], student)
    supervised = make_learner("supervised")
    supervised(**make_batch(learner.detector.config), plan=unmixed_plan(8))
    supervised.update_teacher(0.9)
    assert torch.equal(supervised.teacher.tensors()[name], dict(supervised.student.named_buffers())[name])


def test_the_teacher_predicts_with_its_own_tensors_and_saves_them(make_learner, tmp_path):
    from transformers import AutoModelForAudioFrameClassification

    learner = make_learner(teacher_offset=0.3).eval()
    x = make_batch(learner.detector.config)["input_values"]
    student, teacher = (
        learner.predict("student", input_values=x).logits,
        learner.predict("teacher", input_values=x).logits,
    )
    assert (student - teacher).abs().max() > 0.01
    learner.save_pretrained(tmp_path)
    loaded = AutoModelForAudioFrameClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.allclose(loaded(x).logits, teacher, atol=1e-6)
    assert torch.equal(learner.predict("student", input_values=x).logits, student)  # saving left the student alone


def test_teacher_dropout_is_a_setting(make_learner):
    learner = make_learner(dropout=0.5, teacher_dropout=False)
    inputs = learner.detector.model.spectrograms(make_batch(learner.detector.config)["input_values"])
    a, b = learner._teacher_forward(inputs).logits, learner._teacher_forward(inputs).logits
    assert torch.equal(a, b)
    assert all(m.training for m in learner.student.modules())
    noisy = make_learner(dropout=0.5)
    assert not torch.equal(noisy._teacher_forward(inputs).logits, noisy._teacher_forward(inputs).logits)


def test_micro_batches_add_up_to_the_batch(make_learner):
    """Up to BatchNorm, which is in evaluation mode here: the mean of two halves' gradients is the whole batch's. The
    halves hold as many strong and weak clips as each other: fixed quotas make a mean of means a mean."""
    halves = [torch.tensor([0, 1, 3, 5]), torch.tensor([2, 2, 4, 6])]
    weights = a_plan().weight

    def gradients(parts):
        learner = make_learner().eval()
        batch = make_batch(learner.detector.config)
        for part in parts:
            partner = torch.cat([torch.arange(4).roll(1) + start for start in range(0, len(part), 4)])
            plan = conditional_plan(weights[part], partner, 0.9)
            (learner(**{k: v[part] for k, v in batch.items()}, plan=plan).loss / len(parts)).backward()
        return [p.grad for p in learner.student.parameters()]

    for a, b in zip(gradients(halves), gradients([torch.cat(halves)]), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


# --- settings -------------------------------------------------------------------------------------------------------


def test_presets_are_a_few_settings():
    assert set(PRESETS) == {"supervised", "mean-teacher", "ict", "conditional-mixup"}
    assert not settings("supervised").uses_teacher
    assert settings("mean-teacher").teacher_sees_mixed
    assert settings("ict").mixup_threshold == 1.0 and settings("ict").contrastive_weight == 0
    assert settings().mixup_threshold == 0.9 and settings().contrastive_weight > 0
    assert settings("ict", consistency_weight=70.0).consistency_weight == 70.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "fixmatch"}, "preset 'fixmatch'"),
        ({"mixup_threshold": 0.3}, "mixup_threshold 0.3"),
        ({"mixup_domain": "latent"}, "mixup_domain 'latent'"),
        ({"ema_decay": 1.5}, "ema_decay 1.5"),
    ],
)
def test_bad_settings_are_explained(values, message):
    with pytest.raises(ValueError, match=message):
        settings(**values)
