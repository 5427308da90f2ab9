"""Augmentation of training clips, between mixup and the encoder.

    augmentation:
      - {name: time_shift, std: 0.5}
      - {name: filter_augment, probability: 0.8}
      - {name: frequency_warp, probability: 0.5, teacher: own, inputs: encoder, per: group}

They apply in the order of the list, all but `time_shift` to front-end frames before these are scaled: to linear mel
spectrograms, or to the samples of an encoder that reads waveforms. What they draw comes from torch's global generator on the
CPU, whose state a checkpoint holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from ..checks import check_choices, did_you_mean
from ..models.masks import length_mask

if TYPE_CHECKING:
    from ..models.sed.configuration_sed import SedConfig
    from ..models.sed.modeling_sed import Spectrograms

INPUTS = ("encoder", "branch")


@dataclass(frozen=True)
class Augmentation:
    """Base of those that change front-end frames.

    Args:
        probability: share of the clips that are changed.
        per: "clip" draws for every clip, "group" once for every kind of clip (as ATST-SED's frequency warp does).
        inputs: "all", "encoder" or "branch" (the mel spectrogram of the convolutional branch); both see the same draw.
        teacher: what the teacher's input gets: nothing ("clean"), what the student's gets ("same"), or a draw of its own ("own").
    """

    probability: float = 1.0
    per: str = "clip"
    inputs: str = "all"
    teacher: str = "clean"

    needs_mel: ClassVar[bool] = False

    def __post_init__(self):
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability {self.probability}; expected a number from 0 to 1.")
        check_choices(self, {"per": ("clip", "group"), "inputs": ("all", *INPUTS), "teacher": ("clean", "same", "own")})

    def draw(self, size: int) -> torch.Tensor:
        """Random numbers (``size``, …) that say what `apply` does."""
        raise NotImplementedError

    def apply(self, values: torch.Tensor, front_end: nn.Module, own: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Changed frames of ``values`` (B, frames, mel bins) or (B, samples), of which each clip has ``own`` (B,)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Gain(Augmentation):
    """Louder or softer by a number of dB from ``decibels``."""

    decibels: Sequence[float] = (-6.0, 6.0)

    def draw(self, size):
        return _uniform((size,), *self.decibels)

    def apply(self, values, front_end, own, drawn):
        return values * _factor(drawn, front_end).view(-1, *[1] * (values.dim() - 1))


@dataclass(frozen=True)
class FilterAugment(Augmentation):
    """A random filter (Nam et al., arXiv 2107.03649): ``bands`` (least and most) bands of random width, each at least
    ``min_width`` of all mel bins, with gains from ``decibels``. ``kind``: "step", or "linear" between the bands' edges."""

    decibels: Sequence[float] = (-6.0, 6.0)
    bands: Sequence[int] = (3, 6)
    min_width: float = 0.05
    kind: str = "linear"

    needs_mel = True
    POINTS: ClassVar[int] = 1024
    """The filter is drawn on this many points of the frequency axis and read where an input has its bins."""

    def __post_init__(self):
        super().__post_init__()
        check_choices(self, {"kind": ("linear", "step")})
        if not 1 <= self.bands[0] <= self.bands[1] or self.bands[1] * self.min_width > 1:
            raise ValueError(f"bands {tuple(self.bands)} of at least {self.min_width} do not fit side by side.")

    def draw(self, size):
        return torch.stack([self._filter() for _ in range(size)])

    def _filter(self) -> torch.Tensor:
        """dB at each of `POINTS` points."""
        count = int(torch.randint(self.bands[0], self.bands[1] + 1, ()))
        spare = torch.rand(count - 1).sort().values * (1 - count * self.min_width)
        inner = spare + self.min_width * torch.arange(1, count)
        at = (torch.arange(self.POINTS) + 0.5) / self.POINTS
        if self.kind == "step":
            return _uniform((count,), *self.decibels)[torch.bucketize(at, inner)]
        edges = torch.cat([torch.zeros(1), inner, torch.ones(1)])
        gains = _uniform((count + 1,), *self.decibels)
        band = torch.bucketize(at, inner)
        share = (at - edges[band]) / (edges[band + 1] - edges[band])
        return torch.lerp(gains[band], gains[band + 1], share)

    def apply(self, values, front_end, own, drawn):
        bins = values.shape[-1]
        points = ((torch.arange(bins) + 0.5) / bins * self.POINTS).long()
        return values * _factor(drawn[:, points.to(drawn.device)], front_end)[:, None]


@dataclass(frozen=True)
class FrequencyWarp(Augmentation):
    """A random stretch of the mel axis that is a share from ``scale`` of the whole, bicubic, stretched to the whole: the frequency
    part of RandomResizeCrop (Niizumi et al., arXiv 2103.06695; ATST-SED `rrc_module.py` with frequency scale 0.6 to 1).
    Done on the logarithm, so that it commutes with the encoder's scaling."""

    scale: Sequence[float] = (0.6, 1.0)

    needs_mel = True

    def draw(self, size):
        scale = _uniform((size,), *self.scale)
        return torch.stack([scale, torch.rand(size) * (1 - scale)], dim=1)

    def apply(self, values, front_end, own, drawn):
        s = front_end.settings
        log = (values.clamp(min=max(s.floor, 1e-12)) + s.log_offset).log()
        frames, bins = values.shape[1:]
        # Coordinates of grid_sample: -1 and 1 are the first and last bin, and frame.
        across = torch.linspace(0, 1, bins, device=values.device)
        x = 2 * (drawn[:, 1, None] + drawn[:, 0, None] * across) - 1
        y = torch.linspace(-1, 1, frames, device=values.device)
        grid = torch.stack(torch.broadcast_tensors(x[:, None], y[None, :, None].expand(len(values), -1, bins)), dim=-1)
        warped = nn.functional.grid_sample(
            log[:, None], grid, mode="bicubic", padding_mode="border", align_corners=True
        )
        return (warped[:, 0].exp() - s.log_offset).clamp(min=0)


@dataclass(frozen=True)
class TimeMask(Augmentation):
    """``count`` stretches of silence, each a share of the clip's own length from ``width`` (SpecAugment, arXiv 1904.08779;
    there filled with the mean). Targets stay."""

    width: Sequence[float] = (0.0, 0.1)
    count: int = 1

    def draw(self, size):
        return _stretches(size, self.count, self.width)

    def apply(self, values, front_end, own, drawn):
        at = (torch.arange(values.shape[1], device=values.device) + 0.5) / own[:, None]
        return values.masked_fill(_within(at, drawn).view(*values.shape[:2], *[1] * (values.dim() - 2)), 0.0)


@dataclass(frozen=True)
class FrequencyMask(Augmentation):
    """``count`` silent bands, each a share of the mel axis from ``width`` (SpecAugment)."""

    width: Sequence[float] = (0.0, 0.1)
    count: int = 1

    needs_mel = True

    def draw(self, size):
        return _stretches(size, self.count, self.width)

    def apply(self, values, front_end, own, drawn):
        bins = values.shape[-1]
        at = (torch.arange(bins, device=values.device) + 0.5).expand(len(values), -1) / bins
        return values.masked_fill(_within(at, drawn)[:, None], 0.0)


@dataclass(frozen=True)
class TimeShift:
    """Roll clips around their ends by a time from N(0, ``std``²) seconds, rounded to output frames; student, teacher and
    targets alike (DCASE baseline and PretrainedSED `frame_shift`)."""

    std: float = 1.0
    probability: float = 1.0

    def draw(self, size: int, frame_hop: float) -> torch.Tensor:
        """Frames (``size``,) by which each clip is shifted."""
        frames = (self.std * torch.randn(size) / frame_hop).round().long()
        return torch.where(torch.rand(size) < self.probability, frames, 0)

    @staticmethod
    def apply(
        config: SedConfig,
        frames: torch.Tensor,
        input_values: torch.Tensor,
        strong_targets: torch.Tensor,
        lengths: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Waveforms (B, samples) and targets (B, T, C) rolled by ``frames`` (B,) within each clip's own ``lengths`` (samples)."""
        size = input_values.shape[1]
        samples = torch.full_like(frames, size) if lengths is None else lengths
        own = config.num_frames(samples).clamp(1, strong_targets.shape[1])
        hop = round(config.frame_hop * config.sampling_rate)
        index = _rolled(size, samples, frames * hop)
        target_index = _rolled(strong_targets.shape[1], own, frames)
        return input_values.gather(1, index), strong_targets.gather(
            1, target_index[..., None].expand_as(strong_targets)
        )


AUGMENTATIONS: dict[str, type] = {
    "time_shift": TimeShift,
    "gain": Gain,
    "filter_augment": FilterAugment,
    "frequency_warp": FrequencyWarp,
    "time_mask": TimeMask,
    "frequency_mask": FrequencyMask,
}


def build_augmentation(values: Mapping) -> Augmentation | TimeShift:
    """One augmentation from its ``name`` and settings. Raises ValueError that names what is wrong."""
    values = dict(values)
    name = values.pop("name", None)
    if name not in AUGMENTATIONS:
        raise ValueError(f"augmentation {name!r}; expected a name of {', '.join(AUGMENTATIONS)}.")
    kind = AUGMENTATIONS[name]
    known = [f.name for f in fields(kind)]
    for key in values:
        if key not in known:
            raise ValueError(f"augmentation {name}: no setting {key!r}; {did_you_mean(key, known)}")
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"augmentation {name}: {error}") from error


class AugmentationChain:
    """What student and teacher hear of a batch.

    Args:
        settings: as in a recipe, see the module's description.
        front_ends: of the encoder and, where there is one, of the convolutional branch.

    Raises ValueError for settings that are not known, and for what needs a mel spectrogram on an encoder without one.
    """

    def __init__(self, settings: Sequence[Mapping], front_ends: Sequence[nn.Module]):
        chain = [(v["name"], build_augmentation(v)) for v in settings]
        self.shifts = [a for _, a in chain if isinstance(a, TimeShift)]
        self.chain = [a for _, a in chain if isinstance(a, Augmentation)]
        self.front_ends = list(front_ends)
        for name, augmentation in chain:
            if not isinstance(augmentation, Augmentation):
                continue
            if not self._places(augmentation):
                raise ValueError(f"augmentation {name}: inputs 'branch', but the detector has no convolutional branch.")
            for place in self._places(augmentation):
                if augmentation.needs_mel and not hasattr(self.front_ends[place], "settings"):
                    raise ValueError(f"augmentation {name}: the encoder reads waveforms, which have no mel axis.")

    def _places(self, augmentation: Augmentation) -> list[int]:
        names = INPUTS[: len(self.front_ends)]
        return [i for i, name in enumerate(names) if augmentation.inputs in ("all", name)]

    def shift(
        self,
        config: SedConfig,
        input_values: torch.Tensor,
        strong_targets: torch.Tensor,
        attention_mask: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Waveforms and strong targets after the shifts in time, which student and teacher share."""
        lengths = None if attention_mask is None else attention_mask.sum(1)
        for shift in self.shifts:
            frames = shift.draw(len(input_values), config.frame_hop).to(input_values.device)
            input_values, strong_targets = shift.apply(config, frames, input_values, strong_targets, lengths)
        return input_values, strong_targets

    def views(
        self, student: Spectrograms, teacher: Spectrograms | None, groups: torch.Tensor
    ) -> tuple[Spectrograms, Spectrograms | None]:
        """What the student and what the teacher (None: it does not listen) hears, of what each would hear without
        augmentation."""
        groups = groups.cpu()
        for augmentation in self.chain:
            draw = self._draw(augmentation, groups)
            student = self._apply(augmentation, student, *draw)
            if teacher is not None and augmentation.teacher != "clean":
                own = draw if augmentation.teacher == "same" else self._draw(augmentation, groups)
                teacher = self._apply(augmentation, teacher, *own)
        return student, teacher

    @staticmethod
    def _draw(augmentation: Augmentation, groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which clips are changed (B,), and the augmentation's own numbers (B, …)."""
        every = torch.arange(len(groups))
        unit = every if augmentation.per == "clip" else groups.unique(return_inverse=True)[1]
        count = int(unit.max()) + 1
        changed = torch.rand(count) < augmentation.probability
        return changed[unit], augmentation.draw(count)[unit]

    def _apply(
        self, augmentation: Augmentation, spectrograms: Spectrograms, changed: torch.Tensor, drawn: torch.Tensor
    ) -> Spectrograms:
        values = list(spectrograms.values)
        for place in self._places(augmentation):
            x, front_end = values[place], self.front_ends[place]
            own = torch.full((len(x),), x.shape[1], device=x.device)
            if spectrograms.lengths is not None:
                own = front_end.num_frames(spectrograms.lengths)
            y = augmentation.apply(x, front_end, own, drawn.to(x.device))
            values[place] = torch.where(changed.to(x.device).view(-1, *[1] * (x.dim() - 1)), y, x)
        return type(spectrograms)(tuple(values), spectrograms.samples, spectrograms.lengths)


def _uniform(size: tuple[int, ...], low: float, high: float) -> torch.Tensor:
    return low + (high - low) * torch.rand(size)


def _factor(decibels: torch.Tensor, front_end: nn.Module) -> torch.Tensor:
    """What dB multiply a front end's frames by: amplitudes (samples among them) by 10^(dB / 20), powers by its square."""
    power = front_end.settings.power if hasattr(front_end, "settings") else 1.0
    return 10.0 ** (decibels * power / 20.0)


def _stretches(size: int, count: int, width: Sequence[float]) -> torch.Tensor:
    """Starts and ends (``size``, ``count``, 2) of stretches of [0, 1]."""
    length = _uniform((size, count), *width)
    start = torch.rand(size, count) * (1 - length)
    return torch.stack([start, start + length], dim=-1)


def _within(at: torch.Tensor, stretches: torch.Tensor) -> torch.Tensor:
    """Which of the points (B, N) lie in one of the stretches (B, count, 2)."""
    return ((at[:, :, None] >= stretches[:, None, :, 0]) & (at[:, :, None] < stretches[:, None, :, 1])).any(-1)


def _rolled(size: int, own: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """Index (B, ``size``) that rolls each row's first ``own`` places by ``by`` and leaves the rest."""
    place = torch.arange(size, device=own.device).expand(len(own), -1)
    return torch.where(length_mask(own, size), (place - by[:, None]) % own[:, None], place)
