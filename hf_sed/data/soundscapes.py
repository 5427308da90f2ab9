"""Compose scenes with exact strong labels from isolated recordings, the way DESED's synthetic part is composed.

The path: recordings (a folder, or the embedded bank) -> pools of sources that never share a recording -> for each scene
a background, and events cut from the active part of a recording, placed at random under a polyphony limit and scaled to
an event-to-background ratio -> rows of the schema. A scene depends on the seed, its split and its number alone, so the
same seed gives the same bytes whatever the number of processes.
"""

from __future__ import annotations

import csv
import json
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..audio import encode_audio, load_audio
from ..events import Event
from . import sound_bank
from .schema import make_row, storage_features, with_audio_feature

if TYPE_CHECKING:
    import datasets

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".m4a", ".aac", ".opus", ".aif", ".aiff")
SETTINGS_FILE = "composition.json"


@dataclass(frozen=True)
class SoundscapeSettings:
    """How scenes are composed. Times in seconds, levels in dB, rates in Hz."""

    duration: float = 10.0
    sampling_rate: int = 16000
    events: tuple[int, int] = (1, 4)
    """Least and most events of a scene; the number is uniform between them."""
    max_polyphony: int = 2
    """Most events that sound at the same time. Events of one class never overlap."""
    event_to_background_db: tuple[float, float] = (0.0, 20.0)
    """Range of the ratio of an event's RMS level, over its own length, to the background's."""
    background_dbfs: tuple[float, float] = (-45.0, -30.0)
    """Range of the background's RMS level relative to full scale."""
    class_weights: dict[str, float] = field(default_factory=dict)
    """Relative frequency of a class; 1 where it is not named."""
    event_length: tuple[float, float] = (0.1, 10.0)
    """Least and most length of an event. A stationary sound's length is drawn from the part of it above 1 s."""
    active_db: float = -35.0
    """Frames of 10 ms below this level, relative to the recording's loudest, are silence around the event."""
    active_gap: float = 0.4
    """Silences up to this length lie inside an event (between the ticks of a clock, the syllables of a word)."""
    fade: float = 0.01
    loop_fade: float = 0.1
    """Cross-fade between the repetitions of a looped sound or background."""

    def __post_init__(self):
        for name in ("events", "event_to_background_db", "background_dbfs", "event_length"):
            low, high = pair = tuple(getattr(self, name))
            object.__setattr__(self, name, pair)
            if low > high:
                raise ValueError(f"{name} = {list(pair)}: the first number must not be larger than the second.")
        if self.duration <= 0 or self.sampling_rate <= 0 or self.max_polyphony < 1 or self.events[0] < 0:
            raise ValueError(
                "duration and sampling_rate must be positive, max_polyphony at least 1, events not negative."
            )
        if self.event_length[0] <= 0:
            raise ValueError(f"event_length {list(self.event_length)}: must be positive.")


@dataclass(frozen=True)
class Recording:
    """An isolated recording of one class. ``path`` is None for a sound of the embedded bank, named by ``number``."""

    label: str
    source: str
    path: Path | None = None
    number: int = 0

    def load(self, sampling_rate: int) -> np.ndarray:
        """Mono float32 samples."""
        if self.path is None:
            return sound_bank.synthesise(self.label, self.number, sampling_rate)
        return load_audio(self.path, sampling_rate)


@dataclass(frozen=True)
class Pool:
    """The recordings that the scenes of one split may use."""

    name: str
    events: dict[str, tuple[Recording, ...]]
    backgrounds: tuple[Recording, ...]

    @property
    def labels(self) -> list[str]:
        return sorted(self.events)

    @property
    def sources(self) -> set[str]:
        return {r.source for group in (*self.events.values(), self.backgrounds) for r in group}


# --- From a folder to pools -----------------------------------------------------------------------------------------


