"""The shipped DESED recipes give ATST-SED's published schedules: rates per layer, ramps and moving average at the steps where
they turn, against values computed by hand from arXiv 2309.08153 and the reference's configs."""

from pathlib import Path

import pytest

import hf_sed
from hf_sed.training.recipe import load_recipe
from hf_sed.training.schedules import ema_decay, exponential_ramp

RECIPES = Path(__file__).parents[2] / "recipes"
BLOCK = "model.backbone.layers.{}.fc1.weight"


@pytest.fixture(scope="module")
def narrow_atst_sed():
    """ATST-SED in its full depth and a fraction of its width."""
    encoder = hf_sed.AtstConfig(hidden_size=8, intermediate_size=8, num_attention_heads=2)
    assert encoder.num_hidden_layers == 12
    branch = {"conv_filters": [2] * 7}
    config = hf_sed.SedConfig(
        backbone_config=encoder, cnn_branch=branch, sequence_hidden_size=4, sequence_layers=1, labels=["a", "b"]
    )
    return hf_sed.SedForAudioFrameClassification(config)


def rates(name: str, model, tmp_path, steps) -> dict[int, dict[str, float]]:
    """Step -> parameter -> learning rate, from the optimiser and schedule that a run of the recipe would have."""
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    (stage,) = recipe.stages
    args = recipe.arguments(stage, tmp_path, use_cpu=True, eval_strategy="no", load_best_model_at_end=False)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    trainer = hf_sed.SedTrainer(model, args)
    trainer.create_optimizer_and_scheduler(args.max_steps)
    names = {id(p): n for n, p in model.named_parameters()}
    found = {}
    for step in range(max(steps) + 1):
        if step in steps:
            found[step] = {
                names[id(p)]: g["lr"] for g in trainer.optimizer.param_groups for p in g["params"] if id(p) in names
            }
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    assert trainer.args.max_grad_norm == 0 and trainer.args.weight_decay == 0
    return found


@pytest.mark.parametrize("name", ["desed_stage2", "desed_stage2_conditional"])
def test_rates_of_stage_2(name, narrow_atst_sed, tmp_path):
    found = rates(name, narrow_atst_sed, tmp_path, {0, 1, 290, 7250})
    peak = {
        "strong_head.weight": 2e-3, "model.merge.weight": 2e-3, "model.sequence_model.weight_ih_l0": 2e-3,
        "model.cnn_branch.blocks.0.conv.weight": 2e-4,
        "model.backbone.norm.weight": 2e-4,
        BLOCK.format(11): 1e-4,
        BLOCK.format(10): 5e-5,
        BLOCK.format(0): 4.8828125e-8,
        "model.backbone.patch_embedding.weight": 2.44140625e-8,
        "model.backbone.position_embeddings": 2.44140625e-8,
    }  # fmt: skip
    # exp(-5) and exp(-5 (289 / 290)^2); the ramp's end; a tenth.
    for step, factor in {0: 6.737947e-3, 1: 6.973928e-3, 290: 1.0, 7250: 0.1}.items():
        assert {n: found[step][n] for n in peak} == pytest.approx({n: factor * r for n, r in peak.items()}, rel=1e-5)
    assert len(set(found[290].values())) == 1 + 14  # RNN and heads; fourteen depths, the first at the CNN's rate
    assert set(found[290]) == {n for n, p in narrow_atst_sed.named_parameters() if p.requires_grad}


def test_rates_of_stage_1(narrow_atst_sed, tmp_path):
    found = rates("desed_stage1", narrow_atst_sed, tmp_path, {0, 1, 2950, 11800})
    # exp(-5), exp(-5 (2949 / 2950)^2), constant from the ramp's end on.
    for step, factor in {0: 6.737947e-3, 1: 6.760822e-3, 2950: 1.0, 11800: 1.0}.items():
        (rate,) = set(found[step].values())
        assert rate == pytest.approx(1e-3 * factor, rel=1e-5)
        assert not any(n.startswith("model.backbone") for n in found[step])
        assert "model.cnn_branch.blocks.0.conv.weight" in found[step]


def test_weights_and_moving_average(tmp_path):
    stages = {}
    for name in ("desed_stage1", "desed_stage2", "desed_stage2_conditional"):
        recipe = load_recipe(RECIPES / f"{name}.yaml")
        stages[name] = recipe.arguments(recipe.stages[0], tmp_path, use_cpu=True)
    one, two, new = stages.values()

    def consistency(args, step):
        return args.consistency_weight * exponential_ramp(step, args.ramp_steps)

    assert [consistency(one, s) for s in (0, 1, 2950, 11799)] == pytest.approx([0.01347589, 0.01352164, 2, 2], rel=1e-5)
    assert [consistency(two, s) for s in (0, 1, 290, 7249)] == pytest.approx([0.4716563, 0.4881749, 70, 70], rel=1e-5)
    # In mixed batches 70 / 24 for each of three groups of 48 clips, whose own means sum to three times the mean over all.
    assert two.consistency_weight * two.consistency_mixed_factor == pytest.approx(3 * 70 / 24)
    for args in (two, new):
        assert [ema_decay(s, args.ema_decay, args.ema_warmup) for s in (0, 1, 290, 7249)] == [0.999] * 4
    assert [ema_decay(s, one.ema_decay, one.ema_warmup) for s in (0, 1, 9, 998, 999, 11799)] == pytest.approx(
        [0, 0.5, 0.9, 998 / 999, 0.999, 0.999]
    )
    assert (one.preset, two.preset, new.preset) == ("mean-teacher", "ict", "conditional-mixup")
    assert (one.teacher_sees_mixed, two.teacher_sees_mixed) == (True, False)
    assert (two.contrastive_weight, new.contrastive_weight) == (0, 1)
    assert (new.mixup_threshold, new.projector_hidden_size, new.projector_size) == (0.9, 4096, 256)
    differing = {k for k, v in vars(new).items() if v != vars(two)[k] and not k.startswith("_")}
    assert differing <= {"preset", "mixup_threshold", "contrastive_weight", "projector_hidden_size", "projector_size"} | {
        "output_dir", "accelerator_config", "distributed_state", "deepspeed_plugin", "logging_dir", "run_name",
    }  # fmt: skip
