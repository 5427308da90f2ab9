"""Several processes (`accelerate launch`, `torchrun`): what they agree on, and how.

- Batches: quotas are those of the *global* batch; [`hf_sed.data.batches.QuotaBatchSampler`] deals each batch out, so that
  one process and many see the same clips in the same steps. Mixing partners come from a process's own clips.
- Losses: means over the clips of the global batch, whatever share of the strong, weak or unlabelled ones a process holds.
- BatchNorm: each process normalises with the statistics of its own clips; after every optimiser step the running
  statistics (student, teacher, projector and predictor) become the means over the processes, the same on all of them.
- Teacher: the same averages everywhere, since the student's parameters are the same everywhere.
- Random numbers: the seed of process i is that of the run plus i, so that they do not draw the same dropout and mixup.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from accelerate.utils import broadcast, set_seed

if TYPE_CHECKING:
    from accelerate import Accelerator

    from .student_teacher import StudentTeacher

logger = logging.getLogger(__name__)


def start_alike(accelerator: Accelerator, learner: StudentTeacher, seed: int | None) -> None:
    """Give all processes the first one's buffers (DistributedDataParallel does so with parameters) and, unless ``seed`` is
    None, random numbers of their own."""
    if accelerator.num_processes > 1:
        broadcast(list(learner.buffers()))
        if seed is not None:
            set_seed(seed, device_specific=True)


def loss_shares(accelerator: Accelerator, strong_mask: torch.Tensor, weak_mask: torch.Tensor) -> torch.Tensor | None:
    """Factors (3,) for this process's means over its strong, its weak (masks (B,)) and all its clips: the mean over processes of
    the means times their factors is the mean over the global batch. None on one process."""
    if accelerator.num_processes == 1:
        return None
    counts = torch.stack([strong_mask.sum(), weak_mask.sum(), strong_mask.new_tensor(len(strong_mask))])
    return accelerator.num_processes * counts / accelerator.reduce(counts, "sum").clamp(min=1e-7)


@torch.no_grad()
def average(accelerator: Accelerator, tensors: Sequence[torch.Tensor]) -> None:
    """Replace tensors by their means over the processes, in one exchange."""
    if accelerator.num_processes == 1 or not tensors:
        return
    flat = accelerator.reduce(torch.cat([t.flatten().float() for t in tensors]), "mean")
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def warn_of_one_process(processes: int) -> None:
    """Say so where `accelerate launch` was told to start several processes and started this one alone.

    It does that with ``--cpu --num_processes N`` and with ``distributed_type: MULTI_CPU`` unless an MPI host file is given;
    what it leaves in the environment then is an address to meet at, but no rank.
    """
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
    ranks = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
    if processes == 1 and launched and not any(name in os.environ for name in ranks):
        logger.warning(
            "accelerate launch was asked for several processes but started only this one, as it does with --cpu and with "
            "MULTI_CPU. For several processes on CPUs use `accelerate launch --config_file recipes/accelerate/multi_cpu.yaml "
            "--num_processes N …` or `torchrun --nproc_per_node N …`."
        )