def read_recordings(folder: str | Path | None, bank_sources: int = 40) -> dict[str, list[Recording]]:
    """Recordings by split, "train" and "val".

    ``folder`` holds either a ``recordings.tsv`` (columns ``file label source``, and ``split`` if wanted) or one folder
    a class with audio files, each of which is then its own source. Without a ``split`` every fifth source of a class,
    in sorted order, is kept for "val". ``background`` is the class of the backgrounds. None: the embedded bank, with
    ``bank_sources`` sources a class.

    Raises `FileNotFoundError` or `ValueError` naming folder, row or class.
    """
    if folder is None:
        recordings = [
            (Recording(label, f"bank:{label}:{number}", number=number), None)
            for label in (*sound_bank.LABELS, sound_bank.BACKGROUND)
            for number in range(bank_sources)
        ]
    else:
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder of recordings.")
        table = folder / "recordings.tsv"
        recordings = _recordings_from_table(table) if table.is_file() else _recordings_from_folders(folder)
    by_split: dict[str, list[Recording]] = {"train": [], "val": []}
    held_out = _held_out_sources([r for r, split in recordings if split is None])
    for recording, split in recordings:
        by_split[split or ("val" if recording.source in held_out else "train")].append(recording)
    crossing = {r.source for r in by_split["train"]} & {r.source for r in by_split["val"]}
    if crossing:
        raise ValueError(
            f"{folder}: source {sorted(crossing)[0]!r} has recordings in both splits; split by source, not by file."
        )
    return by_split


def _recordings_from_table(table: Path) -> list[tuple[Recording, str | None]]:
    out = []
    with table.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, delimiter="\t")
        missing = [c for c in ("file", "label", "source") if c not in (reader.fieldnames or [])]
        if missing:
            raise ValueError(
                f"{table}: column {', '.join(missing)} is missing; recordings.tsv needs file, label, source."
            )
        for number, row in enumerate(reader, start=2):
            path = table.parent / row["file"]
            if not path.is_file():
                raise FileNotFoundError(f"{table}, row {number}: {path} does not exist.")
            split = row.get("split") or None
            if split not in (None, "train", "val"):
                raise ValueError(f"{table}, row {number}: split {split!r}; expected train or val.")
            if not row["label"] or not row["source"]:
                raise ValueError(f"{table}, row {number}: label and source must not be empty.")
            out.append((Recording(row["label"], row["source"], path), split))
    if not out:
        raise ValueError(f"{table}: lists no recording.")
    return out


def _recordings_from_folders(folder: Path) -> list[tuple[Recording, None]]:
    out = []
    for class_folder in sorted(p for p in folder.iterdir() if p.is_dir()):
        files = sorted(p for p in class_folder.iterdir() if p.suffix.lower() in AUDIO_SUFFIXES)
        if not files:
            raise ValueError(f"{class_folder}: a class folder without an audio file ({', '.join(AUDIO_SUFFIXES)}).")
        out += [(Recording(class_folder.name, f"{class_folder.name}/{p.name}", p), None) for p in files]
    if not out:
        raise ValueError(f"{folder}: has neither a recordings.tsv nor one folder a class with audio files.")
    return out


def _held_out_sources(recordings: Sequence[Recording]) -> set[str]:
    by_label = defaultdict(set)
    for recording in recordings:
        by_label[recording.label].add(recording.source)
    return {s for sources in by_label.values() for s in sorted(sources)[4::5]}


def make_pool(name: str, recordings: Sequence[Recording], labels: Sequence[str]) -> Pool:
    """A pool of the given classes. Raises ValueError naming a class or the background where it has no recording."""
    groups = defaultdict(list)
    for recording in recordings:
        groups[recording.label].append(recording)
    missing = [label for label in labels if not groups[label]]
    if missing:
        raise ValueError(
            f"split {name!r}: class {', '.join(missing)} has no recording left; add recordings of other sources or ask for fewer labelled sources."
        )
    if not groups[sound_bank.BACKGROUND]:
        raise ValueError(
            f"split {name!r}: no recording of the class 'background'; scenes need at least one for each split."
        )
    return Pool(name, {label: tuple(groups[label]) for label in labels}, tuple(groups[sound_bank.BACKGROUND]))


