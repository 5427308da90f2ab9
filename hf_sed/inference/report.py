"""The report of an evaluation: what `hf-sed evaluate` prints and writes as JSON, and a page that shows it."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..events import Event
from ..metrics import (
    PSDS1,
    PSDS2,
    Confusion,
    DetectionAccumulator,
    PsdsResult,
    bootstrap,
    confusion,
    intersection_f1,
    psds,
)
from ..metrics.events import intersection_changes
from .post_processing import PostProcessing

if TYPE_CHECKING:
    import datasets
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).with_name("report_template.html")
_NAMES = {"psds1": "PSDS1", "psds2": "PSDS2", "intersection_f1": "intersection F1"}
_MOST_CURVES = 20
"""Classes that are drawn one by one; of more the first in the order of their PSDS1 gap are shown."""


@dataclass(frozen=True)
class Evaluation:
    """A detector's scores on an evaluation set, with what a page needs to show them.

    ``scores``: [`hf_sed.metrics.detection_scores`], and under ``intervals`` metric -> (low, high), for all and for each
    class. ``errors``: clip -> false positives and events that were not found.
    """

    scores: dict
    psds: tuple[PsdsResult, PsdsResult]
    sweeps: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]
    confusion: Confusion
    errors: dict[str, int]
    detections: dict[str, list[Event]]
    events: dict[str, Sequence[Event]]

    def as_dict(self) -> dict:
        """What is written as JSON."""
        table = {"classes": list(self.confusion.classes)}
        table |= {name: getattr(self.confusion, name).tolist() for name in ("matrix", "nothing", "missed")}
        return {**self.scores, "confusion": table}

    def worst(self, count: int) -> list[str]:
        """The clips with most errors."""
        clips = sorted((c for c, n in self.errors.items() if n), key=lambda c: (-self.errors[c], c))
        return clips[:count]


def evaluate_scores(
    scores: Mapping[str, np.ndarray],
    events: Mapping[str, Sequence[Event]],
    durations: Mapping[str, float],
    decoder: PostProcessing,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Evaluation:
    """Evaluate frame probabilities, clip -> (frames, classes), as ``decoder`` turns them into events.

    ``resamples``: draws of clips behind the intervals (see [`hf_sed.metrics.bootstrap`]); 0: no intervals.
    """
    labels, frames = decoder.labels, decoder.frames
    accumulator = DetectionAccumulator(events, durations, decoder)  # warns of classes without events, once
    accumulator.add(scores)
    result, both = accumulator.scores(), accumulator.psds.results()
    candidates = {clip: decoder.candidates(array, durations[clip]) for clip, array in scores.items()}
    detections = {clip: decoder.select(found, durations[clip]) for clip, found in candidates.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if resamples:
            draws = {"resamples": resamples, "level": level, "seed": seed}
            ranked, found = (candidates, events, durations, labels, frames), (detections, events, durations, labels)
            intervals = {
                "psds1": bootstrap(psds, *ranked, **draws, settings=PSDS1),
                "psds2": bootstrap(psds, *ranked, **draws, settings=PSDS2),
                "intersection_f1": bootstrap(intersection_f1, *found, **draws),
            }
            result["bootstrap"] = draws
            result["intervals"] = {name: [i.low, i.high] for name, i in intervals.items()}
            for label, row in result["per_class"].items():
                each = {name: i.per_class[label] for name, i in intervals.items()}
                row["intervals"] = {name: [e.low, e.high] for name, e in each.items()}
        counts = intersection_changes(candidates, events, durations, labels, frames, "best")
        sweeps = {
            label: (changes.scores, *changes.counts())
            for label, changes in zip(counts.classes, counts.changes, strict=True)
        }
        table = confusion(detections, events, durations, labels)
        errors = {}
        for clip, duration in durations.items():
            own = events.get(clip, ())
            known = [e for e in detections[clip] if e.label in counts.classes]
            f = intersection_f1({clip: known}, {clip: own}, {clip: duration}, labels) if own else None
            if f is None:
                errors[clip] = len(known)
                continue
            wrong = sum(row["fp"] + row["n_ref"] - row["tp"] for row in f.per_class.values())
            errors[clip] = wrong + sum(e.label not in f.per_class for e in known)
    return Evaluation(result, (both[0], both[1]), sweeps, table, errors, detections, dict(events))


def format_table(scores: Mapping) -> str:
    """Overall and per class: events, PSDS1, PSDS2 and intersection F1, with their intervals where there are any."""
    rows = {"all": {**scores, "events": sum(row["events"] for row in scores["per_class"].values())}}
    rows |= scores["per_class"]
    width = max(len(label) for label in rows) + 2
    cell = 22 if "intervals" in scores else 9
    lines = [
        f"{'class':<{width}}{'events':>7}" + "".join(f"{name:>{max(cell, len(name) + 2)}}" for name in _NAMES.values())
    ]
    for label, row in rows.items():
        cells = []
        for key, name in _NAMES.items():
            text = f"{row[key]:.3f}"
            if "intervals" in row:
                text += " [{:.3f}, {:.3f}]".format(*row["intervals"][key])
            cells.append(f"{text:>{max(cell, len(name) + 2)}}")
        lines.append(f"{label:<{width}}{row['events']:>7}" + "".join(cells))
    return "\n".join(lines)


def write_report(
    evaluation: Evaluation,
    path: str | Path,
    title: str,
    dataset: datasets.Dataset | None = None,
    decoder: PostProcessing | None = None,
    worst: int = 6,
) -> None:
    """Write a page (HTML, one file, pictures included) of PSD-ROC curves, classes, threshold sweeps, confusion, and the
    ``worst`` clips with their spectrogram, true and detected events.

    Args:
        dataset: the evaluated clips; without it the page has no gallery.
        decoder: its settings are listed.

    Needs matplotlib (extra `plots`).
    """
    from jinja2 import Environment, FileSystemLoader, select_autoescape

    figures = [
        ("PSD-ROC", "Effective true positive rate over effective false positives an hour; the thick line is the mean over "
         "classes less its standard deviation, and the score the area under it.", _roc_figure(evaluation)),
        ("Classes", "Each class alone, with its interval.", _class_figure(evaluation)),
        ("Thresholds", "Intersection precision, recall and F1 of each class as its threshold moves.", _sweep_figure(evaluation)),
        ("Confusion", "Detections (rows) by what was there (columns): the class itself, events of other classes, nothing. "
         "The last row counts the events that were missed.", _confusion_figure(evaluation.confusion)),
    ]  # fmt: skip
    gallery = [] if dataset is None else _gallery(evaluation, dataset, worst)
    environment = Environment(loader=FileSystemLoader(TEMPLATE.parent), autoescape=select_autoescape())
    page = environment.get_template(TEMPLATE.name).render(
        title=title,
        names=_NAMES,
        scores=evaluation.scores,
        hours=evaluation.psds[0].hours,
        clips=len(evaluation.errors),
        figures=[(name, text, _png(figure)) for name, text, figure in figures],
        gallery=gallery,
        settings={} if decoder is None else {k: v for k, v in asdict(decoder).items() if k != "labels"},
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(page, encoding="utf-8")


# --- Pictures -------------------------------------------------------------------------------------------------------


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return base64.b64encode(buffer.getvalue()).decode()


def _shown(evaluation: Evaluation) -> list[str]:
    """Classes drawn one by one: all, or those that PSDS1 loses most on."""
    per_class = evaluation.psds[0].per_class
    return list(per_class) if len(per_class) <= _MOST_CURVES else sorted(per_class, key=per_class.get)[:_MOST_CURVES]


def _roc_figure(evaluation: Evaluation) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, result, name in zip(figure.subplots(1, 2, sharey=True), evaluation.psds, ("PSDS1", "PSDS2"), strict=True):
        end = result.settings.e_max
        for label in _shown(evaluation):
            x, y = result.per_class_roc[label]
            axes.step(np.append(x, end), np.append(y, y[-1]), where="post", linewidth=1, label=label)
        x, y = result.roc
        axes.step(np.append(x, end), np.append(y, y[-1]), where="post", color="black", linewidth=2.5)
        axes.set(
            title=f"{name} {result.value:.3f}", xlim=(0, end), ylim=(0, 1.02), xlabel="effective false positives / hour"
        )
    axes.legend(fontsize="x-small", ncols=2)
    return figure


def _class_figure(evaluation: Evaluation) -> Figure:
    from matplotlib.figure import Figure

    rows, labels = evaluation.scores["per_class"], _shown(evaluation)
    figure = Figure(figsize=(10, 1.2 + 0.42 * len(labels)), layout="constrained")
    axes, at = figure.subplots(), np.arange(len(labels))
    for i, (key, name) in enumerate(_NAMES.items()):
        values = np.array([rows[label][key] for label in labels])
        error = None
        if "intervals" in evaluation.scores:
            bounds = np.array([rows[label]["intervals"][key] for label in labels]).T
            error = np.maximum([values - bounds[0], bounds[1] - values], 0)
        axes.barh(at + 0.27 * (i - 1), values, 0.25, xerr=error, label=name, error_kw={"linewidth": 0.8})
    axes.set_yticks(at, labels)
    axes.set(xlim=(0, 1), ylim=(len(labels) - 0.4, -0.6))
    axes.legend(fontsize="small")
    return figure


def _sweep_figure(evaluation: Evaluation) -> Figure:
    from matplotlib.figure import Figure

    labels = _shown(evaluation)
    columns = min(4, len(labels))
    lines = -(-len(labels) // columns)
    figure = Figure(figsize=(10, 2.2 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for axes, label in zip(grid.flat, labels, strict=False):
        scores, tp, fp = evaluation.sweeps[label]
        events = evaluation.scores["per_class"][label]["events"]
        axes.plot(scores, tp / np.maximum(tp + fp, 1), linewidth=1, label="precision")
        axes.plot(scores, tp / events, linewidth=1, label="recall")
        axes.plot(scores, 2 * tp / (tp + fp + events), linewidth=1.8, color="black", label="F1")
        axes.set_title(label, fontsize="small")
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
    grid.flat[0].legend(fontsize="x-small")
    for axes in grid.flat[len(labels) :]:
        axes.set_axis_off()
    return figure


def _confusion_figure(table: Confusion) -> Figure:
    from matplotlib.figure import Figure

    counts = np.column_stack([table.matrix, table.nothing])
    counts = np.vstack([counts, np.append(table.missed, 0)])
    side = 2.5 + 0.42 * len(table.classes)
    figure = Figure(figsize=(max(side, 5), max(side, 4)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts / np.maximum(counts.sum(1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(counts.shape[1]), [*table.classes, "(nothing)"], rotation=60, ha="right")
    axes.set_yticks(range(counts.shape[0]), [*table.classes, "(missed)"])
    axes.set(xlabel="what was there", ylabel="detected as")
    if len(table.classes) <= _MOST_CURVES:
        for i, row in enumerate(counts):
            for j, n in enumerate(row):
                if n:
                    axes.text(j, i, int(n), ha="center", va="center", fontsize="x-small")
    return figure


def _gallery(evaluation: Evaluation, dataset: datasets.Dataset, worst: int) -> list[tuple[str, str]]:
    from ..audio import load_audio
    from ..data.schema import undecoded
    from .plots import plot_events

    rate, numbers, pictures = 16_000, {clip: i for i, clip in enumerate(evaluation.errors)}, []
    clips = undecoded(dataset)
    for clip in evaluation.worst(worst):
        row = clips[numbers[clip]]
        waveform = load_audio(row["audio"], rate)
        figure = plot_events(waveform, rate, evaluation.detections[clip], evaluation.events[clip])
        name = Path(row["audio"].get("path") or clip).name
        pictures.append((f"{name}: {evaluation.errors[clip]} errors", _png(figure)))
    return pictures
