"""What makes a step cheaper changes nothing in it."""

import shutil

import pytest
import torch

import hf_sed
from hf_sed.training.student_teacher import AveragedCopy, StudentTeacher
from tests.conftest import LABELS
from tests.models.encoders import tiny_encoders
from tests.training.helpers import assert_same, state
from tests.training.test_student_teacher import make_batch, settings

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")


def transformer(**changes):
    torch.manual_seed(0)
    encoder = {**tiny_encoders()["atst"].to_dict(), "hidden_dropout": 0.1, "attention_dropout": 0.1}
    config = hf_sed.SedConfig(
        backbone_config=encoder, labels=LABELS, sequence_hidden_size=4, sequence_layers=1, clip_length=2.0, **changes
    )
    return hf_sed.SedForAudioFrameClassification(config)


def test_activation_checkpointing_changes_no_weight(make_trainer):
    """Dropout on, with the teacher's forward between the student's and its recomputation."""
    states = []
    for on in (False, True):
        trainer = make_trainer(f"{on}", transformer(), max_steps=3, save_strategy="no", activation_checkpointing=on)
        trainer.train()
        states.append(state(trainer))
        layers = trainer.learner.detector.model.backbone.layers
        assert all(layer.gradient_checkpointing == on for layer in layers)
    assert_same(*states)


def test_the_precision_of_matrix_products_is_torch_s_own_setting(make_trainer):
    before = torch.get_float32_matmul_precision()
    try:
        losses = []
        for precision in (None, "medium"):
            torch.set_float32_matmul_precision("highest")
            trainer = make_trainer(
                f"{precision}",
                transformer(),
                max_steps=2,
                save_strategy="no",
                logging_steps=1,
                float32_matmul_precision=precision,
            )
            assert torch.get_float32_matmul_precision() == (precision or "highest")
            trainer.train()
            losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
        assert losses[1] == pytest.approx(losses[0], rel=0.02)  # where the processor rounds to bfloat16
    finally:
        torch.set_float32_matmul_precision(before)
    with pytest.raises(ValueError, match="float32_matmul_precision 'low'; expected"):
        make_trainer(float32_matmul_precision="low")


def test_averages_of_a_bfloat16_model_are_float32():
    """A thousand steps of 0.999 towards another value: in bfloat16 they would not move it at all."""
    model = torch.nn.Linear(4, 4).to(torch.bfloat16)
    average = AveragedCopy(model)
    start = average.tensors()["weight"].clone()
    assert start.dtype == torch.float32
    with torch.no_grad():
        model.weight.add_(1.0)
    target = model.weight.detach().float()
    for _ in range(1000):
        average.update(model, 0.999)
    expected = target + 0.999**1000 * (start - target)
    assert torch.allclose(average.tensors()["weight"], expected, atol=1e-4)
    assert average.weights()["weight"].dtype == torch.bfloat16
    with average.swapped_into(model):
        assert torch.equal(model.weight, average.weights()["weight"])
    assert torch.equal(model.weight.float(), target)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_in_bfloat16_autocast_or_weights(dtype):
    detector = transformer()
    if dtype == torch.bfloat16:
        detector.to(dtype)
        detector.model.front_end.float()
    learner = StudentTeacher(detector, settings())
    if dtype == torch.bfloat16:
        learner.projector.to(dtype), learner.predictor.to(dtype)
        learner.projector_teacher = AveragedCopy(learner.projector)
    batch = make_batch(detector.config)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
        out = learner(**batch)
    out.loss.backward()
    assert torch.isfinite(out.loss)
    assert all(
        v.dtype == torch.float32 for n, v in learner.teacher.tensors().items() if n in learner.teacher.parameter_names
    )
    learner.update_teacher(0.999)


def test_bf16_training_logs_saves_and_keeps_float32_averages(make_trainer, tmp_path):
    # As a user would, without use_cpu where there is no accelerator.
    trainer = make_trainer(model=transformer(), bf16=True, max_steps=2, save_steps=1, use_cpu=False)
    trainer.train()
    assert all(v.dtype != torch.bfloat16 for v in trainer.learner.teacher.buffers())
    resumed = make_trainer(model=transformer(), bf16=True, max_steps=3, save_steps=1)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 3


def test_the_teacher_runs_in_inference_mode_and_its_outputs_may_be_used(make_detector):
    learner = StudentTeacher(make_detector(), settings())
    seen = []
    learner.student.model.backbone.register_forward_hook(lambda *_: seen.append(torch.is_inference_mode_enabled()))
    out = learner(**make_batch(learner.detector.config))
    out.loss.backward()
    assert seen == [False, True]


def test_the_front_end_runs_once_a_step(make_detector):
    learner = StudentTeacher(make_detector(), settings(mixup_probability=1.0))
    calls = []
    learner.detector.model.front_end.register_forward_hook(lambda *_: calls.append(1))
    learner(**make_batch(learner.detector.config))
    assert len(calls) == 1


@needs_compiler
def test_a_compiled_encoder_gives_the_same_losses(make_trainer):
    """Student and teacher share the compiled encoder, whose weights `functional_call` exchanges."""
    losses = []
    for on in (False, True):
        model = transformer(dropout=0.0)
        model.model.backbone.config.hidden_dropout = model.model.backbone.config.attention_dropout = 0.0
        for module in model.model.backbone.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        trainer = make_trainer(
            f"{on}", model, max_steps=3, save_strategy="no", logging_steps=1, compile_encoder=on, ema_decay=0.5
        )
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize(
    "values",
    [
        {"activation_checkpointing": True},
        pytest.param({"compile_encoder": True}, marks=needs_compiler),
        {"bf16": True},
        {"layer_decay": 0.5, "frozen": [r"model\.backbone\.layers\.0"]},
    ],
    ids=str,
)
def test_options_go_with_an_adapter_and_resume_exactly(make_trainer, tmp_path, values):
    transformer().save_pretrained(tmp_path / "base")

    def run(folder, stop, resume=False):
        torch.manual_seed(0)
        base = hf_sed.SedForAudioFrameClassification.from_pretrained(tmp_path / "base")
        trainer = make_trainer(folder, hf_sed.add_lora(base, r=2), max_steps=stop, save_steps=2, **values)
        trainer.train(resume_from_checkpoint=resume)
        return state(trainer)

    whole = run("whole", 4)
    run("parts", 2)
    assert_same(whole, run("parts", 4, resume=True))
