import json

import pytest
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioFrameClassification

import hf_sed
from tests.conftest import LABELS, tiny_config


@pytest.fixture
def waveforms():
    return 0.1 * torch.randn(3, 16000, generator=torch.Generator().manual_seed(1))


def logits(model, *args, **kwargs):
    with torch.no_grad():
        return model.eval()(*args, **kwargs).logits


def test_the_published_sizes_are_the_defaults():
    config = hf_sed.SedConfig(labels=[str(i) for i in range(10)])
    model = hf_sed.SedForAudioFrameClassification(config)
    assert config.num_frames(160000) == 156
    assert config.frame_hop == pytest.approx(0.064)
    assert sum(p.numel() for p in model.parameters()) == 1_112_420  # "plain CRNN 1.112 M"
    output = model.eval()(torch.zeros(1, 160000))
    assert output.logits.shape == (1, 156, 10)
    assert output.clip_probabilities.shape == (1, 10)
    assert output.embeddings.shape == (1, 156, 256)


def test_save_and_load_are_exact_for_every_auto_class(make_detector, waveforms, tmp_path):
    model = make_detector(7)
    expected = logits(model, waveforms)
    model.save_pretrained(tmp_path)
    hf_sed.SedFeatureExtractor(sampling_rate=8000).save_pretrained(tmp_path)
    loaded, info = AutoModelForAudioFrameClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert torch.equal(logits(loaded, waveforms), expected)
    assert isinstance(AutoConfig.from_pretrained(tmp_path).backbone_config, hf_sed.CrnnConfig)
    assert AutoConfig.from_pretrained(tmp_path).labels == LABELS
    assert AutoFeatureExtractor.from_pretrained(tmp_path).sampling_rate == 8000
    base = AutoModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(base(waveforms).last_hidden_state, model(waveforms).embeddings)


def test_bfloat16_round_trip_keeps_the_front_end_in_float32(make_detector, waveforms, tmp_path):
    make_detector(7).save_pretrained(tmp_path / "a")
    half = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "a", dtype=torch.bfloat16)
    assert half.strong_head.weight.dtype == torch.bfloat16
    assert half.model.front_end.mel_filters.dtype == half.model.front_end.window.dtype == torch.float32
    assert torch.equal(half.model.front_end.mel_filters, make_detector(7).model.front_end.mel_filters)
    expected = logits(half, waveforms)
    assert torch.isfinite(expected).all()
    assert (expected.float() - logits(make_detector(7), waveforms)).abs().max() < 0.05
    half.save_pretrained(tmp_path / "b")
    again = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "b")
    assert again.dtype == torch.bfloat16
    assert torch.equal(logits(again, waveforms), expected)


def test_what_an_encoder_lacks_is_initialised_not_garbage(make_detector, tmp_path):
    """A checkpoint of the encoder alone: GRU, heads and front-end buffers are drawn or made anew."""
    model = make_detector(7)
    model.model.backbone.save_pretrained(tmp_path / "encoder")
    settings = {"sequence_hidden_size": 5, "sequence_layers": 1, "clip_length": 2.0}
    loaded = hf_sed.SedForAudioFrameClassification.from_pretrained(tmp_path / "encoder", labels=["x", "y"], **settings)
    bound = 1 / 5**0.5
    for name, value in loaded.named_parameters():
        assert torch.isfinite(value).all(), name
        if "sequence_model" in name:
            assert 0 < value.abs().max() <= bound
    for name, value in model.model.backbone.state_dict().items():
        assert torch.equal(loaded.model.backbone.state_dict()[name], value), name
    assert torch.equal(loaded.model.front_end.mel_filters, model.model.front_end.mel_filters)
    with pytest.raises(ValueError, match=r"knows no classes.*labels=\["):
        hf_sed.SedForAudioFrameClassification.from_pretrained(tmp_path / "encoder")


def test_a_detector_gets_new_heads_for_new_classes(saved_detector):
    old = AutoModelForAudioFrameClassification.from_pretrained(saved_detector)
    new = hf_sed.SedForAudioFrameClassification.from_pretrained(saved_detector, labels=["Owl", "Fox"])
    assert new.config.labels == ["Owl", "Fox"]
    assert new.strong_head.weight.shape[0] == 2
    as_many = hf_sed.SedForAudioFrameClassification.from_pretrained(saved_detector, labels=["Owl", "Fox", "Wolf"])
    assert not torch.equal(as_many.strong_head.weight, old.strong_head.weight)
    given = hf_sed.SedForAudioFrameClassification.from_pretrained(saved_detector, labels=["Owl"], thresholds=[0.3])
    assert given.config.thresholds == [0.3]
    with pytest.raises(ValueError, match="backbone_settings are for encoders"):
        hf_sed.SedForAudioFrameClassification.from_pretrained(saved_detector, backbone_settings={"activation": "relu"})
    assert torch.equal(new.model.sequence_model.weight_hh_l0, old.model.sequence_model.weight_hh_l0)
    same = hf_sed.SedForAudioFrameClassification.from_pretrained(
        saved_detector, labels=old.config.labels, thresholds=0.3
    )
    assert torch.equal(same.strong_head.weight, old.strong_head.weight)
    assert same.config.thresholds == 0.3


@pytest.mark.parametrize(
    ("change", "message"), [("drop", "is missing"), ("add", "has no place"), ("cut", "another shape")]
)
def test_a_checkpoint_that_does_not_fit_is_an_error(saved_detector, change, message):
    from safetensors.torch import load_file, save_file

    path = saved_detector / "model.safetensors"
    state = load_file(path)
    name = "model.sequence_model.weight_hh_l0"
    if change == "drop":
        del state[name]
    elif change == "add":
        state["model.sequence_model.weight_hh_l9"] = torch.zeros(2)
    else:
        state[name] = state[name][:3].clone()
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises((ValueError, RuntimeError), match=f"{message}|size mismatch|ignore_mismatched"):
        AutoModelForAudioFrameClassification.from_pretrained(saved_detector)


