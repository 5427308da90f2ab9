"""The one schema of every data set of clips, built so that torchcodec is never needed.

| column | type | meaning |
|---|---|---|
| audio | Audio(decode=False): {bytes, path} | encoded audio; `hf_sed.audio.load_audio(row["audio"], rate)` decodes it |
| duration | float64 | length in seconds |
| events | list of {label, onset, offset} | strong labels in seconds; empty unless `kind` is "strong" |
| tags | list of string | classes that occur in the clip; empty where `kind` is "unlabelled" |
| kind | string | "strong" (events known), "weak" (tags known) or "unlabelled" |
| source | string | where the clip comes from: the recordings of a composed scene, the folder of a loaded one |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..events import Event

if TYPE_CHECKING:
    import datasets

KINDS = ("strong", "weak", "unlabelled")
COLUMNS = ("audio", "duration", "events", "tags", "kind", "source")


def storage_features() -> datasets.Features:
    """The schema with the audio as a plain struct: what is written, since encoding an Audio feature needs torchcodec."""
    from datasets import Features, List, Value

    return Features(
        {
            "audio": {"bytes": Value("binary"), "path": Value("string")},
            "duration": Value("float64"),
            "events": List({"label": Value("string"), "onset": Value("float64"), "offset": Value("float64")}),
            "tags": List(Value("string")),
            "kind": Value("string"),
            "source": Value("string"),
        }
    )


def with_audio_feature(dataset: datasets.Dataset) -> datasets.Dataset:
    """Mark the stored struct as undecoded Audio, so that the Hub shows a player and `datasets` knows what it is."""
    from datasets import Audio

    return dataset.cast_column("audio", Audio(decode=False))


def make_row(
    audio: Mapping,
    duration: float,
    kind: str,
    source: str,
    events: Iterable[Event] = (),
    tags: Iterable[str] | None = None,
) -> dict:
    """One row; a clip of some ``kind`` carries only what that kind knows."""
    events = sorted(events, key=lambda e: (e.onset, e.offset, e.label))
    tags = sorted(set(tags) if tags is not None else {e.label for e in events})
    return {
        "audio": {"bytes": audio.get("bytes"), "path": audio.get("path")},
        "duration": float(duration),
        "events": [{"label": e.label, "onset": e.onset, "offset": e.offset} for e in events]
        if kind == "strong"
        else [],
        "tags": tags if kind != "unlabelled" else [],
        "kind": kind,
        "source": source,
    }


def dataset_from_rows(rows: Sequence[dict]) -> datasets.Dataset:
    """A data set of the schema from rows made by [`make_row`]."""
    from datasets import Dataset

    return with_audio_feature(Dataset.from_list(list(rows), features=storage_features()))


def check_schema(dataset, name: str) -> None:
    """Raise ValueError naming what a data set lacks to be one of ours."""
    missing = [c for c in COLUMNS if c not in dataset.column_names]
    if missing:
        raise ValueError(
            f"data set {name!r} lacks the column {', '.join(missing)} (has {', '.join(dataset.column_names)}). Build it with "
            "hf_sed.load_annotated_folder, hf_sed.load_desed or hf-sed compose, or see hf_sed/data/schema.py."
        )


def undecoded(dataset):
    """The data set with its audio left encoded, whatever wrote it (a Hub data set decodes by default)."""
    from datasets import Audio

    feature = dataset.features["audio"]
    return dataset.cast_column("audio", Audio(decode=False)) if getattr(feature, "decode", False) else dataset


def class_names(dataset, column: str = "tags") -> list[str]:
    """Sorted class names that occur in a data set's tags."""
    return sorted({tag for tags in dataset[column] for tag in tags})