def split_pools(
    recordings: Mapping[str, Sequence[Recording]],
    labelled_sources: int | None = None,
    seed: int = 0,
    labels: Sequence[str] | None = None,
) -> dict[str, Pool]:
    """Pools "labelled", "unlabelled" and "validation" that share no source.

    ``labelled_sources``: how many train sources of each class (and of the backgrounds, twice as many) the labelled
    scenes use, drawn by ``seed``; the unlabelled scenes use the others. None: half of them.
    """
    train = recordings["train"]
    labels = sorted(labels if labels is not None else {r.label for r in train} - {sound_bank.BACKGROUND})
    labelled, unlabelled = [], []
    for label in (*labels, sound_bank.BACKGROUND):
        group = [r for r in train if r.label == label]
        sources = sorted({r.source for r in group})
        wanted = (labelled_sources or 0) * (2 if label == sound_bank.BACKGROUND else 1) or len(sources) // 2
        if wanted >= len(sources):
            raise ValueError(
                f"class {label!r} has {len(sources)} train sources; {wanted} for the labelled scenes leave none for the unlabelled "
                "ones. Lower labelled_sources or add recordings."
            )
        chosen = set(np.random.default_rng([seed, zlib.crc32(label.encode())]).permutation(sources)[:wanted].tolist())
        labelled += [r for r in group if r.source in chosen]
        unlabelled += [r for r in group if r.source not in chosen]
    return {
        "labelled": make_pool("labelled", labelled, labels),
        "unlabelled": make_pool("unlabelled", unlabelled, labels),
        "validation": make_pool("validation", recordings["val"], labels),
    }


# --- One scene ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=2048)
def _samples(recording: Recording, rate: int) -> np.ndarray:
    return recording.load(rate)


@lru_cache(maxsize=8192)
def active_parts(
    recording: Recording, rate: int, active_db: float = -35.0, active_gap: float = 0.4, shortest: float = 0.1
) -> tuple[tuple[int, int], ...]:
    """Stretches of a recording, in samples at ``rate`` Hz, whose 10 ms frames lie above ``active_db`` relative to the loudest.

    Silences up to ``active_gap`` s lie inside a stretch; stretches under ``shortest`` s or a fifth of the longest are left out.
    """
    samples = _samples(recording, rate)
    frame = max(rate // 100, 1)
    frames = -(-samples.size // frame)
    padded = np.zeros(frames * frame, dtype=np.float64)
    padded[: samples.size] = samples
    energy = (padded.reshape(frames, frame) ** 2).mean(axis=1)
    loud = np.flatnonzero(energy > energy.max() * 10 ** (active_db / 10)) if energy.max() > 0 else np.array([], int)
    if loud.size == 0:
        raise ValueError(f"{recording.path or recording.source}: is silent; remove it from the recordings.")
    breaks = np.flatnonzero(np.diff(loud) > active_gap * 100)
    firsts, lasts = loud[np.r_[0, breaks + 1]], loud[np.r_[breaks, loud.size - 1]] + 1
    parts = [(int(a) * frame, min(int(b) * frame, samples.size)) for a, b in zip(firsts, lasts, strict=True)]
    longest = max(b - a for a, b in parts)
    # Clicks and tails far shorter than the sound itself are no event of their own.
    return tuple((a, b) for a, b in parts if b - a >= min(longest, max(0.2 * longest, shortest * rate)))


def loop_to_length(samples: np.ndarray, length: int, overlap: int) -> np.ndarray:
    """Repeat ``samples`` with an equal-power cross-fade of ``overlap`` samples until ``length`` is reached."""
    overlap = min(overlap, samples.size // 2)
    if samples.size >= length or overlap == 0:
        return np.resize(samples, length)
    ramp = np.sqrt(np.linspace(0, 1, overlap, endpoint=False))
    out = np.zeros(length + samples.size)
    body = samples.astype(np.float64)
    joined = body.copy()
    joined[:overlap] *= ramp
    joined[-overlap:] *= ramp[::-1]
    out[: samples.size] = body
    out[samples.size - overlap : samples.size] *= ramp[::-1]
    position = samples.size - overlap
    while position < length:
        out[position : position + samples.size] += joined
        position += samples.size - overlap
    return out[:length]


def _stretch(rng: np.random.Generator, samples: np.ndarray, length: int, overlap: int) -> np.ndarray:
    """A random excerpt of ``length`` samples, looped where the recording is shorter."""
    if samples.size > length:
        start = int(rng.integers(0, samples.size - length + 1))
        return samples[start : start + length].astype(np.float64)
    return loop_to_length(samples, length, overlap)


def _draw_event(rng: np.random.Generator, recording: Recording, settings: SoundscapeSettings) -> np.ndarray:
    """The samples of one event: the whole active part of a short sound, an excerpt or loop of a stationary one."""
    samples, rate = _samples(recording, settings.sampling_rate), settings.sampling_rate
    parts = active_parts(recording, rate, settings.active_db, settings.active_gap, settings.event_length[0])
    first, last = parts[int(rng.integers(len(parts)))]
    part = samples[first:last]
    longest = int(min(settings.event_length[1], settings.duration) * rate)
    # Active from end to end for over 2 s: a stationary sound, whose length is free.
    if part.size >= 0.9 * samples.size and part.size >= 2 * rate:
        low = min(max(int(settings.event_length[0] * rate), rate), longest)
        event = _stretch(rng, part, int(rng.integers(low, longest + 1)), int(settings.loop_fade * rate))
    else:
        event = part[:longest].astype(np.float64)
    fade = min(int(settings.fade * rate), event.size // 2)
    ramp = np.linspace(0, 1, fade, endpoint=False)
    event = event.copy()
    event[:fade] *= ramp
    event[event.size - fade :] *= ramp[::-1]
    return event


def _rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)) + 1e-20))


