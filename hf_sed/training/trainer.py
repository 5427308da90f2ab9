"""`SedTrainer`: transformers' Trainer around a student and its teacher."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.logging import get_logger
from safetensors.torch import load_file, save_file
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from ..data.audio_cache import resampled
from ..data.batches import QuotaBatchSampler, SedClips, check_quotas, collate_clips
from ..models.sed.feature_extraction_sed import SedFeatureExtractor
from .arguments import SedTrainingArguments
from .checkpoints import MANIFEST, last_complete_checkpoint, seal, unseal, what_is_missing, written_by
from .learning_rates import group_by_rate, learning_rates
from .processes import average, loss_shares, start_alike, warn_of_one_process
from .schedules import ema_decay, exponential_ramp, ramp_cosine
from .student_teacher import NETWORKS, StudentTeacher

if TYPE_CHECKING:
    import datasets

    from ..models.sed.configuration_sed import SedConfig

logger = get_logger(__name__)

TRAINING_STATE = "training_state.safetensors"


class _StepCallback(TrainerCallback):
    """What must happen once a run, an epoch or an optimiser step: processes that start alike, the sampler's epoch, the
    moving average."""

    def __init__(self, trainer: SedTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        # A resumed run has its random numbers from the checkpoint.
        start_alike(self.trainer.accelerator, self.trainer.learner, args.seed if state.global_step == 0 else None)

    def on_epoch_begin(self, args, state, control, **kwargs):
        if self.trainer.batch_sampler is not None:
            self.trainer.batch_sampler.set_epoch(int(state.epoch or 0))

    def on_step_end(self, args, state, control, **kwargs):
        learner = self.trainer.learner
        average(self.trainer.accelerator, learner.moving_statistics())
        learner.update_teacher(ema_decay(state.global_step - 1, args.ema_decay, args.ema_warmup))


class SedTrainer(Trainer):
    """Train a detector with a mean teacher, conditional mixup and the contrastive loss, as `args.preset` says.

    Args:
        model: a detector ([`SedForAudioFrameClassification`], or a PEFT model around one). `from_pretrained` gives one;
            what it holds is where student and teacher start.
        args: [`SedTrainingArguments`].
        train_dataset: source name -> data set of the schema (`hf_sed.data.schema`). "supervised" uses the sources with
            labelled clips, the other presets need one with unlabelled clips too.
        eval_dataset: a data set of the schema whose clips are all "strong".
        compute_metrics: replaces the default, PSDS1, PSDS2 and intersection F1 of student and teacher. Gets an
            `EvalPrediction` with ``predictions = (student, teacher)``, frame probabilities (clips, T, C) padded with
            -100, and ``label_ids`` = the clips' numbers in ``eval_dataset``.

    The saved model, in `output_dir` and at the top of every checkpoint, is the plain detector with the tensors of
    `args.evaluate_with`; checkpoints hold the whole training state beside it, and `train(resume_from_checkpoint=True)`
    goes on from the newest complete one exactly. What several processes agree on: `hf_sed.training.processes`.

    Raises ValueError before training for missing, empty or unlabelled data that the preset or the quotas need.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        args: SedTrainingArguments,
        train_dataset: Mapping[str, datasets.Dataset] | None = None,
        eval_dataset: datasets.Dataset | None = None,
        processing_class: SedFeatureExtractor | None = None,
        compute_metrics=None,
        **kwargs,
    ):
        warn_of_one_process(args.world_size)
        learner = StudentTeacher(model, args)
        config = learner.detector.config
        self.batch_sampler: QuotaBatchSampler | None = None
        self._sources = dict(train_dataset or {})
        clips = eval_clips = None
        if self._sources:
            args.batch_quotas = batch_quotas(self._sources, args)
            args.per_device_train_batch_size = -(-sum(args.batch_quotas.values()) // args.world_size)
            self._sources = {name: self._cached(self._sources[name], args, config) for name in args.batch_quotas}
            clips = SedClips(self._sources, config, config.clip_length, _data_seed(args))
        if eval_dataset is not None:
            if set(eval_dataset["kind"]) != {"strong"}:
                raise ValueError(
                    "eval_dataset: every clip must be of kind 'strong'; PSDS needs events with onset and offset."
                )
            eval_clips = SedClips({"validation": self._cached(eval_dataset, args, config)}, config)
            if compute_metrics is None:
                from ..metrics.detection import DetectionMetrics

                compute_metrics = DetectionMetrics(eval_dataset, config, args.evaluate_with)
                args.batch_eval_metrics = True  # it counts batch by batch; scores need not pile up
        super().__init__(
            model=learner,
            args=args,
            data_collator=collate_clips,
            train_dataset=clips,
            eval_dataset=eval_clips,
            processing_class=processing_class or SedFeatureExtractor(sampling_rate=config.sampling_rate),
            compute_metrics=compute_metrics,
            **kwargs,
        )
        # Else Trainer leaves the loss undivided by the accumulation steps (it looks for **kwargs in forward).
        self.model_accepts_loss_kwargs = False
        if args.float32_matmul_precision is not None:
            torch.set_float32_matmul_precision(args.float32_matmul_precision)
        if args.compile_encoder:
            self.learner.detector.model.backbone.compile()
        self.callback_handler.callbacks.insert(0, _StepCallback(self))
        self._term_sums: dict[str, torch.Tensor] = {}
        self._term_counts: dict[str, int] = {}

    @property
    def learner(self) -> StudentTeacher:
        """The trainable module: student, teacher, projector and predictor."""
        return self.model

    @property
    def clip_counts(self) -> dict[str, int]:
        """Source -> number of its training clips."""
        return {name: len(dataset) for name, dataset in self._sources.items()}

    @staticmethod
    def _cached(dataset: datasets.Dataset, args: SedTrainingArguments, config: SedConfig) -> datasets.Dataset:
        """The data set, or where `audio_cache_dir` is set its resampled copy; the first process of a machine writes it."""
        if args.audio_cache_dir is None:
            return dataset
        with args.main_process_first():
            return resampled(dataset, config.sampling_rate, args.audio_cache_dir, max(args.dataloader_num_workers, 1))

    # --- data ---------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        """This process's share of batches with the quotas of `args.batch_quotas`."""
        if self.train_dataset is None:
            raise ValueError("SedTrainer: training needs train_dataset, a dict of source name -> data set.")
        args = self.args
        place = (args.process_index, args.world_size)
        self.batch_sampler = QuotaBatchSampler(self.clip_counts, args.batch_quotas, _data_seed(args), *place)
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=self.batch_sampler,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            # A generator of its own: workers must not move the global one, on which mixup and dropout depend.
            generator=torch.Generator().manual_seed(args.seed),
        )
        # The sampler has dealt the batches out: to accelerate this is the loader of a single process.
        return prepare_data_loader(
            loader,
            args.device,
            num_processes=1,
            process_index=0,
            put_on_device=True,
            non_blocking=args.dataloader_pin_memory,
        )

    # --- a step -------------------------------------------------------------------------------------------------

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The step's loss; its terms are collected for the log."""
        inputs = {k: v for k, v in inputs.items() if k != "clip_number"}
        output = model(
            **inputs,
            ramp=exponential_ramp(self.state.global_step, self.args.ramp_steps),
            shares=loss_shares(self.accelerator, inputs["strong_mask"], inputs["weak_mask"]),
        )
        for name, value in output.terms.items():
            self._term_sums[name] = self._term_sums.get(name, 0.0) + value
            self._term_counts[name] = self._term_counts.get(name, 0) + 1
        return (output.loss, output) if return_outputs else output.loss

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """transformers' optimiser, with a parameter group for each rate (`hf_sed.training.learning_rates`)."""
        new, args, detector = self.optimizer is None, self.args, self.learner.detector
        optimizer = super().create_optimizer(model)
        if new and (args.learning_rate_mapping or args.layer_decay != 1.0):
            rates = learning_rates(detector, args.learning_rate, args.learning_rate_mapping, args.layer_decay)
            optimizer.param_groups[:] = group_by_rate(optimizer.param_groups, rates, detector.named_parameters())
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """The "ramp" schedule of the method, or transformers'."""
        if self.args.learning_rate_schedule == "transformers":
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            factor = partial(
                ramp_cosine,
                ramp=self.args.ramp_steps,
                total=num_training_steps,
                floor=self.args.final_learning_rate_ratio,
            )
            self.lr_scheduler = LambdaLR(self.optimizer if optimizer is None else optimizer, factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of each loss term and monitor since the last log to a training log."""
        if "loss" in logs and self._term_sums:
            means = torch.stack([total / self._term_counts[name] for name, total in self._term_sums.items()])
            means = self.accelerator.reduce(means, "mean").tolist()
            logs.update(dict(zip(self._term_sums, means, strict=True)))
            self._term_sums, self._term_counts = {}, {}
        super().log(logs, start_time)

    # --- evaluation ---------------------------------------------------------------------------------------------

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Frame probabilities of student and teacher, and the loss of the one that `evaluate_with` names."""
        inputs = self._prepare_inputs(inputs)
        waveforms = {k: inputs[k] for k in ("input_values", "attention_mask") if k in inputs}
        scores, loss = [], None
        with torch.no_grad(), self.compute_loss_context_manager():
            spectrograms = self.learner.detector.model.spectrograms(**waveforms)
            for network in NETWORKS:
                targets = {"labels": inputs["strong_targets"]} if network == self.args.evaluate_with else {}
                output = self.learner.predict(network, spectrograms=spectrograms, **targets)
                probabilities = output.logits.float().sigmoid()
                if output.frame_mask is not None:
                    probabilities = probabilities.masked_fill(~output.frame_mask[..., None], -100.0)
                scores.append(probabilities)
                loss = output.loss if output.loss is not None else loss
        return (
            (loss.detach(), None, None)
            if prediction_loss_only
            else (loss.detach(), tuple(scores), inputs["clip_number"])
        )

    # --- saving and loading -------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """The plain detector and its feature extractor; in a checkpoint also the training state. No pickled arguments:
        they would carry local paths into what is pushed."""
        if not self.args.should_save:
            return
        folder = Path(output_dir if output_dir is not None else self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.learner.save_pretrained(folder)
        self.processing_class.save_pretrained(folder)
        if folder.name.startswith(PREFIX_CHECKPOINT_DIR):
            # Copies: safetensors refuses tensors that share memory, as PEFT's kept originals may.
            save_file(
                {k: v.detach().clone().contiguous() for k, v in self.learner.state_dict().items()},
                folder / TRAINING_STATE,
            )

    def _save_checkpoint(self, model: torch.nn.Module, trial) -> None:
        """As `Trainer`'s, and complete once its manifest is there; older checkpoints go only then."""
        args, run_dir = self.args, self._get_output_dir(trial=trial)
        folder = Path(run_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if args.should_save:
            unseal(folder)
        self.accelerator.wait_for_everyone()
        limit, args.save_total_limit = args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if args.should_save:
            seal(folder, args.world_size)
            rotate_checkpoints(run_dir, limit, self.state.best_model_checkpoint, use_mtime=True)

    def save_network(self, output_dir: str | Path, network: str) -> None:
        """Save the "student" or the "teacher" as a plain detector with its feature extractor."""
        if network not in NETWORKS:
            raise ValueError(f"network {network!r}; expected 'student' or 'teacher'.")
        with self.learner.as_network(network) as detector:
            detector.save_pretrained(output_dir)
        self.processing_class.save_pretrained(output_dir)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        """As `Trainer.train`; ``True`` resumes from the newest *complete* checkpoint of `output_dir`."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise ValueError(f"{self.args.output_dir}: holds no complete checkpoint to resume from.")
        return super().train(resume_from_checkpoint or None, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        if (missing := what_is_missing(folder)) is not None:
            raise ValueError(
                f"{folder}: not a complete checkpoint of SedTrainer ({missing}); resume from another one, or load a saved "
                "detector with from_pretrained to start from it."
            )
        if written_by(folder) != self.args.world_size:
            logger.warning(
                f"{folder}: was written by {written_by(folder)} process(es) and is resumed by {self.args.world_size}: the batches are "
                "the same, but dropout and mixup are drawn differently."
            )
        self.learner.load_state_dict(load_file(folder / TRAINING_STATE))

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    # --- sharing ------------------------------------------------------------------------------------------------

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write README.md from the run's own record (see `hf_sed.sharing.model_card`)."""
        from ..sharing.model_card import card_of_trainer

        if self.is_world_process_zero():
            card_of_trainer(self).save(Path(self.args.output_dir) / "README.md")

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push a checkpoint's detector during training; the training state stays here."""
        if not self.is_world_process_zero() or self.args.hub_strategy == "end":
            return
        for file in Path(checkpoint_folder).iterdir():
            if (
                file.is_file()
                and file.name not in (TRAINING_STATE, TRAINER_STATE_NAME, MANIFEST)
                and file.suffix not in (".pt", ".pth", ".bin")
            ):
                shutil.copy2(file, self.args.output_dir)
        self.create_model_card()
        self._upload(f"Training in progress, step {self.state.global_step}")

    def push_to_hub(self, commit_message: str = "End of training", blocking: bool = True, **kwargs: Any):
        """Push the detector, its feature extractor and its card; nothing else of `output_dir`."""
        if self.hub_model_id is None:
            self.init_hf_repo(token=kwargs.get("token"))
        self.save_model(_internal_call=True)
        self.create_model_card()
        return self._upload(commit_message, **kwargs) if self.is_world_process_zero() else None

    def _upload(self, commit_message: str, **kwargs: Any):
        from ..sharing.hub import upload_model_folder

        return upload_model_folder(
            self.args.output_dir,
            self.hub_model_id,
            commit_message,
            token=kwargs.get("token", self.args.hub_token),
            revision=kwargs.get("revision"),
        )


def _data_seed(args: SedTrainingArguments) -> int:
    return args.seed if args.data_seed is None else args.data_seed


def batch_quotas(sources: Mapping[str, datasets.Dataset], args: SedTrainingArguments) -> dict[str, int]:
    """Clips of each source in a batch: what `args` asks for, less what its preset has no use for.

    Raises ValueError for a semi-supervised preset without unlabelled clips, or for no labelled clip at all.
    """
    for name, dataset in sources.items():
        if len(dataset) == 0:
            raise ValueError(f"source {name!r} has no clips; remove it or fill it.")
    kinds = {name: set(dataset["kind"]) for name, dataset in sources.items()}
    wanted = json.loads(args.batch_quotas) if isinstance(args.batch_quotas, str) else dict(args.batch_quotas or {})
    wanted = {name: quota for name, quota in wanted.items() if quota != 0}
    if wanted:
        check_quotas({name: len(d) for name, d in sources.items()}, wanted)
    names = [n for n in (wanted or sources) if args.uses_teacher or kinds[n] != {"unlabelled"}]
    if not any(kinds[n] & {"strong", "weak"} for n in names):
        raise ValueError("no source with labelled clips (kind 'strong' or 'weak') is in the batch; training needs one.")
    if args.uses_teacher and not any("unlabelled" in kinds[n] for n in names):
        raise ValueError(
            f"preset {args.preset!r} learns from unlabelled clips, and no source in the batch has any; add one (an audio folder "
            "without annotations will do) or choose preset 'supervised'."
        )
    if wanted:
        return {name: wanted[name] for name in names}
    each = args.per_device_train_batch_size * args.world_size // len(names)
    quotas = dict.fromkeys(names, max(each, 1))
    check_quotas({name: len(sources[name]) for name in names}, quotas)
    return quotas
