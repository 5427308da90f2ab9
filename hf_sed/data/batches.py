"""From rows to batches: which clips come together (the sampler), what a clip gives (the data set), how they are padded.

A training batch holds a fixed number of clips of each source. Masks say what each clip knows; nothing after this file
asks for a clip's source.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from ..audio import load_audio
from ..events import Event, events_to_targets, tags_to_targets
from ..models.masks import length_mask
from .schema import KINDS, check_schema, undecoded

if TYPE_CHECKING:
    import datasets

    from ..models.sed.configuration_sed import SedConfig


class SedClips(Dataset):
    """Decoded clips of one or more data sets of the schema, with targets on the detector's frame grid.

    Items are addressed by ``(source, index, draw)``, or by a plain index into the concatenation of the sources. A clip
    longer than ``max_seconds`` is cropped at a place that depends on ``seed`` and ``draw`` alone, so that a resumed run
    and any number of loader workers see the same crops.

    Args:
        sources: name -> data set of the schema.
        config: the detector's config: labels, frame grid, sampling rate.
        max_seconds: crop to this length; None leaves clips whole.
        seed: of the crops.
    """

    def __init__(
        self,
        sources: Mapping[str, datasets.Dataset],
        config: SedConfig,
        max_seconds: float | None = None,
        seed: int = 0,
    ):
        self.sources = {}
        for name, dataset in sources.items():
            check_schema(dataset, name)
            if len(dataset) == 0:
                raise ValueError(f"source {name!r} has no clips; remove it or fill it.")
            self.sources[name] = undecoded(dataset)
            _check_labels(dataset, name, config.labels)
        self.config, self.max_seconds, self.seed = config, max_seconds, seed
        self._starts = np.cumsum([0, *[len(d) for d in self.sources.values()]])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, key: int | tuple[str, int, int]) -> dict:
        if isinstance(key, tuple):
            source, index, draw = key
            number = -1
        else:
            which = int(np.searchsorted(self._starts, key, side="right")) - 1
            source, index, draw, number = list(self.sources)[which], int(key - self._starts[which]), 0, int(key)
        row = self.sources[source][index]
        rate, labels = self.config.sampling_rate, self.config.labels
        name = f"source {source!r}, clip {index} ({row['audio'].get('path')})"
        waveform = load_audio(row["audio"], rate, name)
        events = [Event(e["label"], e["onset"], e["offset"]) for e in row["events"]]
        limit = None if self.max_seconds is None else round(self.max_seconds * rate)
        if limit is not None and waveform.size > limit:
            start = int(np.random.default_rng([self.seed, index, draw]).integers(0, waveform.size - limit + 1))
            waveform = waveform[start : start + limit]
            events = _shift(events, start / rate, limit / rate)
        strong = events_to_targets(events, labels, self.config.num_frames(waveform.size), self.config.frame_hop, name)
        weak = strong.max(0) if row["kind"] == "strong" and len(strong) else tags_to_targets(row["tags"], labels, name)
        return {
            "input_values": waveform,
            "strong_targets": strong,
            "weak_targets": weak,
            "strong_mask": float(row["kind"] == "strong"),
            "weak_mask": float(row["kind"] == "weak"),
            "groups": KINDS.index(row["kind"]),
            "clip_number": number,
        }


def _check_labels(dataset, name: str, labels: Sequence[str]) -> None:
    for index, tags in enumerate(dataset["tags"]):
        unknown = sorted(set(tags) - set(labels))
        if unknown:
            raise ValueError(
                f"source {name!r}, clip {index}: label {unknown[0]!r} is not one of the classes {list(labels)}."
            )


def _shift(events: Sequence[Event], start: float, length: float) -> list[Event]:
    """Events of the excerpt [start, start + length) seconds, in its own time."""
    moved = [Event(e.label, max(e.onset - start, 0.0), min(e.offset - start, length)) for e in events]
    return [e for e in moved if e.offset > e.onset]


def collate_clips(clips: Sequence[Mapping]) -> dict[str, torch.Tensor]:
    """Pad clips to the longest with zeros. ``attention_mask`` is there only where a clip is padded."""
    waveforms = [torch.from_numpy(c["input_values"]) for c in clips]
    lengths = torch.tensor([len(w) for w in waveforms])
    batch = {
        "input_values": torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True),
        "strong_targets": torch.nn.utils.rnn.pad_sequence(
            [torch.from_numpy(c["strong_targets"]) for c in clips], batch_first=True
        ),
        "weak_targets": torch.from_numpy(np.stack([c["weak_targets"] for c in clips])),
        **{
            name: torch.tensor([c[name] for c in clips])
            for name in ("strong_mask", "weak_mask", "groups", "clip_number")
        },
    }
    if (lengths != lengths[0]).any():
        batch["attention_mask"] = length_mask(lengths, int(lengths.max())).long()
    return batch


class QuotaBatchSampler(Sampler):
    """Batches with a fixed number of clips of each source, as keys ``(source, index, draw)`` of [`SedClips`].

    Each source is walked in a random order without repetition until all its clips have been seen, then in a new one.
    An epoch is over when the source that runs out first (measured in batches) has been seen once. All follows from
    ``seed`` and the epoch, so a run can be resumed anywhere.

    Args:
        sizes: source -> number of clips.
        quotas: source -> clips of it in each batch, that of all processes together.
        process, processes: of each batch this process gets every ``processes``-th clip from its ``process``-th on, so that
            all of them together see what a single one would.

    Raises ValueError where a batch has fewer clips than there are processes.
    """

    drop_last = True

    def __init__(
        self, sizes: Mapping[str, int], quotas: Mapping[str, int], seed: int = 0, process: int = 0, processes: int = 1
    ):
        check_quotas(sizes, quotas)
        self.sizes = {name: sizes[name] for name in quotas}
        self.quotas, self.seed, self.epoch = dict(quotas), seed, 0
        self.process, self.processes = process, processes
        total = sum(quotas.values())
        if total < processes:
            raise ValueError(f"batch_quotas: {total} clips a batch cannot be shared by {processes} processes.")
        self.batch_size = len(range(process, total, processes))

    def __len__(self) -> int:
        return min(size // self.quotas[name] for name, size in self.sizes.items())

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches the next iteration gives."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[tuple[str, int, int]]]:
        orders: dict[tuple[str, int], np.ndarray] = {}
        for step in range(self.epoch * len(self), (self.epoch + 1) * len(self)):
            batch = []
            for number, (name, quota) in enumerate(self.quotas.items()):
                for draw in range(step * quota, (step + 1) * quota):
                    cycle, place = divmod(draw, self.sizes[name])
                    if (name, cycle) not in orders:
                        orders[name, cycle] = np.random.default_rng([self.seed, number, cycle]).permutation(
                            self.sizes[name]
                        )
                    batch.append((name, int(orders[name, cycle][place]), draw))
            yield batch[self.process :: self.processes]


def check_quotas(sizes: Mapping[str, int], quotas: Mapping[str, int]) -> None:
    """Raise ValueError naming the source for quotas that no batch can meet."""
    for name, quota in quotas.items():
        if name not in sizes:
            raise ValueError(f"batch_quotas names the source {name!r}; the training data has {', '.join(sizes)}.")
        if quota < 1:
            raise ValueError(
                f"batch_quotas: {quota} clips of source {name!r}; give at least 1 or leave the source out."
            )
        if sizes[name] < quota:
            raise ValueError(
                f"batch_quotas: {quota} clips of source {name!r} a batch, but it has {sizes[name]}; lower the quota."
            )
    if not quotas:
        raise ValueError("batch_quotas is empty; name at least one source.")
