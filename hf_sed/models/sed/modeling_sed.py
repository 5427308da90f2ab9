"""The sound event detector: waveforms in, frame logits, clip probabilities and frame embeddings out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.utils import ModelOutput, can_return_tuple

from ..front_ends import MelFrontEnd
from ..initialization import init_like_torch
from .configuration_sed import SedConfig
from .loss_sed import strong_bce, weak_bce

IGNORED = -100.0
"""Target value that means "not known": a clip whose targets hold it does not enter that loss."""


@dataclass
class SedModelOutput(ModelOutput):
    """``last_hidden_state`` (B, T, D): frame embeddings; ``frame_mask`` (B, T): true for a clip's own frames, None
    where no clip is padded; ``hidden_states``: the encoder's output and the embeddings, if asked."""

    last_hidden_state: torch.FloatTensor | None = None
    frame_mask: torch.BoolTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class SedOutput(ModelOutput):
    """What the detector gives.

    Args:
        loss: supervised loss where labels were given.
        logits (B, T, C): frame logits; their sigmoid is the strong probability.
        clip_probabilities (B, C): weak probabilities, pooled from the frames.
        embeddings (B, T, D): frame embeddings, what the heads read before dropout.
        frame_mask (B, T): true for a clip's own frames; None where no clip is padded.
        hidden_states: the encoder's output and the embeddings, if asked.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    clip_probabilities: torch.FloatTensor | None = None
    embeddings: torch.FloatTensor | None = None
    frame_mask: torch.BoolTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None


class SedPreTrainedModel(PreTrainedModel):
    config_class = SedConfig
    base_model_prefix = "model"
    main_input_name = "input_values"
    input_modalities = ("audio",)
    # In bfloat16 the filter bank would lose most of its digits.
    _keep_in_fp32_modules_strict = ["front_end"]

    def _init_weights(self, module):
        super()._init_weights(module)
        init_like_torch(module)


class SedModel(SedPreTrainedModel):
    """Front end, encoder and sequence model: frame embeddings of waveforms."""

    def __init__(self, config: SedConfig):
        super().__init__(config)
        self.front_end = MelFrontEnd(config.backbone_config.front_end)
        self.backbone = AutoModel.from_config(config.backbone_config)
        self.sequence_model = None
        if config.sequence_model == "gru":
            self.sequence_model = nn.GRU(
                config.backbone_config.hidden_size,
                config.sequence_hidden_size,
                config.sequence_layers,
                batch_first=True,
                bidirectional=True,
                dropout=config.sequence_dropout if config.sequence_layers > 1 else 0.0,
            )
        self.post_init()

    @torch.no_grad()
    def spectrogram(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Linear mel spectrogram (B, mel frames, mel bins) of waveforms (B, samples) and its mask (B, mel frames).

        This is what mixup mixes. ``attention_mask`` (B, samples) is 1 for a clip's own samples, which must be its
        first; the mask is None where no clip is padded.
        """
        lengths = None
        if attention_mask is not None:
            lengths = attention_mask.sum(1)
            if bool((lengths == attention_mask.shape[1]).all()):
                lengths = None
        mel = self.front_end(input_values, lengths)
        return mel, None if lengths is None else self.front_end.frame_mask(lengths, mel.shape[1])

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        spectrogram: torch.Tensor | None = None,
        spectrogram_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> SedModelOutput:
        """Embed waveforms ``input_values`` (B, samples), or the linear mel ``spectrogram`` that `spectrogram` gave."""
        if spectrogram is None:
            if input_values is None:
                raise ValueError("give input_values (waveforms) or spectrogram.")
            spectrogram, spectrogram_mask = self.spectrogram(input_values, attention_mask)
        features = self.front_end.scale(spectrogram, spectrogram_mask).to(self.backbone.dtype)
        encoded = self.backbone(features, attention_mask=spectrogram_mask).last_hidden_state
        frame_mask = None
        if spectrogram_mask is not None:
            lengths = self.config.backbone_config.feature_frames(spectrogram_mask.sum(1))
            frame_mask = torch.arange(encoded.shape[1], device=encoded.device) < lengths[:, None]
        hidden = encoded if self.sequence_model is None else self._run_sequence_model(encoded, frame_mask)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return SedModelOutput(hidden, frame_mask, (encoded, hidden) if wanted else None)

    def _run_sequence_model(self, encoded: torch.Tensor, frame_mask: torch.Tensor | None) -> torch.Tensor:
        if frame_mask is None:
            return self.sequence_model(encoded)[0]
        # Packed, the backward direction starts at each clip's own last frame.
        lengths = frame_mask.sum(1).clamp(min=1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(encoded, lengths, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(
            self.sequence_model(packed)[0], batch_first=True, total_length=encoded.shape[1]
        )[0]


class SedForAudioFrameClassification(SedPreTrainedModel):
    """A detector with a strong (frame) and a weak (clip) output; load, train, `save_pretrained` and share this one."""

    def __init__(self, config: SedConfig):
        super().__init__(config)
        self.model = SedModel(config)
        self.dropout = nn.Dropout(config.dropout)
        self.strong_head = nn.Linear(config.hidden_size, config.num_labels)
        self.attention_head = (
            nn.Linear(config.hidden_size, config.num_labels) if config.pooling == "attention" else None
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        clip_labels: torch.Tensor | None = None,
        spectrogram: torch.Tensor | None = None,
        spectrogram_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> SedOutput:
        """Detect events in waveforms.

        Args:
            input_values (B, samples): mono float32 at `config.sampling_rate`; or give ``spectrogram``, see
                [`SedModel.forward`].
            attention_mask (B, samples): 1 for a clip's own samples, which come first. Padding changes nothing in them.
            labels (B, T, C): strong targets in [0, 1]; a clip that holds -100 has none.
            clip_labels (B, C): weak targets in [0, 1]; a clip that holds -100 has none.
        """
        base = self.model(input_values, attention_mask, spectrogram, spectrogram_mask, output_hidden_states)
        embeddings, mask = base.last_hidden_state, base.frame_mask
        hidden = self.dropout(embeddings)
        logits = self.strong_head(hidden)
        clip_probabilities = self._pool(logits, hidden, mask)
        loss = None
        if labels is not None:
            loss = strong_bce(logits, labels, _known(labels), mask)
        if clip_labels is not None:
            weak = weak_bce(clip_probabilities, clip_labels, _known(clip_labels))
            loss = weak if loss is None else loss + weak
        return SedOutput(loss, logits, clip_probabilities, embeddings, mask, base.hidden_states)

    def _pool(self, logits: torch.Tensor, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Clip probabilities (B, C): frame probabilities weighed by a softmax over the classes (ATST-SED
        `CRNN_e2e.py:103-110`), or their mean."""
        strong = logits.float().sigmoid()
        if self.attention_head is None:
            weights = torch.ones_like(strong)
        else:
            weights = self.attention_head(hidden).float().softmax(dim=-1).clamp(min=1e-7, max=1.0)
        if mask is not None:
            weights = weights * mask[..., None]
        return (strong * weights).sum(1) / weights.sum(1)


def _known(targets: torch.Tensor) -> torch.Tensor:
    return (targets != IGNORED).flatten(1).all(1).float()
