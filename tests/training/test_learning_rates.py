import pytest
import torch

import hf_sed
from hf_sed.training.learning_rates import encoder_depths, learning_rates
from tests.conftest import LABELS
from tests.models.encoders import tiny_encoders
from tests.training.helpers import state


def detector(name: str, **changes):
    torch.manual_seed(0)
    config = {**tiny_encoders()[name].to_dict(), **changes}
    return hf_sed.SedForAudioFrameClassification(
        hf_sed.SedConfig(backbone_config=config, labels=LABELS, sequence_hidden_size=4, sequence_layers=1)
    )


# Encoder -> some parameters and how many steps of two layers they lie below its output.
DEPTHS = {
    "atst": {"norm.weight": 0, "layers.1.norm1.weight": 1, "layers.0.fc1.bias": 2, "patch_embedding.weight": 3, "position_embeddings": 3},
    "passt": {"norm.weight": 0, "layers.1.fc2.weight": 1, "layers.0.fc2.weight": 2, "tokens": 3, "convs.0.weight": 3},
    "beats": {"layers.1.final_norm.weight": 1, "layers.0.fc1.weight": 2, "projection.weight": 3, "relative_bias.weight": 3},
    "ast": {"layernorm.weight": 0, "layers.1.mlp.fc1.weight": 1, "embeddings.cls_token": 3},
    # The final norm of the "stable layer norm" kind runs after the layers, that of the other kind before them.
    "wav2vec2": {"encoder.layer_norm.weight": 0, "feature_projection.projection.weight": 3},
    "wav2vec2-group": {"encoder.layer_norm.weight": 3, "encoder.layers.1.final_layer_norm.weight": 1},
    "whisper": {"layer_norm.weight": 0, "layers.0.fc1.weight": 2, "conv1.weight": 3},
    "frame-mobilenet": {"last.conv.weight": 0, "blocks.2.project.conv.weight": 1, "first.conv.weight": 4},
    "yamnet": {"layers.4.pointwise.weight": 1, "layers.0.conv.weight": 5},
    "crnn": {"blocks.1.conv.weight": 1, "blocks.0.conv.weight": 2},
}  # fmt: skip


@pytest.mark.parametrize("name", DEPTHS)
def test_depths_are_read_from_the_model(name):
    model = detector(name).train()
    depths = encoder_depths(model)
    assert {n: depths[f"model.backbone.{n}"] for n in DEPTHS[name]} == DEPTHS[name]
    assert set(depths) == {n for n, _ in model.named_parameters() if n.startswith("model.backbone.")}
    assert all(m.training for m in model.modules())


def test_reading_depths_changes_nothing():
    model = detector("frame-mobilenet").train()
    model.model.backbone.first.norm.eval()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    random = torch.get_rng_state()
    encoder_depths(model)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert not model.model.backbone.first.norm.training and model.model.backbone.last.norm.training


def test_rates_by_name_and_depth():
    model = detector("atst")
    rates = learning_rates(model, 0.1, {r"model\.backbone\.norm": 0.5, r"model\.backbone": 0.01}, layer_decay=0.1)
    assert rates["strong_head.weight"] == 0.1
    assert rates["model.backbone.norm.weight"] == 0.5
    assert rates["model.backbone.layers.1.fc1.weight"] == pytest.approx(0.001)
    assert rates["model.backbone.patch_embedding.weight"] == pytest.approx(0.01 * 0.1**3)
    with pytest.raises(ValueError, match=r"learning_rate_mapping: 'model\.encoder' matches no parameter"):
        learning_rates(model, 0.1, {"model.encoder": 1.0})


def test_an_adapter_has_the_depths_of_its_layers(tmp_path):
    detector("atst").save_pretrained(tmp_path)
    adapted = hf_sed.add_lora(hf_sed.SedForAudioFrameClassification.from_pretrained(tmp_path), r=2)
    rates = learning_rates(adapted.get_base_model(), 1.0, None, layer_decay=0.5)
    assert rates["model.backbone.layers.1.fc1.lora_A.default.weight"] == 0.5
    assert rates["model.backbone.layers.0.attention.q_proj.lora_B.default.weight"] == 0.25


def test_a_run_with_layer_decay_moves_lower_layers_less(train_sources, make_trainer, tmp_path):
    model = detector("atst")
    model.config.clip_length = 2.0
    trainer = make_trainer(
        model=model, sources=train_sources, layer_decay=0.01, max_steps=2, ramp_steps=0, learning_rate=0.01
    )
    before = state(trainer)
    trainer.train()
    after = state(trainer)

    def moved(name):
        name = f"student.{name}"
        return float((after[name] - before[name]).abs().max())

    steps = [moved(f"model.backbone.layers.{i}.fc1.weight") for i in (1, 0)]
    assert moved("strong_head.weight") > 10 * steps[0] > 100 * steps[1] > 0
