"""Arguments of [`SedTrainer`]: transformers' own, and the method's."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from ..checks import check_choices
from .method import MethodSettings


@dataclass
class SedTrainingArguments(MethodSettings, TrainingArguments):
    """`TrainingArguments` plus [`hf_sed.training.method.MethodSettings`] and:

    Args:
        batch_quotas: source -> clips of it in each batch, of all processes together; their sum is the batch size. Empty:
            `per_device_train_batch_size` times the number of processes, spread evenly over the sources that the preset uses.
        learning_rate_schedule: "ramp" (exponential over `ramp_steps`, then a cosine down to `final_learning_rate_ratio`, as
            in ATST-SED) or "transformers" (`lr_scheduler_type` and its warm-up).
        learning_rate_mapping: regular expression -> learning rate; a parameter of the detector takes the rate of the first one
            that matches its name at its start, else `learning_rate`. Schedules scale all of them alike.
        layer_decay: the encoder's rates are multiplied by this once for every layer below its output (ATST-SED stage 2: 0.5).
        final_learning_rate_ratio: where the "ramp" schedule ends, relative to `learning_rate`; 1 stays constant.
        audio_cache_dir: keep clips there decoded and resampled (`hf_sed.data.audio_cache`); None decodes them in each epoch.
        float32_matmul_precision: "highest", "high" or "medium", for `torch.set_float32_matmul_precision`; None leaves it as it is.
            "high" allows TF32 on GPUs. "medium" hands a CPU's matrix products to oneDNN, which may round factors to bfloat16
            where the processor has matrix instructions for it (AMX), and keeps float32 where it has not.
        compile_encoder: run the encoder through `torch.compile` (the first steps then take minutes).
    """

    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "batch_quotas", "learning_rate_mapping"]

    batch_quotas: dict | str | None = field(
        default=None, metadata={"help": "source: clips of it in each batch, as JSON"}
    )
    learning_rate_mapping: dict | str | None = field(
        default=None, metadata={"help": "pattern of parameter names: learning rate, as JSON"}
    )
    layer_decay: float = 1.0
    learning_rate_schedule: str = "ramp"
    final_learning_rate_ratio: float = 1.0
    audio_cache_dir: str | None = None
    float32_matmul_precision: str | None = None
    compile_encoder: bool = False

    # Other defaults than transformers': rows hold columns that no model's forward names; waiting for data must not bound
    # the step; PSDS is what a detector is chosen by.
    remove_unused_columns: bool = False
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    max_grad_norm: float = 5.0
    dataloader_num_workers: int = 1
    dataloader_persistent_workers: bool = True
    logging_steps: float = 50
    metric_for_best_model: str | None = "psds1"
    ddp_find_unused_parameters: bool | None = False
    # Student and teacher run forward before one backward; statistics are averaged once a step (training/processes.py).
    ddp_broadcast_buffers: bool | None = False

    def __post_init__(self):
        if self.dataloader_num_workers == 0:
            self.dataloader_persistent_workers = False
        if not torch.accelerator.is_available():
            # Unless told so, transformers refuses bf16 and leaves each of several processes on CPUs to itself.
            self.use_cpu = True
        super().__post_init__()
        self.resolve_preset()
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False
        choices = {
            "learning_rate_schedule": ("ramp", "transformers"),
            "float32_matmul_precision": (None, "highest", "high", "medium"),
        }
        check_choices(self, choices)
        if self.remove_unused_columns:
            raise ValueError(
                "remove_unused_columns must stay False: the batches hold targets and masks that no model's forward names."
            )
