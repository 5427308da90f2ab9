"""`hf-sed`: compose scenes, convert checkpoints, train and compare, evaluate, tune, detect, write cards, push, demo."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from . import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status. User errors are one line on stderr, not a traceback."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        return options.run(options) or 0
    except KeyboardInterrupt:
        print(f"\nhf-sed {options.command}: interrupted.{_resume_hint(options)}", file=sys.stderr)
        return 130
    except (ValueError, FileNotFoundError, FileExistsError, ImportError) as error:
        print(f"hf-sed {options.command}: {error}", file=sys.stderr)
        return 2


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hf-sed", description=__doc__)
    parser.add_argument("--version", action="version", version=f"hf_sed {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    compose = commands.add_parser("compose", help="compose scenes with exact labels from isolated recordings")
    compose.add_argument(
        "recordings",
        help="folder with recordings.tsv or one folder a class; 'bank' for the embedded synthesised sounds",
    )
    compose.add_argument("output", help="folder for the scenes (datasets.load_from_disk reads it)")
    for split, default in (("strong", 100), ("weak", 200), ("unlabelled", 1000), ("validation", 200)):
        compose.add_argument(
            f"--{split}", type=int, default=default, metavar="N", help=f"number of {split} scenes (default {default})"
        )
    compose.add_argument(
        "--labelled-sources",
        type=int,
        metavar="N",
        help="train sources a class for the labelled scenes (default: half)",
    )
    compose.add_argument("--labels", nargs="+", metavar="CLASS", help="use these classes only")
    compose.add_argument("--seed", type=int, default=0)
    compose.add_argument(
        "--num-proc", type=int, default=None, metavar="N", help="processes; does not change the result"
    )
    compose.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="soundscape settings, e.g. duration=5 events=[1,3]"
    )
    compose.set_defaults(run=_compose)

    for name, run, text in (
        ("train", _train, "train what a recipe says"),
        ("compare", _compare, "train a recipe's last stage once for each preset and seed"),
    ):
        train = commands.add_parser(name, help=text)
        train.add_argument("recipe", help="YAML file, see recipes/")
        train.add_argument("--output-dir", help="folder of the run, instead of the recipe's")
        train.add_argument("--data", metavar="PATH", help="folder or hub id of the clips, instead of the recipe's")
        train.add_argument(
            "--resume", action="store_true", help="go on from the last complete checkpoint of an unfinished run"
        )
        train.add_argument(
            "--set", nargs="+", default=[], metavar="NAME=VALUE", help="replace training arguments in all stages"
        )
        train.add_argument("--num-proc", type=int, default=None, metavar="N", help="processes that compose scenes")
        train.set_defaults(run=run)

    data = argparse.ArgumentParser(add_help=False)
    data.add_argument("model", help="folder or hub id of a detector")
    data.add_argument("data", help="folder of composed scenes, or of audio (then give --annotations)")
    data.add_argument("--annotations", help="strong TSV of the audio folder")
    data.add_argument("--split", default="validation", help="split of the scenes (default validation)")

    evaluate = commands.add_parser("evaluate", parents=[data], help="score a detector on annotated clips")
    evaluate.add_argument("--output", help="also write the scores as JSON")
    evaluate.add_argument("--report", help="also write a page with curves, confusion and the worst clips (HTML)")
    evaluate.add_argument(
        "--resamples", type=int, default=1000, metavar="N", help="draws of clips behind the intervals; 0: no intervals"
    )
    evaluate.add_argument("--seed", type=int, default=0, help="of the draws")
    evaluate.set_defaults(run=_evaluate)

    tune = commands.add_parser(
        "tune", parents=[data], help="choose a saved detector's post-processing on validation clips"
    )
    tune.add_argument("--metric", default="psds1", help="psds1 (default), psds2 or intersection_f1")
    tune.add_argument("--method", default="both", help="median, boxes (cSEBB) or both (default): the better of the two")
    tune.add_argument(
        "--num-proc", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: one a core)"
    )
    tune.set_defaults(run=_tune)

    detect = commands.add_parser("detect", help="print the events of recordings")
    detect.add_argument("files", nargs="+", metavar="FILE", help="audio files or folders of them")
    detect.add_argument("--model", required=True, help="folder or hub id of a detector")
    detect.add_argument("--threshold", type=float, help="replaces the saved thresholds")
    detect.add_argument("--output", help="also write the events as a TSV")
    detect.set_defaults(run=_detect)

    convert = commands.add_parser(
        "convert", help="turn a published checkpoint into a folder that from_pretrained reads"
    )
    convert.add_argument("checkpoint", help="file as its authors published it")
    convert.add_argument("output", help="folder to write")
    convert.add_argument("--encoder-only", action="store_true", help="leave the heads out")
    convert.add_argument("--network", choices=("student", "teacher"), help="of checkpoints that hold both")
    convert.set_defaults(run=_convert)

    card = commands.add_parser("card", help="write the model card of a finished run from its record")
    card.add_argument("folder", help="folder of the run, with results.json")
    card.add_argument("output", help="Markdown file; its name is the card's title")
    card.set_defaults(run=_card)

    push = commands.add_parser("push", help="push a saved detector to the Hub")
    push.add_argument("folder")
    push.add_argument("repo_id", help="user/name")
    push.add_argument("--private", action="store_true")
    push.set_defaults(run=_push)

    demo = commands.add_parser("demo", help="open the web demo on a detector")
    demo.add_argument("model", help="folder or hub id of a detector")
    demo.add_argument("--port", type=int, default=None)
    demo.set_defaults(run=_demo)
    return parser


def _settings(pairs: Sequence[str]) -> dict:
    """NAME=VALUE pairs; values are read as YAML."""
    import yaml

    out = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise ValueError(f"--set {pair}: expected NAME=VALUE.")
        out[name] = yaml.safe_load(value)
    return out


def _compose(options) -> None:
    from dataclasses import fields

    from .data.soundscapes import SoundscapeSettings, compose_to_disk, settings_from
    from .training.recipe import check_keys

    values = _settings(options.set)
    check_keys(values, [f.name for f in fields(SoundscapeSettings)], "--set")
    scenes = compose_to_disk(
        options.output,
        None if options.recordings == "bank" else options.recordings,
        {name: getattr(options, name) for name in ("strong", "weak", "unlabelled", "validation")},
        settings_from(values),
        options.seed,
        options.labelled_sources,
        options.labels,
        options.num_proc,
    )
    print(f"{options.output}: " + ", ".join(f"{len(d)} {name}" for name, d in scenes.items()))


def _recipe(options):
    from dataclasses import fields

    from .training.arguments import SedTrainingArguments
    from .training.recipe import check_keys, load_recipe

    overrides = _settings(options.set)
    check_keys(overrides, [f.name for f in fields(SedTrainingArguments) if f.init], "--set")
    recipe = load_recipe(options.recipe)
    if options.output_dir:
        recipe.output_dir = options.output_dir
    if options.data:
        recipe.data.path = options.data
    return recipe, overrides


def _train(options) -> None:
    from .training.recipe import run_recipe

    recipe, overrides = _recipe(options)
    records = run_recipe(recipe, options.resume, options.num_proc, **overrides)
    for record in records if _speaks() else []:
        scores = ", ".join(
            f"{k} {record['metrics'][k]:.3f}" for k in ("psds1", "psds2", "intersection_f1") if k in record["metrics"]
        )
        print(f"{record['stage']}: {record['model']}: {scores or 'not evaluated'}")


def _compare(options) -> None:
    from .training.compare import format_table, run_comparison

    recipe, overrides = _recipe(options)
    result = run_comparison(recipe, options.resume, options.num_proc, **overrides)
    if _speaks():
        print(format_table(result["rows"]))
        print(f"written to {recipe.run_dir / 'results.json'}")


def _speaks() -> bool:
    """Whether this is the process that prints."""
    from accelerate import PartialState

    return PartialState().is_main_process


def _annotated_clips(options):
    """The data set that `data`, `--annotations` and `--split` name."""
    if options.annotations:
        from .data.folder import load_annotated_folder

        return load_annotated_folder(options.data, options.annotations)
    from datasets import load_from_disk

    if not Path(options.data).is_dir():
        raise FileNotFoundError(f"{options.data}: no such folder of scenes.")
    if not (Path(options.data) / "dataset_dict.json").is_file():
        raise ValueError(f"{options.data}: holds no composed scenes; for a folder of audio give --annotations.")
    splits = load_from_disk(options.data)
    if options.split not in splits:
        raise ValueError(f"{options.data}: no split {options.split!r}; it has {', '.join(splits)}.")
    return splits[options.split]


def _tune(options) -> None:
    from .inference.evaluation import detector_scores
    from .inference.pipeline import pipeline
    from .inference.post_processing import PostProcessing
    from .inference.tuning import tune, write_to_config

    dataset = _annotated_clips(options)
    if not (Path(options.model) / "config.json").is_file():
        raise FileNotFoundError(
            f"{options.model}: holds no config.json to write the choice to; tune a detector saved here."
        )
    detector = pipeline("sound-event-detection", model=options.model)
    config = detector.model.config
    tuned, report = tune(
        *detector_scores(detector, dataset), PostProcessing.of(config), options.metric, options.method, options.num_proc
    )
    for method, row in report.items():
        print(f"{method:<8} mean {options.metric} of the classes {row['mean']:.3f}")
    write_to_config(tuned, config)
    config.save_pretrained(options.model)
    print(f"{'class':<28}{'threshold':>10}  " + ("median (s)" if tuned.boxes is None else "step filter (s)"))
    lengths = config.median_filter if tuned.boxes is None else config.boxes["length"]
    for label, threshold, length in zip(config.labels, config.thresholds, lengths, strict=True):
        print(f"{label:<28}{threshold:>10.3f}  {length:.2f}")
    print(f"written to {Path(options.model) / 'config.json'}")


def _evaluate(options) -> None:
    from .inference.evaluation import evaluate_detector
    from .inference.pipeline import pipeline
    from .inference.post_processing import PostProcessing
    from .inference.report import format_table, write_report

    dataset = _annotated_clips(options)
    detector = pipeline("sound-event-detection", model=options.model)
    evaluation = evaluate_detector(detector, dataset, resamples=options.resamples, seed=options.seed)
    print(format_table(evaluation.scores))
    for path in filter(None, (options.output, options.report)):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    if options.output:
        Path(options.output).write_text(json.dumps(evaluation.as_dict(), indent=1) + "\n")
    if options.report:
        title = f"{Path(options.model).name} on {Path(options.data).name}"
        write_report(evaluation, options.report, title, dataset, PostProcessing.of(detector.model.config))
        print(f"written to {options.report}")


def _detect(options) -> int:
    from .audio import AudioError
    from .data.soundscapes import AUDIO_SUFFIXES
    from .events import write_annotations
    from .inference.pipeline import pipeline

    files = []
    for name in map(Path, options.files):
        found = sorted(p for p in name.iterdir() if p.suffix.lower() in AUDIO_SUFFIXES) if name.is_dir() else [name]
        if not found:
            raise FileNotFoundError(f"{name}: holds no audio file.")
        files += found
    detector = pipeline("sound-event-detection", model=options.model)
    width = max(len(str(f)) for f in files)
    print(f"{'file':<{width}}  {'event':<28}{'onset':>9}{'offset':>9}{'score':>7}")
    events, failed = {}, 0
    for file in files:
        try:
            events[str(file)] = detector(str(file), thresholds=options.threshold)
        except (AudioError, FileNotFoundError) as error:  # the other files are still worth having
            print(f"hf-sed detect: {error}", file=sys.stderr)
            failed += 1
            continue
        for e in events[str(file)]:
            print(f"{file!s:<{width}}  {e['label']:<28}{e['onset']:>9.2f}{e['offset']:>9.2f}{e['score']:>7.2f}")
        if not events[str(file)]:
            print(f"{file!s:<{width}}  (no event)")
    if options.output:
        write_annotations(options.output, events)
    return 1 if failed else 0


def _convert(options) -> None:
    from .models.conversion import convert_checkpoint

    model = convert_checkpoint(options.checkpoint, options.output, options.network, options.encoder_only)
    count = sum(p.numel() for p in model.parameters())
    print(
        f"{options.output}: {type(model).__name__} on {getattr(model.config, 'backbone_config', model.config).model_type}, "
        f"{count:,} parameters"
    )


def _card(options) -> None:
    from .sharing.model_card import write_card

    write_card(options.folder, options.output)
    print(f"written to {options.output}")


def _push(options) -> None:
    from .sharing.hub import upload_model_folder

    print(upload_model_folder(options.folder, options.repo_id, private=options.private))


def _demo(options) -> None:
    from .sharing.space import build_demo

    build_demo(options.model).launch(ssr_mode=False, server_port=options.port)


def _resume_hint(options) -> str:
    if options.command not in ("train", "compare"):
        return ""
    return f" What the last checkpoint holds is safe; go on with: hf-sed {options.command} {options.recipe} --resume"


if __name__ == "__main__":
    sys.exit(main())
