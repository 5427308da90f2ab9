"""Recipes: one YAML file says what a run is. `hf-sed train`, `hf-sed compare` and `accelerate launch recipes/train.py`
read the same one.

    name: few_labels                  # run folder: runs/few_labels
    data:                             # see [`DataRecipe`]
      path: runs/few_labels/scenes
      validation: validation
    model:                            # see [`ModelRecipe`]
      config: {sequence_hidden_size: 64}
    training: {learning_rate: 1.0e-3} # any field of SedTrainingArguments, for all stages
    stages:                           # each starts from the model that the one before saved
      - {name: stage1, training: {preset: supervised, max_steps: 1000}}
      - {name: stage2, training: {preset: conditional-mixup, max_steps: 500}, lora: {r: 8}}
    compare: {presets: [supervised, ict], seeds: [0, 1]}   # for `hf-sed compare`

An unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from accelerate import PartialState

from ..checks import did_you_mean
from .adapters import add_lora, check_lora, load_merged
from .arguments import SedTrainingArguments
from .method import PRESETS
from .record import training_record

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

RESULTS = "results.json"


class RecipeError(ValueError):
    """A recipe that cannot be run; the message names file, key and remedy."""


def check_keys(values: Any, known: Sequence[str], where: str) -> None:
    """Raise [`RecipeError`] for a key that is not known, with the nearest that is."""
    if not isinstance(values, Mapping):
        raise RecipeError(f"{where}: expected keys and values, found {type(values).__name__}.")
    for key in values:
        if key not in known:
            raise RecipeError(f"{where}: unknown key {key!r}; {did_you_mean(key, known)}")


def _names(cls) -> list[str]:
    return [f.name for f in fields(cls) if f.init]


@dataclass
class DataRecipe:
    """Where clips come from.

    Args:
        path: a folder that `hf-sed compose` or `save_to_disk` wrote, or a hub id; with ``layout: desed`` the root of DESED.
        layout: "scenes" or "desed".
        missing_files: "error", or "skip" annotated files of DESED whose audio can no longer be had, with a warning.
        compose: compose ``path`` first where it is not there yet: ``recordings`` (folder; absent: the embedded bank),
            ``sizes``, ``seed``, ``labelled_sources``, ``labels``, ``settings`` (`SoundscapeSettings`), ``num_proc``.
        sources: source name -> split of ``path``, or ``{audio: folder, annotations: TSV}``; default: the splits "strong",
            "synthetic", "weak", "unlabelled" that are there.
        validation: split of ``path``, or ``{audio, annotations}``.
    """

    path: str | None = None
    layout: str = "scenes"
    missing_files: str = "error"
    compose: dict | None = None
    sources: dict | None = None
    validation: str | dict | None = "validation"

    def load(self, num_proc: int | None = None) -> tuple[dict[str, datasets.Dataset], datasets.Dataset | None]:
        """Training data sets by source, and the validation data set."""
        splits = self._splits(num_proc)
        names = self.sources or {n: n for n in ("strong", "synthetic", "weak", "unlabelled") if n in splits}
        if not names:
            raise RecipeError("data: no source; give `path` or `sources`.")
        sources = {name: self._part(what, splits, f"data.sources.{name}") for name, what in names.items()}
        validation = None if self.validation is None else self._part(self.validation, splits, "data.validation")
        return sources, validation

    def _splits(self, num_proc: int | None) -> Mapping[str, datasets.Dataset]:
        from datasets import load_dataset, load_from_disk

        if self.compose is not None:
            from ..data.soundscapes import compose_to_disk, settings_from

            check_keys(
                self.compose,
                ["recordings", "sizes", "seed", "labelled_sources", "labels", "settings", "num_proc"],
                "data.compose",
            )
            if self.path is None:
                raise RecipeError("data: compose needs `path`, the folder to write scenes to.")
            values = {"recordings": None, **self.compose}
            values["settings"] = settings_from(values.get("settings") or {})
            values.setdefault("num_proc", num_proc)
            return compose_to_disk(self.path, **values)
        if self.path is None:
            return {}
        if self.layout == "desed":
            from ..data.desed import load_desed

            return load_desed(self.path, self.missing_files)
        if self.layout != "scenes":
            raise RecipeError(f"data: layout {self.layout!r}; expected 'scenes' or 'desed'.")
        if Path(self.path).is_dir():
            return load_from_disk(self.path)
        if Path(self.path).is_absolute() or self.path.startswith(".") or self.path.count("/") != 1:
            raise RecipeError(f"data: {self.path} does not exist; compose it with hf-sed compose, or correct `path`.")
        return load_dataset(self.path)

    @staticmethod
    def _part(what: str | dict, splits: Mapping[str, datasets.Dataset], where: str) -> datasets.Dataset:
        if isinstance(what, str):
            if what not in splits:
                raise RecipeError(f"{where}: no split {what!r}; the data has {', '.join(splits) or 'none'}.")
            return splits[what]
        from ..data.folder import load_annotated_folder

        check_keys(what, ["audio", "annotations", "labels", "missing_files"], where)
        return load_annotated_folder(**what)


@dataclass
class ModelRecipe:
    """What is trained: a new detector of ``config`` (fields of `SedConfig`); or with ``init_from`` (folder or hub id) a trained
    detector (an adapter is merged into its base), or a new one on that encoder, whose own config ``backbone`` changes.
    ``labels``: class names; default: those of the labelled clips, sorted."""

    init_from: str | None = None
    config: dict = field(default_factory=dict)
    backbone: dict = field(default_factory=dict)
    labels: list[str] | None = None

    def build(self, found_labels: Sequence[str]):
        """The detector."""
        from transformers import AutoConfig

        from ..models.sed.configuration_sed import SedConfig
        from ..models.sed.modeling_sed import SedForAudioFrameClassification

        check_keys(self.config, _names(SedConfig), "model.config")
        labels = list(self.labels or found_labels)
        if self.init_from is None:
            return SedForAudioFrameClassification(SedConfig(labels=labels, **self.config))
        if (Path(self.init_from) / "adapter_config.json").is_file():
            return load_merged(self.init_from)
        is_detector = isinstance(AutoConfig.from_pretrained(self.init_from), SedConfig)
        return SedForAudioFrameClassification.from_pretrained(
            self.init_from,
            labels=self.labels if is_detector else labels,
            backbone_settings=self.backbone,
            **self.config,
        )


@dataclass
class StageRecipe:
    """One training run: ``training`` overrides the recipe's, ``lora`` (arguments of `hf_sed.add_lora`) trains an adapter."""

    name: str = "train"
    training: dict = field(default_factory=dict)
    lora: dict | None = None


