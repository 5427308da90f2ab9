import math

import pytest
import torch

import hf_sed
from hf_sed.models.front_ends import build_front_end
from hf_sed.models.sed.modeling_sed import Spectrograms
from hf_sed.training.augmentation import (
    AUGMENTATIONS,
    AugmentationChain,
    FilterAugment,
    FrequencyMask,
    FrequencyWarp,
    Gain,
    TimeMask,
    TimeShift,
    build_augmentation,
)
from hf_sed.training.method import MethodSettings
from hf_sed.training.mixup import unmixed_plan
from hf_sed.training.student_teacher import StudentTeacher

AMPLITUDE, POWER, WAVEFORM = build_front_end("crnn"), build_front_end("atst"), build_front_end("waveform")


def mel(clips=3, frames=20, bins=64, seed=0):
    return torch.rand(clips, frames, bins, generator=torch.Generator().manual_seed(seed)) + 0.01


def whole(values):
    return torch.full((len(values),), values.shape[1])


def apply(augmentation, values, front_end=POWER, drawn=None, own=None):
    torch.manual_seed(0)
    drawn = augmentation.draw(len(values)) if drawn is None else drawn
    return augmentation.apply(values, front_end, whole(values) if own is None else own, drawn)


@pytest.mark.parametrize(("front_end", "factor"), [(AMPLITUDE, 10**0.25), (POWER, 10**0.5), (WAVEFORM, 10**0.25)])
def test_gain_is_in_decibels_of_whatever_the_front_end_gives(front_end, factor):
    x = mel()[..., 0] if front_end is WAVEFORM else mel()
    y = apply(Gain(decibels=(5, 5)), x, front_end)
    assert torch.allclose(y, factor * x)


@pytest.mark.parametrize("kind", ["linear", "step"])
def test_filter_augment_draws_bands_within_its_bounds(kind):
    torch.manual_seed(1)
    filters = FilterAugment(decibels=(-6, 6), bands=(3, 6), min_width=0.05, kind=kind).draw(50)
    assert filters.abs().max() <= 6
    assert filters.std(1).min() > 0
    steps = filters.diff(dim=1)
    if kind == "step":
        changes = (steps != 0).sum(1)
        assert changes.min() >= 2 and changes.max() <= 5
        for row in steps:
            edges = torch.cat([torch.tensor([0]), torch.nonzero(row)[:, 0] + 1, torch.tensor([1024])])
            assert edges.diff().min() >= 0.05 * 1024 - 1
    else:
        assert steps.abs().max() <= 12 / (0.05 * 1024) + 1e-4  # as steep as one narrow band can be, no jump


def test_filter_augment_multiplies_each_bin_alike_in_all_frames():
    x = mel()
    augmentation = FilterAugment()
    ratio = apply(augmentation, x) / x
    assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-5)
    torch.manual_seed(0)
    drawn = augmentation.draw(3)
    decibels = 10 * ratio[:, 0].log10()
    assert torch.allclose(decibels, drawn[:, ((torch.arange(64) + 0.5) / 64 * 1024).long()], atol=1e-4)
    # The branch's 128 bins see the same filter.
    wide = apply(augmentation, mel(bins=128), AMPLITUDE, drawn)
    decibels_wide = 20 * (wide / mel(bins=128))[:, 0].log10()
    assert (decibels_wide.unflatten(1, (64, 2)).mean(2) - decibels).abs().max() < 1


def test_frequency_warp_is_the_bicubic_stretch_of_a_crop():
    """Against torch's own resize of the crop (ATST-SED `rrc_module.py`: bicubic, aligned corners), away from its edges,
    where the crop's neighbours are not the edge's copies."""
    x = mel(clips=1, bins=64)
    height, start = 40, 10
    drawn = torch.tensor([[(height - 1) / 63, start / 63]])
    warped = apply(FrequencyWarp(), x, POWER, drawn)
    crop = x.log()[:, None, :, start : start + height]
    expected = torch.nn.functional.interpolate(crop, size=(20, 64), mode="bicubic", align_corners=True).exp()[:, 0]
    assert torch.allclose(warped[..., 3:-3], expected[..., 3:-3], atol=2e-4)
    assert torch.allclose(apply(FrequencyWarp(scale=(1, 1)), x), x, rtol=1e-3)


def test_frequency_warp_commutes_with_the_scaling_of_the_encoder():
    for front_end in (POWER, build_front_end("yamnet")):
        x = mel(frames=10)
        drawn = torch.tensor([[0.7, 0.1]] * 3)
        scaled = front_end.scale(apply(FrequencyWarp(), x, front_end, drawn))
        grid = 0.1 + 0.7 * torch.linspace(0, 1, 64)
        low = (grid * 63).floor().long()
        features = front_end.scale(x)
        bounds = torch.stack([features[..., low], features[..., (low + 1).clamp(max=63)]])
        middle, reach = bounds.mean(0), (bounds[0] - bounds[1]).abs() / 2
        assert ((scaled - middle).abs() <= reach + 0.25 * features.std()).float().mean() > 0.9


