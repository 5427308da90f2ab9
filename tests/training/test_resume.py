"""Stop a run, lose its machine, resume it: the same result."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from hf_sed.training.checkpoints import MANIFEST, last_complete_checkpoint, seal, unseal, what_is_missing, written_by
from hf_sed.training.trainer import TRAINING_STATE
from tests.training.helpers import assert_same, run_python, state

SCRIPT = Path(__file__).with_name("killed_script.py")


@pytest.mark.parametrize(("workers", "stop"), [(0, 3), (1, 3), (1, 6)])
def test_resuming_is_bit_exact_in_the_middle_of_an_epoch(make_trainer, workers, stop):
    """Step 3 lies inside the first epoch of four batches, step 6 in the second; dropout, mixup and BatchNorm are on."""
    values = {"dataloader_num_workers": workers, "save_steps": 3, "max_steps": 9}
    whole = make_trainer("whole", **values)
    whole.train()
    part = make_trainer("part", **values)
    part.train()
    for step in (6, 9):
        if step > stop:
            shutil.rmtree(Path(part.args.output_dir) / f"checkpoint-{step}")
    resumed = make_trainer("part", **values)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 9
    assert_same(state(whole), state(resumed))


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_weights(scenes, tmp_path):
    """SIGKILL nine times at random: six times from outside (while it starts, between steps, during saves), three times inside
    a save. On one process, bit for bit, optimiser included."""
    scenes.save_to_disk(tmp_path / "scenes")

    def run(folder, seed):
        done = run_python(SCRIPT, tmp_path / "scenes", tmp_path / folder, seed)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1]), done.stderr

    assert run("whole", -1)[0]["ends"] == ["done"]
    killed, messages = run("killed", 7)
    assert killed["ends"] == ["killed"] * 9 + ["done"]
    assert killed["half_written"] >= 3
    assert "was not written to its end and is skipped" in messages
    whole, parts = tmp_path / "whole", tmp_path / "killed"
    for file in ("model.safetensors", f"checkpoint-75/{TRAINING_STATE}"):
        assert_same(load_file(whole / file), load_file(parts / file))
    for file in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        assert (whole / "checkpoint-75" / file).read_bytes() == (parts / "checkpoint-75" / file).read_bytes()


@pytest.mark.parametrize("damage", ["no manifest", "torn manifest", "shorter file", "file gone"])
def test_a_half_written_checkpoint_is_skipped_and_never_loaded(make_trainer, tmp_path, caplog, damage):
    trainer = make_trainer()
    trainer.train()
    newest = last_complete_checkpoint(tmp_path / "run")
    assert newest.name == "checkpoint-6"
    assert written_by(newest) == 1
    if damage == "no manifest":
        unseal(newest)
    elif damage == "torn manifest":
        (newest / MANIFEST).write_text('{"files": {"model')
    elif damage == "shorter file":
        (newest / "optimizer.pt").write_bytes((newest / "optimizer.pt").read_bytes()[:-10])
    else:
        (newest / TRAINING_STATE).unlink()
    with caplog.at_level("WARNING"):
        assert last_complete_checkpoint(tmp_path / "run").name == "checkpoint-3"
    assert "checkpoint-6: was not written to its end" in caplog.text
    with pytest.raises(ValueError, match="checkpoint-6: not a complete checkpoint"):
        make_trainer().train(resume_from_checkpoint=str(newest))
    with pytest.raises(ValueError, match="no complete checkpoint"):
        make_trainer("empty").train(resume_from_checkpoint=True)


def test_a_checkpoint_that_is_written_again_counts_only_when_it_is_whole_again(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"12345")
    seal(tmp_path, 2)
    assert what_is_missing(tmp_path) is None and written_by(tmp_path) == 2
    unseal(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"54321")
    assert MANIFEST in what_is_missing(tmp_path)


def test_older_checkpoints_go_only_when_the_new_one_is_whole(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer(save_total_limit=1, save_steps=1, max_steps=2)
    import hf_sed.training.trainer as module

    def stop(folder, processes):
        if folder.name == "checkpoint-2":
            raise KeyboardInterrupt
        seal(folder, processes)

    monkeypatch.setattr(module, "seal", stop)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert last_complete_checkpoint(tmp_path / "run").name == "checkpoint-1"
    monkeypatch.undo()
    resumed = make_trainer(save_total_limit=1, save_steps=1, max_steps=2)
    resumed.train(resume_from_checkpoint=True)
    assert [p.name for p in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2"]
    assert resumed.args.save_total_limit == 1


def test_selecting_the_best_model_survives_a_resume(make_trainer, tmp_path):
    values = {
        "evaluate": True, "eval_strategy": "steps", "eval_steps": 3, "load_best_model_at_end": True, "learning_rate": 0.01,
        "metric_for_best_model": "psds_sum", "max_steps": 9,
    }  # fmt: skip
    whole = make_trainer("whole", **values)
    whole.train()
    make_trainer("part", **values).train()
    for step in (6, 9):
        shutil.rmtree(tmp_path / "part" / f"checkpoint-{step}")
    resumed = make_trainer("part", **values)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.best_metric == whole.state.best_metric
    sums = [log["eval_psds1"] + log["eval_psds2"] for log in whole.state.log_history if "eval_psds1" in log]
    assert whole.state.best_metric == max(sums)
    assert_same(state(whole), state(resumed))