@dataclass
class CompareRecipe:
    """What `hf-sed compare` runs: the last stage once for each preset, variant and seed, all from the same earlier stages.

    Args:
        presets, seeds: what is compared, and how often.
        overrides: preset -> training settings that only it gets.
        variants: name -> ``training`` and ``lora`` that replace the last stage's; default: the stage as it is, "".
    """

    presets: list[str] = field(default_factory=lambda: list(PRESETS))
    seeds: list[int] = field(default_factory=lambda: [0])
    overrides: dict = field(default_factory=dict)
    variants: dict = field(default_factory=lambda: {"": {}})


@dataclass
class Recipe:
    """A whole recipe, checked. See the module's description."""

    name: str
    data: DataRecipe
    model: ModelRecipe = field(default_factory=ModelRecipe)
    training: dict = field(default_factory=dict)
    lora: dict | None = None
    stages: list[StageRecipe] = field(default_factory=lambda: [StageRecipe()])
    compare: CompareRecipe | None = None
    output_dir: str | None = None

    @property
    def run_dir(self) -> Path:
        return Path(self.output_dir or f"runs/{self.name}")

    def arguments(self, stage: StageRecipe, output_dir: Path, **overrides: Any) -> SedTrainingArguments:
        """Training arguments of a stage."""
        values = {**self.training, **stage.training, **overrides, "output_dir": str(output_dir)}
        try:
            return SedTrainingArguments(**values)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"recipe {self.name!r}, stage {stage.name!r}: {error}") from error


