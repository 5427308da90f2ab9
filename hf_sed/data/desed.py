"""DESED in its own folder layout (DCASE 2021-2024 Task 4), as the schema's data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .folder import load_annotated_folder

if TYPE_CHECKING:
    import datasets

LABELS = (
    "Alarm_bell_ringing", "Blender", "Cat", "Dishes", "Dog", "Electric_shaver_toothbrush", "Frying", "Running_water", "Speech",
    "Vacuum_cleaner",
)  # fmt: skip

# split -> (audio folder, metadata file or None), relative to the data set's root. Source: ATST-SED `confs/stage1.yaml:31-54`.
LAYOUT: dict[str, tuple[str, str | None]] = {
    "strong": ("audio/train/strong_label_real", "metadata/train/audioset_strong.tsv"),
    "synthetic": ("audio/train/synthetic21_train/soundscapes", "metadata/train/synthetic21_train/soundscapes.tsv"),
    "weak": ("audio/train/weak", "metadata/train/weak.tsv"),
    "unlabelled": ("audio/train/unlabel_in_domain", None),
    "validation": ("audio/validation/validation", "metadata/validation/validation.tsv"),
    "synthetic_validation": (
        "audio/validation/synthetic21_validation/soundscapes",
        "metadata/validation/synthetic21_validation/soundscapes.tsv",
    ),
    "public": ("audio/eval/public", "metadata/eval/public.tsv"),
}


def load_desed(root: str | Path, missing_files: str = "error") -> datasets.DatasetDict:
    """The parts of DESED that are under ``root`` (the folder with ``audio`` and ``metadata``).

    A 16 kHz copy of a part (folder name with ``_16k``) is preferred. Some audio of DESED can no longer be had: pass
    ``missing_files="skip"`` to go on without it, with a warning that counts what is missing. Raises `FileNotFoundError`
    where no part is found or audio is there without its metadata.
    """
    from datasets import DatasetDict

    root = Path(root)
    out = {}
    for split, (audio, metadata) in LAYOUT.items():
        folder = next((p for p in (root / f"{audio}_16k", root / audio) if p.is_dir()), None)
        if folder is None:
            continue
        table = None if metadata is None else root / metadata
        if table is not None and not table.is_file():
            raise FileNotFoundError(f"{folder} is there, but its annotations {table} are not.")
        out[split] = load_annotated_folder(folder, table, None if table is None else LABELS, missing_files)
    if not out:
        expected = ", ".join(str(root / audio) for audio, _ in LAYOUT.values())
        raise FileNotFoundError(f"{root}: no part of DESED found; looked for {expected}.")
    return DatasetDict(out)
