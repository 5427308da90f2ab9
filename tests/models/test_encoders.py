"""Every encoder under the detector: lengths, padding, saving, attention, training."""

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModel, AutoModelForAudioFrameClassification, set_seed

import hf_sed
from hf_sed.models.encoders import encoder_of, to_frames
from hf_sed.training.checkpoints import last_complete_checkpoint
from hf_sed.training.method import PRESETS
from tests.models.encoders import tiny_encoders

ENCODERS = tiny_encoders()
TRANSFORMERS = ["ast", "wav2vec2", "hubert", "wavlm", "data2vec-audio", "whisper"]
# Group norm over time in the first layer, and stacked position convolutions, see the padding.
PADDING_ENTERS = {"wav2vec2-group", "data2vec-audio"}


def detector(name: str, **changes) -> hf_sed.SedForAudioFrameClassification:
    torch.manual_seed(0)
    config = hf_sed.SedConfig(
        backbone_config=ENCODERS[name], labels=["a", "b"], sequence_hidden_size=4, sequence_layers=1, clip_length=2.0, **changes
    )  # fmt: skip
    return hf_sed.SedForAudioFrameClassification(config).eval()


def waveform(seconds: float, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.tensor(0.1 * rng.standard_normal(round(seconds * 16000)), dtype=torch.float32)[None]


@pytest.mark.parametrize("seconds", [0.5, 1.13, 10, 60])
@pytest.mark.parametrize("name", ENCODERS)
def test_clips_of_any_length(name, seconds):
    model = detector(name)
    x = waveform(seconds)
    with torch.no_grad():
        out = model(x)
    frames = model.config.num_frames(x.shape[1])
    assert out.logits.shape == (1, frames, 2)
    assert frames * model.config.frame_hop == pytest.approx(seconds, abs=2 * model.config.frame_hop + 0.03)
    assert torch.isfinite(out.logits).all()
    assert int(model.config.num_frames(torch.tensor([x.shape[1]]))) == frames


@pytest.mark.parametrize(
    "changes", [{}, {"output_frame_hop": 0.04}, {"cnn_branch": {"conv_filters": [4, 4], "pooling": [[2, 8], [2, 8]]}}]
)
@pytest.mark.parametrize("name", [n for n in ENCODERS if n not in PADDING_ENTERS])
def test_padding_changes_nothing_in_the_valid_frames(name, changes):
    if name == "crnn" and changes:
        pytest.skip("the branch is this encoder")
    model = detector(name, **changes)
    clips = [waveform(s, i)[0] for i, s in enumerate((3.33, 2.0, 0.71, 1.955))]
    batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True, padding_value=0.7)
    mask = torch.stack([torch.arange(batch.shape[1]) < len(c) for c in clips]).long()
    with torch.no_grad():
        together = model(batch, attention_mask=mask)
        for i, clip in enumerate(clips):
            alone = model(clip[None])
            frames = alone.logits.shape[1]
            assert int(together.frame_mask[i].sum()) == frames
            assert torch.allclose(together.logits[i, :frames], alone.logits[0], atol=2e-5), (name, i)
            assert torch.allclose(together.clip_probabilities[i], alone.clip_probabilities[0], atol=2e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_saved_and_loaded_it_gives_the_same(name, tmp_path):
    model, x = detector(name), waveform(2.0)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        # What Trainer reads back are these names: older ones (transformers #43701, AST) would be left out.
        assert set(file.keys()) == set(model.state_dict())
    loaded = AutoModelForAudioFrameClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(x).logits, model(x).logits)
    assert loaded.config.labels == ["a", "b"]


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_alone_is_saved_loaded_and_built_upon(name, tmp_path):
    torch.manual_seed(1)
    encoder = AutoModel.from_config(ENCODERS[name]).eval()
    encoder.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(ENCODERS[name])
    model = hf_sed.SedForAudioFrameClassification.from_pretrained(tmp_path, labels=["x", "y", "z"], pooling="mean")
    assert model.config.labels == ["x", "y", "z"]
    assert not model.training
    part = encoder.encoder if name == "whisper" else encoder
    own = model.model.backbone.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in part.state_dict().items())
    with torch.no_grad():
        assert torch.isfinite(model(waveform(1.0)).logits).all()


@pytest.mark.parametrize("name", [n for n in ENCODERS if n not in ("crnn", "yamnet", "frame-mobilenet", "wavlm")])
def test_eager_and_sdpa_attention_agree(name, tmp_path):
    detector(name).save_pretrained(tmp_path)
    x = torch.cat([waveform(2.0, 0), waveform(2.0, 1)])
    mask = (torch.arange(x.shape[1]) < torch.tensor([[32000], [20000]])).long()
    outputs = []
    for kind in ("sdpa", "eager"):
        model = hf_sed.SedForAudioFrameClassification.from_pretrained(tmp_path, attn_implementation=kind)
        assert model.model.backbone.config._attn_implementation == kind
        with torch.no_grad():
            outputs.append(model(x, attention_mask=mask).logits)
    assert torch.allclose(*outputs, atol=1e-5)