def load_recipe(path: str | Path) -> Recipe:
    """Read and check a recipe file. Raises [`RecipeError`] or `FileNotFoundError`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such recipe.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from error
    return recipe_from(values, str(path), default_name=path.stem)


def recipe_from(values: Any, where: str = "recipe", default_name: str = "run") -> Recipe:
    """A checked recipe from nested dicts."""
    check_keys(values, _names(Recipe), where)
    values = dict(values)
    training_keys = _names(SedTrainingArguments)
    for key in ("data",):
        if key not in values:
            raise RecipeError(f"{where}: no `{key}` block.")
    for key, cls in (("data", DataRecipe), ("model", ModelRecipe), ("compare", CompareRecipe)):
        if values.get(key) is not None:
            check_keys(values[key], _names(cls), f"{where}, {key}")
            values[key] = cls(**values[key])
    check_keys(values.get("training") or {}, training_keys, f"{where}, training")
    stages = []
    for number, stage in enumerate(values.pop("stages", None) or [{}]):
        check_keys(stage, _names(StageRecipe), f"{where}, stage {number}")
        stage = StageRecipe(**{"name": f"stage{number + 1}" if number else "train", **stage})
        check_keys(stage.training, training_keys, f"{where}, stage {stage.name!r}, training")
        stages.append(stage)
    if len({s.name for s in stages}) != len(stages):
        raise RecipeError(f"{where}: stages need different names.")
    if values.get("lora") and stages[-1].lora is None:
        stages[-1].lora = values["lora"]
    recipe = Recipe(**{"name": default_name, **values, "stages": stages})
    if recipe.compare is not None:
        for preset in [*recipe.compare.presets, *recipe.compare.overrides]:
            if preset not in PRESETS:
                raise RecipeError(f"{where}, compare: preset {preset!r}; expected one of {', '.join(PRESETS)}.")
        for preset, overrides in recipe.compare.overrides.items():
            check_keys(overrides, training_keys, f"{where}, compare.overrides.{preset}")
        for name, variant in recipe.compare.variants.items():
            check_keys(variant, ["training", "lora"], f"{where}, compare.variants.{name}")
            check_keys(variant.get("training", {}), training_keys, f"{where}, compare.variants.{name}, training")
    # Every value is checked before anything runs.
    adapters = [s.lora for s in stages] + [
        v.get("lora") for v in (recipe.compare.variants if recipe.compare else {}).values()
    ]
    for lora in filter(None, adapters):
        try:
            check_lora(lora)
        except ValueError as error:
            raise RecipeError(f"{where}: {error}") from error
    for stage in stages:
        recipe.arguments(stage, recipe.run_dir / stage.name)
    return recipe


def run_recipe(recipe: Recipe, resume: bool = False, num_proc: int | None = None, **overrides: Any) -> list[dict]:
    """Run all stages; returns their records. ``overrides`` replace training arguments in all of them."""
    sources, validation = load_data(recipe, num_proc)
    records, start = [], None
    for stage in recipe.stages:
        record = run_stage(recipe, stage, sources, validation, recipe.run_dir / stage.name, start, resume, **overrides)
        records.append(record)
        start = record["model"]
    return records


def load_data(
    recipe: Recipe, num_proc: int | None = None
) -> tuple[dict[str, datasets.Dataset], datasets.Dataset | None]:
    """The recipe's training data sets by source and its validation data set; where there are several processes, the first one
    composes and caches what has to be, and the others read it."""
    with PartialState().main_process_first():
        return recipe.data.load(num_proc)


def run_stage(
    recipe: Recipe,
    stage: StageRecipe,
    sources: Mapping[str, datasets.Dataset],
    validation: datasets.Dataset | None,
    folder: Path,
    start: str | None,
    resume: bool = False,
    **overrides: Any,
) -> dict:
    """Train one stage in ``folder`` from the detector ``start`` (None: the recipe's model) and return its record.

    A finished stage is not run again. Raises [`RecipeError`] where ``folder`` holds an unfinished run and ``resume`` is
    not set.
    """
    from transformers import set_seed

    from ..data.schema import class_names
    from .checkpoints import last_complete_checkpoint, write_json
    from .trainer import SedTrainer

    if (folder / RESULTS).is_file():
        logger.info("%s: finished before.", folder)
        return json.loads((folder / RESULTS).read_text())
    checkpoint = last_complete_checkpoint(folder)
    if checkpoint is not None and not resume:
        raise RecipeError(
            f"{folder}: holds an unfinished run ({checkpoint.name}); go on with --resume, or remove the folder."
        )
    args = recipe.arguments(stage, folder, **overrides)
    set_seed(args.seed)
    labels = sorted({t for d in sources.values() for t in class_names(d)})
    model = (ModelRecipe(init_from=start) if start else recipe.model).build(labels)
    if stage.lora is not None:
        if not model.config._name_or_path:
            with PartialState().main_process_first():
                if args.should_save:
                    model.save_pretrained(folder / "base")
            model = ModelRecipe(init_from=str(folder / "base")).build(labels)
        model = add_lora(model, **stage.lora)
    trainer = SedTrainer(model, args, dict(sources), validation)
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.perf_counter() - started
    metrics = trainer.evaluate() if validation is not None else {}
    trainer.save_model()
    record = {
        "recipe": recipe.name,
        "stage": stage.name,
        "model": str(folder),
        "started_from": start or recipe.model.init_from,
        "data": {k: v for k, v in asdict(recipe.data).items() if v is not None},
        "train_seconds": round(seconds, 1),
        **training_record(trainer, metrics),
    }
    if trainer.is_world_process_zero():
        write_json(folder / RESULTS, record)
        trainer.create_model_card()
    trainer.accelerator.wait_for_everyone()  # the next stage reads what the first process has written
    return record
