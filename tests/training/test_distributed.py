"""Several processes on one machine, over gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import DatasetDict

SCRIPT = Path(__file__).with_name("evaluate_script.py")


def test_two_processes_evaluate_to_the_value_of_one(saved_detector, scenes, tmp_path):
    """Five clips in batches of two: the processes get unequal shares, and the sampler repeats clips to fill them up."""
    data = DatasetDict({"validation": scenes["validation"].select(range(5))})
    data.save_to_disk(tmp_path / "scenes")
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])}
    results = {}
    for processes in (1, 2):
        output = tmp_path / f"{processes}"
        launch = [sys.executable]
        if processes > 1:
            launch += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        command = [*launch, str(SCRIPT), str(saved_detector), str(tmp_path / "scenes"), str(output)]
        subprocess.run(command, check=True, env=environment, capture_output=True, timeout=300)
        results[processes] = [json.loads((output / f"rank{i}.json").read_text()) for i in range(processes)]
    (one,), two = results[1], results[2]
    assert [r.pop("processes") for r in two] == [2, 2]
    del one["processes"]
    assert two[0] == two[1]
    assert two[0] == pytest.approx(one, abs=1e-9)
    assert one["eval_intersection_f1"] > 0  # the comparison is of more than zeros
