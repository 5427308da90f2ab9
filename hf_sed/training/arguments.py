"""Arguments of [`SedTrainer`]: transformers' own, and the method's."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import TrainingArguments

from .method import MethodSettings


@dataclass
class SedTrainingArguments(MethodSettings, TrainingArguments):
    """`TrainingArguments` plus [`hf_sed.training.method.MethodSettings`] and:

    Args:
        batch_quotas: source -> clips of it in each batch; their sum is the batch size. Empty: `per_device_train_batch_size`
            spread evenly over the sources that the preset uses.
        learning_rate_schedule: "ramp" (exponential over `ramp_steps`, then a cosine down to `final_learning_rate_ratio`, as
            in ATST-SED) or "transformers" (`lr_scheduler_type` and its warm-up).
        learning_rate_mapping: regular expression -> learning rate; a parameter of the detector takes the rate of the first one
            that matches its name at its start, else `learning_rate`. Schedules scale all of them alike.
        final_learning_rate_ratio: where the "ramp" schedule ends, relative to `learning_rate`; 1 stays constant.
    """

    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "batch_quotas", "learning_rate_mapping"]

    batch_quotas: dict | str | None = field(
        default=None, metadata={"help": "source: clips of it in each batch, as JSON"}
    )
    learning_rate_mapping: dict | str | None = field(
        default=None, metadata={"help": "pattern of parameter names: learning rate, as JSON"}
    )
    learning_rate_schedule: str = "ramp"
    final_learning_rate_ratio: float = 1.0

    # Other defaults than transformers': rows hold columns that no model's forward names; waiting for data must not bound
    # the step; PSDS is what a detector is chosen by.
    remove_unused_columns: bool = False
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    max_grad_norm: float = 5.0
    dataloader_num_workers: int = 1
    dataloader_persistent_workers: bool = True
    dataloader_pin_memory: bool = field(default=False)
    logging_steps: float = 50
    metric_for_best_model: str | None = "psds1"
    ddp_find_unused_parameters: bool | None = False

    def __post_init__(self):
        if self.dataloader_num_workers == 0:
            self.dataloader_persistent_workers = False
        super().__post_init__()
        self.resolve_preset()
        if self.learning_rate_schedule not in ("ramp", "transformers"):
            raise ValueError(
                f"learning_rate_schedule {self.learning_rate_schedule!r}; expected 'ramp' or 'transformers'."
            )
        if self.remove_unused_columns:
            raise ValueError(
                "remove_unused_columns must stay False: the batches hold targets and masks that no model's forward names."
            )
