"""Where seconds meet frames: events to frame targets, frame scores to events, annotation files in and out.

An event is a sound of one class with an onset and an offset in seconds. Frame ``i`` covers the half-open interval
``[i * frame_hop, (i + 1) * frame_hop)`` seconds. The rounding rules are those of the DESED systems (DCASE Task 4
``ManyHotEncoder``): the onset is rounded down and the offset up to a frame border when events become targets, and a
decoded event reaches from the start of its first to the end of its last active frame.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

# Frame borders are products of decimal seconds; without this slack 0.64 s could land in frame 9 or 11 of 64 ms frames.
_FRAME_TOLERANCE = 1e-6


class AnnotationError(ValueError):
    """An event or an annotation file that cannot be used; the message names the file, row or clip and the remedy."""


@dataclass(frozen=True)
class Event:
    """One sound event: class ``label``, ``onset`` and ``offset`` in seconds, ``score`` in [0, 1] for a detection."""

    label: str
    onset: float
    offset: float
    score: float | None = None

    def as_dict(self) -> dict:
        """The event as a JSON-ready dict; without ``score`` where it has none."""
        return {k: v for k, v in asdict(self).items() if v is not None}


def as_event(event: Event | Mapping, where: str = "event") -> Event:
    """Turn a mapping with ``label`` (or ``event_label``), ``onset``, ``offset`` into a checked [`Event`].

    Raises [`AnnotationError`], which starts with ``where``, for a missing field, a negative or non-finite time, or an
    offset that does not come after the onset.
    """
    if not isinstance(event, Event):
        label = event.get("label", event.get("event_label"))
        missing = [
            k
            for k, v in (("label", label), ("onset", event.get("onset")), ("offset", event.get("offset")))
            if v is None
        ]
        if missing:
            raise AnnotationError(
                f"{where}: no {', '.join(missing)}; an event needs label, onset and offset (seconds)."
            )
        score = event.get("score")
        event = Event(
            str(label), float(event["onset"]), float(event["offset"]), None if score is None else float(score)
        )
    if not (math.isfinite(event.onset) and math.isfinite(event.offset)):
        raise AnnotationError(
            f"{where}: onset {event.onset} or offset {event.offset} is not a finite number of seconds."
        )
    if event.onset < 0:
        raise AnnotationError(
            f"{where}: onset {event.onset} is negative; times are seconds from the start of the clip."
        )
    if event.offset <= event.onset:
        raise AnnotationError(f"{where}: offset {event.offset} does not come after onset {event.onset}.")
    return event


def class_index(labels: Sequence[str], label: str, where: str = "event") -> int:
    """Index of ``label`` in the class list; raises [`AnnotationError`] with the list where it is not one of them."""
    try:
        return labels.index(label)
    except ValueError:
        raise AnnotationError(f"{where}: label {label!r} is not one of the classes {list(labels)}.") from None


def events_to_targets(
    events: Iterable[Event | Mapping], labels: Sequence[str], num_frames: int, frame_hop: float, where: str = "event"
) -> np.ndarray:
    """Strong targets of a clip: float32 array (``num_frames``, classes) of 0 and 1.

    ``frame_hop`` is in seconds. Onsets are rounded down, offsets up; what lies beyond the clip's last frame is cut;
    overlapping events of one class are one stretch of activity; a clip without events gives zeros.
    """
    targets = np.zeros((num_frames, len(labels)), dtype=np.float32)
    for raw in events:
        event = as_event(raw, where)
        first = math.floor(event.onset / frame_hop + _FRAME_TOLERANCE)
        last = math.ceil(event.offset / frame_hop - _FRAME_TOLERANCE)
        targets[first:last, class_index(labels, event.label, where)] = 1.0
    return targets


def tags_to_targets(tags: Iterable[str], labels: Sequence[str], where: str = "tag") -> np.ndarray:
    """Weak targets of a clip: float32 array (classes,) with 1 for every class in ``tags``."""
    targets = np.zeros(len(labels), dtype=np.float32)
    for tag in tags:
        targets[class_index(labels, tag, where)] = 1.0
    return targets


def active_runs(active: np.ndarray) -> list[tuple[int, int]]:
    """Maximal runs of true values of a (frames,) array as ``(first, last + 1)`` pairs."""
    borders = np.flatnonzero(
        np.diff(np.concatenate(([False], np.asarray(active, dtype=bool), [False])).astype(np.int8))
    )
    return list(zip(borders[::2].tolist(), borders[1::2].tolist(), strict=True))


def scores_to_events(
    scores: np.ndarray,
    labels: Sequence[str],
    frame_hop: float,
    thresholds: float | Sequence[float] = 0.5,
    duration: float | None = None,
    low_thresholds: float | Sequence[float] | None = None,
) -> list[Event]:
    """Decode frame scores (frames, classes) into events, sorted by onset.

    A frame is active where its score is *greater* than its class's threshold. With ``low_thresholds`` (hysteresis) an
    event reaches as far as scores stay above the low one and needs a frame above the other. An event's score is the mean
    score of its frames. Offsets are cut at ``duration`` seconds where it is given.
    """
    scores = np.asarray(scores)
    if scores.ndim != 2 or scores.shape[1] != len(labels):
        raise ValueError(
            f"scores have shape {scores.shape}; expected (frames, {len(labels)}) for classes {list(labels)}."
        )
    high = np.broadcast_to(np.asarray(thresholds, dtype=float), (len(labels),))
    low = high if low_thresholds is None else np.minimum(np.asarray(low_thresholds, dtype=float), high)
    events = []
    for column, label in enumerate(labels):
        for first, last in active_runs(scores[:, column] > low[column]):
            part = scores[first:last, column]
            onset, offset = first * frame_hop, last * frame_hop
            if duration is not None:
                offset = min(offset, duration)
            if part.max() > high[column] and offset > onset:
                events.append(Event(label, onset, offset, float(part.mean())))
    return sorted(events, key=lambda e: (e.onset, e.offset, e.label))


def merge_overlapping(events: Iterable[Event], touching: bool = True) -> list[Event]:
    """Union of events of the same class that overlap (and, by default, of those that touch); scores: the maximum."""
    merged: list[Event] = []
    for event in sorted(events, key=lambda e: (e.label, e.onset, e.offset)):
        last = merged[-1] if merged else None
        if (
            last
            and last.label == event.label
            and (event.onset < last.offset or (touching and event.onset == last.offset))
        ):
            score = None if event.score is None and last.score is None else max(event.score or 0.0, last.score or 0.0)
            merged[-1] = Event(last.label, last.onset, max(last.offset, event.offset), score)
        else:
            merged.append(event)
    return sorted(merged, key=lambda e: (e.onset, e.offset, e.label))


@dataclass(frozen=True)
class Annotations:
    """What an annotation file says of its clips, by file name: ``events`` (strong) or ``tags`` (weak), one of the two."""

    events: dict[str, list[Event]] | None = None
    tags: dict[str, list[str]] | None = None


def read_annotations(path: str | Path) -> Annotations:
    """Read a DESED-style tab-separated file.

    Strong: columns ``filename onset offset event_label``; a row with an empty or NaN label states a clip without
    events. Weak: ``filename event_labels`` (comma-separated). Extra columns are ignored. Raises [`AnnotationError`]
    with file and row number for anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such annotation file.")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter="\t")
        columns = reader.fieldnames or []
        if {"filename", "event_labels"} <= set(columns):
            tags = {}
            for number, row in enumerate(reader, start=2):
                if row["filename"] in tags:
                    raise AnnotationError(
                        f"{path}, row {number}: {row['filename']} is listed twice; join its labels with commas."
                    )
                tags[row["filename"]] = [t.strip() for t in (row["event_labels"] or "").split(",") if t.strip()]
            return Annotations(tags=tags)
        missing = [c for c in ("filename", "onset", "offset", "event_label") if c not in columns]
        if missing:
            raise AnnotationError(
                f"{path}: column {', '.join(missing)} is missing (found: {', '.join(columns) or 'nothing'}). A strong file has "
                "the tab-separated columns filename, onset, offset, event_label; a weak file has filename, event_labels."
            )
        events: dict[str, list[Event]] = {}
        for number, row in enumerate(reader, start=2):
            where = f"{path}, row {number}"
            if not row["filename"]:
                raise AnnotationError(f"{where}: no file name.")
            clip = events.setdefault(row["filename"], [])
            if _is_empty(row["event_label"]):
                if not (_is_empty(row["onset"]) and _is_empty(row["offset"])):
                    raise AnnotationError(f"{where}: onset or offset without a label.")
                continue
            clip.append(
                as_event(
                    {
                        k: _seconds(row[k], k, where) if k != "event_label" else row[k]
                        for k in ("event_label", "onset", "offset")
                    },
                    where,
                )
            )
        return Annotations(events=events)


def write_annotations(path: str | Path, events: Mapping[str, Iterable[Event | Mapping]]) -> None:
    """Write events by file name as a DESED-style strong TSV; a clip without events gets a row with empty fields."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["filename", "onset", "offset", "event_label"])
        for filename, clip in events.items():
            rows = [as_event(e, filename) for e in clip]
            writer.writerows([filename, f"{e.onset:.3f}", f"{e.offset:.3f}", e.label] for e in rows)
            if not rows:
                writer.writerow([filename, "", "", ""])


def _is_empty(value: str | None) -> bool:
    return value is None or value.strip().lower() in ("", "nan")


def _seconds(value: str | None, column: str, where: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise AnnotationError(f"{where}: {column} {value!r} is not a number of seconds.") from None
