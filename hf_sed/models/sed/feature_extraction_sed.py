"""Feature extractor: any audio source to padded waveforms. Mel features are the model's business."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import BatchFeature, SequenceFeatureExtractor

from ...audio import AudioSource, load_audio


class SedFeatureExtractor(SequenceFeatureExtractor):
    """Loads, mixes down, resamples and pads audio.

    Args:
        sampling_rate: Hz of the model's waveforms.
    """

    model_input_names = ["input_values", "attention_mask"]

    def __init__(self, feature_size: int = 1, sampling_rate: int = 16000, padding_value: float = 0.0, **kwargs):
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)

    def __call__(
        self,
        audio: AudioSource | Sequence[AudioSource],
        sampling_rate: int | None = None,
        padding: bool | str = True,
        max_length: int | None = None,
        return_tensors: str | None = None,
        **kwargs,
    ) -> BatchFeature:
        """One source or a list of them (see [`hf_sed.audio.load_audio`]) to ``input_values`` (B, samples) and
        ``attention_mask``. ``sampling_rate`` (Hz) is that of bare arrays, which are resampled where it differs."""
        waveforms = []
        for source in _as_list(audio):
            if hasattr(source, "detach"):
                source = source.detach().cpu().numpy()
            elif isinstance(source, list | tuple):
                source = np.asarray(source, dtype=np.float32)
            if isinstance(source, np.ndarray) and sampling_rate is not None:
                source = {"array": source, "sampling_rate": sampling_rate}
            waveforms.append(load_audio(source, self.sampling_rate))
        return self.pad(
            BatchFeature({"input_values": waveforms}),
            padding=padding,
            max_length=max_length,
            return_attention_mask=True,
            return_tensors=return_tensors,
            **kwargs,
        )


def _as_list(audio: AudioSource | Sequence[AudioSource]) -> Sequence[AudioSource]:
    """The sources of a call: a list of them as it is, a single one (also a bare list of samples) in a list."""
    if isinstance(audio, list | tuple):
        return [audio] if len(audio) and isinstance(audio[0], int | float) else audio
    single_array = getattr(audio, "ndim", 1) == 1
    return [audio] if single_array else audio
