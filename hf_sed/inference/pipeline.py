"""`pipeline("sound-event-detection", model=…)`: recordings of any length to events in seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from transformers.pipelines import pipeline  # re-exported: `from hf_sed import pipeline` also registers the task
from transformers.pipelines.base import ChunkPipeline

from ..audio import AudioSource
from .post_processing import PostProcessing
from .windows import join_windows, window_borders

__all__ = ["SoundEventDetectionPipeline", "pipeline"]


class SoundEventDetectionPipeline(ChunkPipeline):
    """Detect sound events.

    Calls take a path, encoded bytes, ``{"array" | "raw": samples, "sampling_rate": Hz}``, or a list of them, and give
    for each a list of ``{"label", "onset", "offset", "score"}`` sorted by onset; times are seconds, ``score`` is the
    mean probability of the event's frames. What is longer than the model's clips is cut into overlapping windows.

    Call parameters:
        thresholds: replaces the saved ones; one number or one a class.
        median_filter: replaces the saved lengths in seconds; one number or one a class.
        boxes: decode with sound event bounding boxes of these settings, see
            [`hf_sed.inference.post_processing.PostProcessing`].
        overlap: seconds by which windows overlap; default a fifth of the window.
        return_scores: give ``{"events", "scores", "frame_hop", "duration"}`` instead, with the unfiltered frame scores
            (frames, classes).
    """

    _load_feature_extractor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_processor = False

    def _sanitize_parameters(
        self,
        thresholds: float | Sequence[float] | None = None,
        median_filter: float | Sequence[float] | None = None,
        boxes: Mapping[str, float | Sequence[float]] | None = None,
        overlap: float | None = None,
        return_scores: bool | None = None,
    ):
        decoding = {
            "thresholds": thresholds,
            "median_lengths": median_filter,
            "boxes": boxes,
            "return_scores": return_scores,
        }
        return {} if overlap is None else {"overlap": overlap}, {}, {k: v for k, v in decoding.items() if v is not None}

    def preprocess(self, source: AudioSource, overlap: float | None = None):
        config, rate = self.model.config, self.feature_extractor.sampling_rate
        inputs = self.feature_extractor(source, return_tensors="pt")
        samples = inputs["input_values"].shape[1]
        frame = round(config.frame_hop * rate)
        window = round(config.clip_length * rate)
        overlap = config.clip_length / 5 if overlap is None else overlap
        borders = window_borders(samples, window, round(overlap * rate), frame)
        for number, (start, stop) in enumerate(borders):
            yield {
                "input_values": inputs["input_values"][:, start:stop],
                "attention_mask": torch.ones(1, stop - start, dtype=torch.long),
                "place": torch.tensor([[start // frame, config.num_frames(stop - start), samples]]),
                "is_last": number == len(borders) - 1,
            }

    def _forward(self, model_inputs):
        last, place = model_inputs.pop("is_last"), model_inputs.pop("place")
        logits = self.model(**model_inputs).logits
        return {"scores": logits.float().sigmoid(), "place": place, "is_last": last}

    def postprocess(self, windows, thresholds=None, median_lengths=None, boxes=None, return_scores: bool = False):
        config = self.model.config
        parts = []
        for window in windows:
            first, frames, samples = (int(v) for v in window["place"][0])
            parts.append((first, window["scores"][0, :frames].numpy().astype(np.float32)))
        scores, duration = join_windows(parts), samples / self.feature_extractor.sampling_rate
        decoder = PostProcessing.of(config, thresholds=thresholds, median_filter=median_lengths, boxes=boxes)
        events = decoder.events(scores, duration)
        events = [event.as_dict() for event in events]
        if return_scores:
            return {"events": events, "scores": scores, "frame_hop": config.frame_hop, "duration": duration}
        return events