@pytest.mark.parametrize("name", ["atst", "beats", "passt"])
def test_recomputing_activations_changes_no_gradient(name):
    gradients = []
    for recompute in (False, True):
        model = detector(name).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        for config in (model.config, model.model.backbone.config):
            config.attention_dropout = 0.0
        if recompute:
            model.activation_checkpointing_enable()
            assert model.model.backbone.layers[0].gradient_checkpointing
        model(waveform(1.0)).logits.square().sum().backward()
        gradients.append([p.grad for p in model.model.backbone.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 10
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("name", ["atst", "beats", "passt", "yamnet", "frame-mobilenet"])
def test_hidden_states_and_fresh_weights(name):
    torch.manual_seed(0)
    encoder = AutoModel.from_config(ENCODERS[name]).eval()
    assert all(torch.isfinite(p).all() and p.abs().max() < 10 for p in encoder.parameters())
    view = encoder_of(encoder.config)
    features = torch.zeros(1, 200, encoder.config.front_end["num_mel_bins"])
    with torch.no_grad():
        out = encoder(features, output_hidden_states=True)
    assert out.last_hidden_state.shape == (1, view.feature_frames(200), view.hidden_size)
    assert len(out.hidden_states) >= 3


@pytest.fixture(scope="module")
def speech_rate_scenes():
    from hf_sed.data.soundscapes import SoundscapeSettings, compose

    settings = SoundscapeSettings(duration=2.0, sampling_rate=16000, events=(1, 2), event_length=(0.1, 1.5))
    return compose(
        None, {"strong": 4, "weak": 4, "unlabelled": 6, "validation": 2}, settings, seed=3, labels=["Alarm", "Bark"]
    )


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", [*TRANSFORMERS, "atst", "yamnet"])
def test_every_preset_trains_saves_and_resumes_exactly(name, preset, speech_rate_scenes, tmp_path):
    AutoModel.from_config(ENCODERS[name]).save_pretrained(tmp_path / "encoder")
    sources = {n: speech_rate_scenes[n] for n in ("strong", "weak", "unlabelled")}

    def trainer(folder):
        set_seed(0)
        model = hf_sed.SedForAudioFrameClassification.from_pretrained(
            tmp_path / "encoder", labels=["Alarm", "Bark"], sequence_hidden_size=4, sequence_layers=1, clip_length=2.0
        )
        values = {
            "preset": preset, "batch_quotas": {"strong": 2, "weak": 2, "unlabelled": 2}, "max_steps": 2, "save_steps": 1,
            "disable_tqdm": True, "dataloader_num_workers": 0, "use_cpu": True, "mixup_probability": 1.0, "learning_rate": 0.01,
        }  # fmt: skip
        return hf_sed.SedTrainer(model, hf_sed.SedTrainingArguments(str(tmp_path / folder), **values), sources)

    whole = trainer("whole")
    before = {k: v.clone() for k, v in whole.learner.detector.model.backbone.state_dict().items()}
    whole.train()
    after = whole.learner.detector.model.backbone.state_dict()
    assert any(not torch.equal(before[k], after[k]) for k in before)
    resumed = trainer("whole")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))
    expected, found = whole.learner.state_dict(), resumed.learner.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[k], found[k]) for k in expected)
    loaded = AutoModelForAudioFrameClassification.from_pretrained(last_complete_checkpoint(tmp_path / "whole"))
    x = waveform(2.0)
    resumed.learner.eval()
    with torch.no_grad():
        reference = resumed.learner.predict("teacher", input_values=x).logits
        assert torch.allclose(loaded(x).logits, reference, atol=1e-6)


def test_frames_of_padded_clips_are_those_of_the_clip_alone():
    torch.manual_seed(0)
    x = torch.randn(3, 40, 5)
    lengths, own = torch.tensor([40, 31, 7]), torch.tensor([25, 20, 12])
    together = to_frames(x, 25, lengths, own)
    for i in range(3):
        alone = to_frames(x[i : i + 1, : lengths[i]], int(own[i]))
        assert torch.allclose(together[i, : own[i]], alone[0], atol=1e-5)


def test_what_cannot_be_an_encoder_is_explained(tmp_path):
    from transformers import BertConfig

    with pytest.raises(ValueError, match="no front end is known for BertConfig"):
        hf_sed.SedConfig(backbone_config=BertConfig(), labels=["a"])
    AutoModel.from_config(ENCODERS["atst"]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"labels=\["):
        hf_sed.SedForAudioFrameClassification.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no setting 'out_layers'"):
        hf_sed.SedForAudioFrameClassification.from_pretrained(
            tmp_path, labels=["a"], backbone_settings={"out_layers": [3]}
        )
