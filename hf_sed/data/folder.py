"""Annotated folders: audio files plus a DESED-style TSV, or audio alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..audio import audio_duration
from ..events import AnnotationError, read_annotations
from .schema import dataset_from_rows, make_row
from .soundscapes import AUDIO_SUFFIXES

if TYPE_CHECKING:
    import datasets


def load_annotated_folder(
    audio: str | Path,
    annotations: str | Path | None = None,
    labels: Sequence[str] | None = None,
    missing_files: str = "error",
) -> datasets.Dataset:
    """A data set of the schema from a folder of audio.

    With a strong TSV (``filename onset offset event_label``) its clips are "strong", with a weak one (``filename
    event_labels``) "weak", without annotations every audio file of the folder is "unlabelled". Audio is read when it is
    used; lengths come from the files' headers.

    Args:
        labels: the allowed classes; None allows all.
        missing_files: files that the TSV names and the folder lacks: "error", or "skip" with a warning that counts them.

    Raises `FileNotFoundError` or [`hf_sed.AnnotationError`] naming file, row or clip.
    """
    folder = Path(audio)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of audio.")
    if annotations is None:
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in AUDIO_SUFFIXES)
        if not files:
            raise FileNotFoundError(f"{folder}: holds no audio file ({', '.join(AUDIO_SUFFIXES)}).")
        return dataset_from_rows(
            [make_row({"path": str(p)}, audio_duration(p), "unlabelled", folder.name) for p in files]
        )
    content = read_annotations(annotations)
    kind, clips = ("strong", content.events) if content.events is not None else ("weak", content.tags)
    if not clips:
        raise AnnotationError(f"{annotations}: lists no clip.")
    absent = [name for name in clips if not (folder / name).is_file()]
    if absent:
        if missing_files != "skip":
            raise FileNotFoundError(
                f"{annotations}: {len(absent)} of {len(clips)} files are not in {folder}, the first is {absent[0]}; "
                "add them or pass missing_files='skip'."
            )
        import warnings

        warnings.warn(
            f"{annotations}: {len(absent)} of {len(clips)} files are not in {folder} and are skipped.", stacklevel=2
        )
    rows = []
    for name, content_of_clip in clips.items():
        if name in absent:
            continue
        names = {e.label for e in content_of_clip} if kind == "strong" else set(content_of_clip)
        unknown = sorted(names - set(labels)) if labels is not None else []
        if unknown:
            raise AnnotationError(
                f"{annotations}, clip {name}: label {unknown[0]!r} is not one of the classes {list(labels)}."
            )
        path = folder / name
        duration = audio_duration(path)
        if kind == "strong":
            late = [e for e in content_of_clip if e.onset >= duration]
            if late:
                raise AnnotationError(
                    f"{annotations}, clip {name}: onset {late[0].onset} s lies beyond its end at {duration:.3f} s."
                )
            rows.append(make_row({"path": str(path)}, duration, kind, folder.name, content_of_clip))
        else:
            rows.append(make_row({"path": str(path)}, duration, kind, folder.name, tags=content_of_clip))
    if not rows:
        raise FileNotFoundError(f"{annotations}: none of its {len(clips)} files is in {folder}.")
    return dataset_from_rows(rows)