def test_masks_silence_shares_of_the_clip_s_own_length():
    x = mel(clips=2, frames=100)
    own = torch.tensor([100, 50])
    y = apply(TimeMask(width=(0.2, 0.2)), x, own=own)
    silent = (y == 0).all(2)
    assert silent.sum(1).tolist() == [pytest.approx(20, abs=1), pytest.approx(10, abs=1)]
    assert not silent[1, 50:].any()
    assert torch.equal(y[~silent], x[~silent])
    y = apply(FrequencyMask(width=(0.25, 0.25), count=2), x)
    bands = (y == 0).all(1).sum(1)
    assert ((bands >= 15) & (bands <= 33)).all()
    waveform = torch.ones(2, 1000)
    assert (apply(TimeMask(width=(0.1, 0.1)), waveform, WAVEFORM) == 0).sum(1).tolist() == [100, 100]


def test_time_shift_moves_waveform_and_targets_together(make_detector):
    """An impulse under a target frame stays under it; padding is not touched."""
    config = make_detector().config
    hop = round(config.frame_hop * config.sampling_rate)
    waveform, targets = torch.zeros(2, 20 * hop), torch.zeros(2, 20, 3)
    waveform[:, 4 * hop + 3] = 1.0
    targets[:, 4, 1] = 1.0
    lengths = torch.tensor([20 * hop, 10 * hop])
    for by in (-6, 0, 7, 25):
        moved, marks = TimeShift.apply(config, torch.tensor([by, by]), waveform, targets, lengths)
        for clip, own in ((0, 20), (1, 10)):
            frame = (4 + by) % own
            assert torch.nonzero(moved[clip])[:, 0].tolist() == [frame * hop + 3]
            assert torch.nonzero(marks[clip]).tolist() == [[frame, 1]]
    torch.manual_seed(0)
    frames = TimeShift(std=1.0).draw(4000, config.frame_hop).float() * config.frame_hop
    assert frames.std() == pytest.approx(1.0, rel=0.05)
    assert (TimeShift(std=1.0, probability=0.25).draw(4000, 0.01) != 0).float().mean() == pytest.approx(0.25, abs=0.03)


def views(settings, groups=None, clips=4):
    chain = AugmentationChain(settings, [POWER, AMPLITUDE])
    clean = Spectrograms((mel(clips), mel(clips, bins=128)), 16000)
    groups = torch.zeros(clips, dtype=torch.long) if groups is None else groups
    return clean, *chain.views(clean, clean, groups)


@pytest.mark.parametrize("inputs", ["all", "encoder", "branch"])
def test_what_the_teacher_hears_is_configuration(inputs):
    for teacher in ("clean", "same", "own"):
        torch.manual_seed(0)
        settings = [{"name": "gain", "teacher": teacher, "inputs": inputs}]
        clean, student, other = views(settings)
        for place, name in enumerate(("encoder", "branch")):
            ours, theirs, before = student.values[place], other.values[place], clean.values[place]
            touched = inputs in ("all", name)
            assert torch.equal(ours, before) != touched
            assert torch.equal(theirs, before) == (teacher == "clean" or not touched)
            assert torch.equal(theirs, ours) == (teacher == "same" or not touched)


def test_one_draw_for_a_group_or_for_a_clip():
    groups = torch.tensor([0, 2, 0, 2])
    for per, different in (("group", 2), ("clip", 4)):
        clean, student, _ = views([{"name": "gain", "per": per}], groups)
        ratio = (student.values[0] / clean.values[0])[:, 0, 0]
        assert len({round(float(r), 4) for r in ratio}) == different
    clean, student, _ = views([{"name": "gain", "probability": 0.5}], clips=400, groups=torch.zeros(400))
    changed = (student.values[0] != clean.values[0]).flatten(1).any(1).float().mean()
    assert float(changed) == pytest.approx(0.5, abs=0.08)


def test_augmentations_apply_in_their_order():
    def factor(first, second):
        clean, student, _ = views([{"name": n, **v} for n, v in (first, second)])
        return student.values[0], clean.values[0]

    gain, mask = ("gain", {"decibels": [20, 20]}), ("frequency_mask", {"width": [1, 1]})
    for order in ((gain, mask), (mask, gain)):
        assert (factor(*order)[0] == 0).all()
    louder, clean = factor(gain, gain)
    assert torch.allclose(louder, 10000 * clean, rtol=1e-4)


def batch(detector, clips=6):
    frames = detector.config.num_frames(16000)
    generator = torch.Generator().manual_seed(0)
    return {
        "input_values": 0.1 * torch.randn(clips, 16000, generator=generator),
        "strong_targets": (torch.rand(clips, frames, 3, generator=generator) > 0.5).float(),
        "weak_targets": torch.ones(clips, 3),
        "strong_mask": torch.tensor([1.0] * 3 + [0.0] * 3),
        "weak_mask": torch.tensor([0.0] * 3 + [1.0] * 3),
        "groups": torch.tensor([0, 0, 0, 1, 1, 1]),
    }