@pytest.mark.parametrize("changes", [{}, {"sequence_model": "none"}, {"pooling": "mean"}])
def test_padding_and_masking_change_nothing(make_detector, waveforms, changes):
    model = make_detector(3, **changes).eval()
    config, short = model.config, 9001
    padded = waveforms.clone()
    padded[0, short:] = 5.0
    mask = torch.ones(3, 16000, dtype=torch.long)
    mask[0, short:] = 0
    with torch.no_grad():
        together, alone, full = model(padded, mask), model(waveforms[:1, :short]), model(waveforms)
    frames = config.num_frames(short)
    assert alone.logits.shape[1] == frames
    assert together.frame_mask.sum(1).tolist() == [frames, *[config.num_frames(16000)] * 2]
    assert torch.allclose(together.logits[0, :frames], alone.logits[0], atol=1e-5)
    assert torch.allclose(together.clip_probabilities[0], alone.clip_probabilities[0], atol=1e-6)
    assert torch.allclose(together.logits[1:], full.logits[1:], atol=1e-5)


def test_padding_changes_no_training_loss_gradient_or_statistic(make_detector, waveforms):
    """In training mode too, where BatchNorm sees the whole batch: two clips of 9000 samples, alone and padded to 16000."""
    labels = torch.zeros(2, tiny_config().num_frames(16000), 3)
    labels[:, 2:7, 1] = 1
    results = []
    for length in (9000, 16000):
        model = make_detector(3, conv_dropout=0.0, dropout=0.0).train()
        mask = (torch.arange(length) < 9000).long().expand(2, -1)
        # A third, full clip only makes the mask necessary; it is the same in both batches up to its own padding.
        frames = model.config.num_frames(length)
        output = model(waveforms[:2, :length], mask, labels=labels[:, :frames], clip_labels=labels.amax(1))
        output.loss.backward()
        results.append(
            (
                output.loss,
                model.model.backbone.blocks[0].conv.weight.grad,
                model.model.backbone.blocks[1].batch_norm.running_var,
            )
        )
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_any_length_down_to_a_few_frames(detector):
    for samples in (600, 5000, 80000):
        assert logits(detector, torch.randn(1, samples)).shape == (1, detector.config.num_frames(samples), 3)


def test_unknown_labels_do_not_train(detector, waveforms):
    frames = detector.config.num_frames(16000)
    labels = torch.zeros(3, frames, 3)
    labels[1:] = -100.0
    detector.eval()
    one = detector(waveforms[:1], labels=labels[:1]).loss
    assert torch.allclose(detector(waveforms, labels=labels).loss, one, atol=1e-6)
    assert detector(waveforms, labels=torch.full_like(labels, -100.0)).loss == 0


def test_hidden_states_tuples_and_configs(detector, waveforms):
    output = detector(waveforms, output_hidden_states=True)
    assert [h.shape[-1] for h in output.hidden_states] == [
        detector.config.backbone_config.hidden_size,
        detector.config.hidden_size,
    ]
    assert isinstance(detector(waveforms, return_dict=False), tuple)
    stored = json.loads(detector.config.to_json_string())
    assert stored["backbone_config"]["model_type"] == "hf-sed-crnn"
    assert stored["backbone_config"]["front_end"]["hop_length"] == 128


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hf_sed.SedConfig(labels=["a", "a"]), "distinct"),
        (lambda: hf_sed.SedConfig(labels="Dog"), "list of distinct"),
        (lambda: hf_sed.SedConfig(labels=["a"], thresholds=[0.1, 0.2]), "2 values for 1 classes"),
        (lambda: hf_sed.SedConfig(sequence_model="lstm"), "sequence_model 'lstm'"),
        (lambda: hf_sed.SedConfig(backbone_config={"model_type": "resnext101"}), "model_type 'resnext101'"),
        (lambda: hf_sed.CrnnConfig(conv_filters=[1, 2]), "must agree"),
        (lambda: hf_sed.CrnnConfig(activation="gelu"), "activation 'gelu'"),
        (lambda: hf_sed.CrnnConfig(dropout=[0.1]), "dropout has 1 values"),
    ],
)
def test_bad_configs_are_explained(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_feature_extractor_takes_what_users_have(tmp_path):
    import numpy as np
    import soundfile

    extractor = hf_sed.SedFeatureExtractor(sampling_rate=8000)
    soundfile.write(tmp_path / "a.wav", np.zeros((16000, 2)), 16000)
    batch = extractor(
        [str(tmp_path / "a.wav"), {"array": np.ones(4000, dtype=np.float32), "sampling_rate": 8000}],
        return_tensors="pt",
    )
    assert batch["input_values"].shape == (2, 8000)
    assert batch["attention_mask"].sum(1).tolist() == [8000, 4000]
    assert extractor([0.0] * 100, return_tensors="np")["input_values"].shape == (1, 100)
    assert extractor(np.ones(16000, dtype=np.float32), sampling_rate=16000)["input_values"][0].shape == (8000,)


def test_torch_export_gives_the_same_logits(detector, waveforms):
    detector.eval()
    exported = torch.export.export(detector, (waveforms,), strict=False).module()
    with torch.no_grad():
        assert torch.allclose(exported(waveforms).logits, detector(waveforms).logits, atol=1e-5)
