"""Checkpoints that are whole or are not there: the last file that is written lists all others.

A process can be killed, or a machine lost, at any moment of a save. A checkpoint counts from the moment on when its
manifest stands beside the files that it lists, which were brought to the disk before it; without that it is never loaded.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

logger = logging.getLogger(__name__)

MANIFEST = "complete.json"


def unseal(folder: Path) -> None:
    """Take the mark of completeness from a checkpoint that is about to be written (again)."""
    if (folder / MANIFEST).is_file():
        (folder / MANIFEST).unlink()
        _to_disk(folder)


def seal(folder: Path, processes: int) -> None:
    """Mark a checkpoint as complete, as ``processes`` processes have written it."""
    files = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    for path in files.values():
        _to_disk(path)
    write_json(folder / MANIFEST, {"processes": processes, "files": {n: p.stat().st_size for n, p in files.items()}})


def what_is_missing(folder: Path) -> str | None:
    """Why a checkpoint is not complete, or None where it is."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
    except FileNotFoundError:
        return f"{MANIFEST}, the last file of a checkpoint, is not there"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{MANIFEST} cannot be read"
    for name, size in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is not there"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
    return None


def written_by(folder: Path) -> int:
    """Number of processes that wrote a complete checkpoint."""
    return json.loads((folder / MANIFEST).read_text())["processes"]


def last_complete_checkpoint(output_dir: str | Path) -> Path | None:
    """Newest checkpoint folder that was written to its end; half-written ones are skipped with a warning."""
    folders = [p for p in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if p.name.rsplit("-", 1)[1].isdigit()]
    for folder in sorted(folders, key=lambda p: int(p.name.rsplit("-", 1)[1]), reverse=True):
        missing = what_is_missing(folder)
        if missing is None:
            return folder
        logger.warning("%s: was not written to its end and is skipped: %s.", folder, missing)
    return None


def write_json(path: str | Path, values: dict) -> None:
    """Write a JSON file so that it is there whole or not at all."""
    path = Path(path)
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(values, indent=1, default=str) + "\n", encoding="utf-8")
    _to_disk(part)
    os.replace(part, path)
    _to_disk(path.parent)


def _to_disk(path: Path) -> None:
    with suppress(OSError):  # not every file system can
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