def learner(detector, **values):
    settings = MethodSettings(**{"preset": "mean-teacher", "mixup_probability": 0.0, **values})
    settings.resolve_preset()
    return StudentTeacher(detector, settings)


def test_the_student_learns_from_what_it_hears(make_detector):
    """With the same draw for both nets, equal nets agree; with the student alone augmented they differ."""
    values = {"sequence_model": "none", "dropout": 0.0, "conv_dropout": 0.0}
    for teacher, agree in (("same", True), ("clean", False)):
        detector = make_detector(**values)
        module = learner(detector, augmentation=[{"name": "frequency_mask", "width": [0.4, 0.4], "teacher": teacher}])
        terms = module(**batch(detector)).terms
        assert (float(terms["loss_consistency"]) < 1e-10) == agree


def test_a_shift_is_shared_with_the_targets(make_detector):
    """A shift of the waveforms with their targets is what shifting both beforehand gives."""
    detector = make_detector(conv_dropout=0.0, dropout=0.0)
    inputs = batch(detector)
    shifted = learner(detector, augmentation=[{"name": "time_shift", "std": 0.5}])
    plan = unmixed_plan(6)  # given, so that the shift is all that is drawn
    torch.manual_seed(5)
    loss = shifted(**inputs, plan=plan).loss
    torch.manual_seed(5)
    frames = TimeShift(std=0.5).draw(6, detector.config.frame_hop)
    waveforms, targets = TimeShift.apply(detector.config, frames, inputs["input_values"], inputs["strong_targets"])
    expected = learner(detector)(**{**inputs, "input_values": waveforms, "strong_targets": targets}, plan=plan).loss
    assert torch.allclose(loss, expected)
    assert not torch.allclose(loss, learner(detector)(**inputs, plan=plan).loss)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "pitch_shift"}, "augmentation 'pitch_shift'; expected a name of time_shift"),
        ({"name": "gain", "decibel": [0, 1]}, "gain: no setting 'decibel'; did you mean 'decibels'"),
        ({"name": "gain", "probability": 2}, "gain: probability 2"),
        ({"name": "gain", "teacher": "sometimes"}, "gain: teacher 'sometimes'; expected one of clean, same, own"),
        ({"name": "filter_augment", "bands": [3, 60]}, "do not fit side by side"),
        ({"name": "filter_augment", "kind": "cubic"}, "kind 'cubic'"),
    ],
)
def test_bad_settings_are_explained(values, message):
    with pytest.raises(ValueError, match=message):
        build_augmentation(values)
    settings = MethodSettings(augmentation=[values])
    with pytest.raises(ValueError, match=message):
        settings.resolve_preset()


def test_what_an_encoder_cannot_have_is_explained():
    with pytest.raises(ValueError, match="frequency_warp: the encoder reads waveforms"):
        AugmentationChain([{"name": "frequency_warp"}], [WAVEFORM])
    AugmentationChain([{"name": "frequency_warp", "inputs": "branch"}], [WAVEFORM, AMPLITUDE])
    AugmentationChain([{"name": "gain"}, {"name": "time_mask"}], [WAVEFORM])
    with pytest.raises(ValueError, match="no convolutional branch"):
        AugmentationChain([{"name": "gain", "inputs": "branch"}], [POWER])


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_augmentation_trains_with_padded_clips_and_leaves_losses_finite(name, make_detector):
    detector = make_detector()
    inputs = batch(detector)
    inputs["attention_mask"] = (
        torch.arange(16000) < torch.tensor([16000, 12000, 8000, 16000, 9000, 4000])[:, None]
    ).long()
    module = learner(detector, augmentation=[{"name": name}], mixup_probability=1.0)
    loss = module(**inputs).loss
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(p.grad.isfinite().all() for p in detector.parameters() if p.grad is not None)


def test_an_augmented_run_resumes_exactly(make_detector, train_sources, tmp_path):
    import shutil

    from tests.training.helpers import arguments, assert_same, state

    augmentation = [
        {"name": "time_shift", "std": 0.3},
        {"name": "filter_augment"},
        {"name": "time_mask", "teacher": "own"},
    ]

    def run(folder, resume=False):
        torch.manual_seed(0)
        args = arguments(tmp_path / folder, augmentation=augmentation)
        trainer = hf_sed.SedTrainer(make_detector(), args, train_sources)
        trainer.train(resume_from_checkpoint=resume)
        return state(trainer)

    expected = run("whole")
    run("part")
    shutil.rmtree(tmp_path / "part" / "checkpoint-6")
    assert_same(run("part", resume=True), expected)