def compose_scene(
    number: int, pool: Pool, settings: SoundscapeSettings, seed: int = 0, kind: str = "strong", split: str | None = None
) -> dict:
    """Scene ``number`` of a split: a row of the schema with 16-bit audio. Deterministic in all its arguments."""
    split = split or pool.name
    rng = np.random.default_rng([seed, zlib.crc32(split.encode()), number])
    rate, length = settings.sampling_rate, round(settings.duration * settings.sampling_rate)
    background = pool.backgrounds[int(rng.integers(len(pool.backgrounds)))]
    scene = _stretch(rng, _samples(background, rate), length, int(settings.loop_fade * rate))
    scene *= 10 ** (rng.uniform(*settings.background_dbfs) / 20) / _rms(scene)
    level = _rms(scene)

    labels = pool.labels
    weights = np.array([settings.class_weights.get(label, 1.0) for label in labels])
    events: list[Event] = []
    used = [background.source]
    occupied = np.zeros(length, dtype=np.int16)
    for _ in range(int(rng.integers(settings.events[0], settings.events[1] + 1))):
        label = labels[int(rng.choice(len(labels), p=weights / weights.sum()))]
        sources = sorted({r.source for r in pool.events[label]})
        source = sources[int(rng.integers(len(sources)))]
        recordings = [r for r in pool.events[label] if r.source == source]
        recording = recordings[int(rng.integers(len(recordings)))]
        sound = _draw_event(rng, recording, settings)
        sound *= level * 10 ** (rng.uniform(*settings.event_to_background_db) / 20) / _rms(sound)
        for _attempt in range(20):  # a crowded scene may have no room left: then it gets one event fewer
            start = int(rng.integers(0, length - sound.size + 1))
            stop = start + sound.size
            # Two events of a class keep the gap below which one recording counts as one event.
            clear = all(
                e.label != label
                or start / rate >= e.offset + settings.active_gap
                or stop / rate <= e.onset - settings.active_gap
                for e in events
            )
            if clear and occupied[start:stop].max(initial=0) < settings.max_polyphony:
                scene[start:stop] += sound
                occupied[start:stop] += 1
                events.append(Event(label, start / rate, stop / rate))
                used.append(recording.source)
                break
    peak = np.abs(scene).max()
    if peak > 0.99:
        scene *= 0.99 / peak
    audio = {"bytes": encode_audio(scene, rate), "path": f"{split}_{number:05d}.wav"}
    return make_row(audio, length / rate, kind, "; ".join(used), events)


