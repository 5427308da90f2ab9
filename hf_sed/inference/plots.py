"""One picture: a clip's spectrogram with its true and its detected events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..events import Event, as_event
from ..models.front_ends import MelFrontEnd

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_events(
    waveform: np.ndarray,
    sampling_rate: int,
    detected: Iterable[Event | Mapping],
    true: Iterable[Event | Mapping] | None = None,
    labels: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """A matplotlib figure of samples (samples,) at ``sampling_rate``: log-mel spectrogram, and below it one row a class
    with detected events (full height, darker for a higher score) and true ones (outlined). Needs matplotlib."""
    from matplotlib.figure import Figure

    detected = [as_event(e) for e in detected]
    true = None if true is None else [as_event(e) for e in true]
    occurring = {e.label for e in detected} | {e.label for e in true or []}
    rows = [label for label in labels or sorted(occurring) if label in occurring]
    seconds = len(waveform) / sampling_rate
    settings = {
        "sampling_rate": sampling_rate,
        "win_length": 1024,
        "n_fft": 1024,
        "hop_length": 256,
        "num_mel_bins": 96,
        "f_max": sampling_rate / 2,
    }
    front_end = MelFrontEnd(settings)
    batch = torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32))[None]
    mel = front_end.scale(front_end(batch))[0].T.numpy()

    figure = Figure(figsize=(10, 3.2 + 0.34 * max(len(rows), 1)), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2.4, 0.3 + 0.34 * max(len(rows), 1)])
    upper.imshow(mel, origin="lower", aspect="auto", extent=(0, seconds, 0, mel.shape[0]), cmap="magma")
    upper.set_yticks([])
    upper.set_ylabel("mel frequency")
    if title:
        upper.set_title(title, loc="left")
    for event in detected:
        lower.barh(
            rows.index(event.label),
            event.offset - event.onset,
            left=event.onset,
            height=0.8,
            color="tab:blue",
            alpha=0.35 + 0.65 * (event.score or 1.0),
        )
    for event in true or []:
        lower.barh(
            rows.index(event.label),
            event.offset - event.onset,
            left=event.onset,
            height=0.8,
            facecolor="none",
            edgecolor="black",
            linewidth=1.6,
        )
    lower.set_yticks(range(len(rows)), rows)
    lower.set_ylim(len(rows) - 0.4 if rows else 1, -0.6)
    lower.set_xlim(0, seconds)
    lower.set_xlabel("seconds" + (" (blue: detected, black outline: true)" if true is not None else ""))
    return figure