# --- Data sets of scenes --------------------------------------------------------------------------------------------

SPLITS = {
    "strong": ("labelled", "strong"),
    "weak": ("labelled", "weak"),
    "unlabelled": ("unlabelled", "unlabelled"),
    "validation": ("validation", "strong"),
}
"""Split of the composed data set -> (pool of recordings, kind of its clips)."""


def compose(
    recordings: str | Path | None,
    sizes: Mapping[str, int],
    settings: SoundscapeSettings | None = None,
    seed: int = 0,
    labelled_sources: int | None = None,
    labels: Sequence[str] | None = None,
    num_proc: int | None = None,
) -> datasets.DatasetDict:
    """Compose a `DatasetDict` with the splits of ``sizes``: "strong", "weak", "unlabelled", "validation".

    ``recordings``: a folder as [`read_recordings`] describes, or None for the embedded bank. Labelled, unlabelled and
    validation scenes share no source. The same ``seed`` gives the same bytes for any ``num_proc``.
    """
    from datasets import Dataset, DatasetDict

    settings = settings or SoundscapeSettings()
    unknown = set(sizes) - set(SPLITS)
    if unknown:
        raise ValueError(f"unknown split {sorted(unknown)[0]!r}; the splits are {', '.join(SPLITS)}.")
    if not any(sizes.values()):
        raise ValueError("no scene asked for; give at least one split a size.")
    pools = split_pools(read_recordings(recordings), labelled_sources, seed, labels)
    out = {}
    for split, size in sizes.items():
        if size <= 0:
            continue
        pool, kind = pools[SPLITS[split][0]], SPLITS[split][1]
        numbers = Dataset.from_dict({"number": range(size)})
        rows = numbers.map(
            compose_scene,
            input_columns="number",
            remove_columns="number",
            fn_kwargs={"pool": pool, "settings": settings, "seed": seed, "kind": kind, "split": split},
            features=storage_features(),
            num_proc=num_proc if num_proc and num_proc > 1 and size > 1 else None,
            writer_batch_size=100,
            load_from_cache_file=False,
            desc=f"composing {split}",
        )
        out[split] = with_audio_feature(rows)
    return DatasetDict(out)


def compose_to_disk(
    output: str | Path,
    recordings: str | Path | None,
    sizes: Mapping[str, int],
    settings: SoundscapeSettings | None = None,
    seed: int = 0,
    labelled_sources: int | None = None,
    labels: Sequence[str] | None = None,
    num_proc: int | None = None,
) -> datasets.DatasetDict:
    """[`compose`] and save with `save_to_disk`, with the settings beside the data.

    A folder composed before with the same settings is loaded as it is. Raises `FileExistsError` where ``output`` holds
    anything else.
    """
    from datasets import load_from_disk

    output, settings = Path(output), settings or SoundscapeSettings()
    record = json.loads(
        json.dumps(
            {
                "recordings": None if recordings is None else str(recordings),
                "sizes": {k: v for k, v in sizes.items() if v > 0},
                "seed": seed,
                "labelled_sources": labelled_sources,
                "labels": list(labels) if labels else None,
                "settings": asdict(settings),
            }
        )
    )
    record_file = output / SETTINGS_FILE
    if record_file.is_file():
        if json.loads(record_file.read_text()) == record:
            return load_from_disk(str(output))
        raise FileExistsError(
            f"{output}: holds scenes composed with other settings ({record_file}); remove it or choose another folder."
        )
    if output.exists() and any(output.iterdir()):
        raise FileExistsError(f"{output}: is not empty and holds no scenes of ours; choose another folder.")
    scenes = compose(recordings, sizes, settings, seed, labelled_sources, labels, num_proc)
    scenes.save_to_disk(str(output), num_proc=1)
    record_file.write_text(json.dumps(record, indent=1) + "\n")
    return load_from_disk(str(output))


def settings_from(values: Mapping) -> SoundscapeSettings:
    """Settings from a mapping of strings to values, as a recipe has them. Raises TypeError for an unknown name."""
    return replace(SoundscapeSettings(), **values)
