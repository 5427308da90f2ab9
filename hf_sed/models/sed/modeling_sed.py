"""The sound event detector: waveforms in, frame logits, clip probabilities and frame embeddings out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import ModelOutput, can_return_tuple

from ..crnn.configuration_crnn import CrnnConfig
from ..encoders import FOR_DETECTION, at_least_one, build_encoder, to_frames, without_unused
from ..front_ends import build_front_end
from ..initialization import init_like_torch
from ..masks import length_mask
from .configuration_sed import SedConfig
from .loss_sed import strong_bce, weak_bce

if TYPE_CHECKING:
    from ...training.mixup import MixPlan

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


@dataclass(frozen=True)
class Spectrograms:
    """What mixup mixes and the encoders read: front-end frames of a batch, before they are scaled.

    Args:
        values: of the encoder, and of the convolutional branch where there is one: linear mel spectrograms (B, frames, mel
            bins), or waveforms (B, samples) for an encoder that reads those.
        samples: of the padded batch.
        lengths (B,): samples of each clip, its first; None where no clip is padded.
    """

    values: tuple[torch.Tensor, ...]
    samples: int
    lengths: torch.Tensor | None = None

    def mixed(self, plan: MixPlan) -> Spectrograms:
        """The spectrograms of mixed clips."""
        return Spectrograms(tuple(plan.mix(v) for v in self.values), self.samples, plan.lengths(self.lengths))


class SedPreTrainedModel(PreTrainedModel):
    config_class = SedConfig
    base_model_prefix = "model"
    main_input_name = "input_values"
    input_modalities = ("audio",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # In bfloat16 the filter bank would lose most of its digits.
    _keep_in_fp32_modules_strict = ["front_end"]

    def _init_weights(self, module):
        super()._init_weights(module)
        init_like_torch(module)

    def save_pretrained(self, *args, **kwargs):
        """As everywhere in transformers, under the tensors' present names: those that some encoders had in older versions
        are not what Trainer reads back (transformers #43701)."""
        kwargs.setdefault("save_original_format", False)
        return super().save_pretrained(*args, **kwargs)


class SedModel(SedPreTrainedModel):
    """Front end, encoder, convolutional branch and sequence model: frame embeddings of waveforms."""

    def __init__(self, config: SedConfig):
        super().__init__(config)
        self.front_end = build_front_end(config.encoder.front_end)
        self.backbone = build_encoder(config.backbone_config)
        self.cnn_front_end = self.cnn_branch = self.merge = None
        if config.cnn_branch is not None:
            self.cnn_front_end = build_front_end(config.cnn_branch["front_end"])
            self.cnn_branch = AutoModel.from_config(CrnnConfig(**config.cnn_branch))
            self.merge = nn.Linear(sum(e.hidden_size for e in config.encoders), config.encoded_size)
        self.sequence_model = None
        if config.sequence_model == "gru":
            self.sequence_model = nn.GRU(
                config.encoded_size,
                config.sequence_hidden_size,
                config.sequence_layers,
                batch_first=True,
                bidirectional=True,
                dropout=config.sequence_dropout if config.sequence_layers > 1 else 0.0,
            )
        self.post_init()

    @torch.no_grad()
    def spectrograms(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Spectrograms:
        """Front-end frames of waveforms (B, samples), before they are scaled.

        ``attention_mask`` (B, samples) is 1 for a clip's own samples, which must be its first.
        """
        lengths = None
        if attention_mask is not None:
            lengths = attention_mask.sum(1)
            if bool((lengths == attention_mask.shape[1]).all()):
                lengths = None
        front_ends = [f for f in (self.front_end, self.cnn_front_end) if f is not None]
        return Spectrograms(tuple(f(input_values, lengths) for f in front_ends), input_values.shape[1], lengths)

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        spectrograms: Spectrograms | None = None,
        output_hidden_states: bool | None = None,
    ) -> SedModelOutput:
        """Embed waveforms ``input_values`` (B, samples), or what `spectrograms` gave."""
        if spectrograms is None:
            if input_values is None:
                raise ValueError("give input_values (waveforms) or spectrograms.")
            spectrograms = self.spectrograms(input_values, attention_mask)
        lengths, encoder = spectrograms.lengths, self.config.encoder
        features, mask = self._features(self.front_end, spectrograms.values[0], lengths)
        encoded = encoder.encode(self.backbone, features.to(self.backbone.dtype), mask)
        frames = at_least_one(self.config.num_frames(spectrograms.samples))
        own = own_encoded = frame_mask = None
        if lengths is not None:
            own = at_least_one(self.config.num_frames(lengths))
            own_encoded = at_least_one(encoder.num_frames(lengths))
            frame_mask = length_mask(own, frames)
        if frames != encoded.shape[1] or (own is not None and bool((own != own_encoded).any())):
            encoded = to_frames(encoded, frames, own_encoded, own)
        if frame_mask is not None:
            encoded = encoded * frame_mask[..., None]
        merged = encoded
        if self.cnn_branch is not None:
            features, mask = self._features(self.cnn_front_end, spectrograms.values[1], lengths)
            local = self.cnn_branch(features.to(self.backbone.dtype), attention_mask=mask).last_hidden_state
            merged = self.merge(torch.cat([local, encoded], dim=-1))
        hidden = merged if self.sequence_model is None else self._run_sequence_model(merged, frame_mask)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return SedModelOutput(hidden, frame_mask, (encoded, hidden) if wanted else None)

    def _features(
        self, front_end: nn.Module, values: torch.Tensor, lengths: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        mask = None if lengths is None else front_end.frame_mask(lengths, values.shape[1])
        return front_end.scale(values, mask), mask

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
        size = (config.hidden_size, config.num_labels)
        self.attention_head = nn.Linear(*size) if config.pooling == "attention" else None
        self.weak_head = nn.Linear(*size) if config.pooling == "mean_embedding" else None
        self.post_init()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *model_args,
        labels: Sequence[str] | None = None,
        config: SedConfig | None = None,
        **kwargs,
    ) -> SedForAudioFrameClassification:
        """A trained detector, or a new one on a pretrained encoder.

        Args:
            pretrained_model_name_or_path: folder or hub id of a detector, or of an audio encoder (one of this package's,
                e.g. made by `hf-sed convert`, or of transformers').
            labels: class names. Of a detector: its heads become new ones, unless it has exactly these classes.
            kwargs: further settings of [`SedConfig`] (``cnn_branch=…``, ``sequence_model=…``; of a detector only those that
                change no tensor); those of its encoder as ``backbone_settings={…}``; and `PreTrainedModel.from_pretrained`'s own arguments.

        Raises ValueError for an encoder without ``labels``, and for a checkpoint that leaves a tensor of the model without
        its value or holds one that the model has no place for, heads aside.
        """
        name = pretrained_model_name_or_path
        hub = {k: kwargs[k] for k in _HUB_ARGUMENTS if k in kwargs}
        settings = {k: kwargs.pop(k) for k in _sed_settings() if k in kwargs}
        backbone_settings = kwargs.pop("backbone_settings", {})
        found = config if config is not None else AutoConfig.from_pretrained(name, **hub)
        if not isinstance(found, SedConfig):
            if labels is None:
                raise ValueError(
                    f"{name}: is an encoder ({found.model_type}) and knows no classes; give them: "
                    f"{cls.__name__}.from_pretrained({str(name)!r}, labels=[…])."
                )
            for key in backbone_settings:
                if not hasattr(found, key):
                    raise ValueError(f"backbone_settings: {type(found).__name__} has no setting {key!r}.")
            suited = {k: v for k, v in FOR_DETECTION.items() if hasattr(found, k)}
            found = type(found)(**{**found.to_dict(), **suited, **backbone_settings})
            return cls._on_encoder(name, SedConfig(backbone_config=found, labels=labels, **settings), hub, kwargs)
        if backbone_settings:
            raise ValueError(
                f"{name}: is a detector, whose encoder is as it was trained; backbone_settings are for encoders."
            )
        values = found.to_dict()
        new_heads = labels is not None and list(labels) != found.labels
        if new_heads:
            for key in ("id2label", "label2id", "num_labels", *_PER_CLASS):
                values.pop(key, None)
            values["labels"] = list(labels)
        values |= settings
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs["key_mapping"] = {**_ADAPTER_KEYS, **(kwargs.get("key_mapping") or {})}
        model, info = super().from_pretrained(
            name,
            *model_args,
            config=SedConfig(**values),
            output_loading_info=True,
            ignore_mismatched_sizes=new_heads,
            **kwargs,
        )
        heads = ("strong_head.", "attention_head.", "weak_head.")
        _require_complete(name, info, new=heads if new_heads else (), mismatched_may=heads if new_heads else ())
        if new_heads:  # also where the number of classes is the old one
            for head in heads:
                if getattr(model, head[:-1]) is not None:
                    getattr(model, head[:-1]).reset_parameters()
        return (model, info) if wants_info else model

    @classmethod
    def _on_encoder(cls, name, config: SedConfig, hub: dict, kwargs: dict) -> SedForAudioFrameClassification:
        wants_info = kwargs.pop("output_loading_info", False)
        loaded, info = AutoModel.from_pretrained(
            name, config=config.backbone_config, output_loading_info=True, **{**hub, **kwargs}
        )
        encoder = loaded.encoder if config.backbone_config.model_type == "whisper" else loaded
        # What a checkpoint holds beside its encoder are heads of other tasks.
        own = {n.split(".")[0] for n, _ in loaded.named_parameters()}
        prefix = f"{loaded.base_model_prefix}."
        unexpected = [k for k in info["unexpected_keys"] if k.removeprefix(prefix).split(".")[0] in own]
        _require_complete(name, {**info, "unexpected_keys": unexpected}, new=("masked_spec_embed",))
        config.dtype = encoder.dtype
        model = cls(config).to(encoder.dtype)
        model.model.front_end.float()
        if model.model.cnn_front_end is not None:
            model.model.cnn_front_end.float()
        model.model.backbone = without_unused(encoder)
        model.eval()
        return (model, info) if wants_info else model

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        clip_labels: torch.Tensor | None = None,
        spectrograms: Spectrograms | None = None,
        output_hidden_states: bool | None = None,
    ) -> SedOutput:
        """Detect events in waveforms.

        Args:
            input_values (B, samples): mono float32 at `config.sampling_rate`; or give ``spectrograms``, see
                [`SedModel.spectrograms`].
            attention_mask (B, samples): 1 for a clip's own samples, which come first. Padding changes nothing in them.
            labels (B, T, C): strong targets in [0, 1]; a clip that holds -100 has none.
            clip_labels (B, C): weak targets in [0, 1]; a clip that holds -100 has none.
        """
        base = self.model(input_values, attention_mask, spectrograms, output_hidden_states)
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
        `CRNN_e2e.py:103-110`), their mean, or those of the mean embedding."""
        if self.weak_head is not None:
            valid = torch.ones_like(hidden[..., :1]) if mask is None else mask[..., None].to(hidden.dtype)
            return self.weak_head((hidden * valid).sum(1) / valid.sum(1)).float().sigmoid()
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


_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
_ADAPTER_KEYS = {r"(lora_magnitude_vector\.[^.]+)$": r"\1.weight"}
"""DoRA's magnitudes: the name that transformers 5.23 gives what peft has saved lacks its end."""
_PER_CLASS = ("thresholds", "median_filter", "low_thresholds", "min_gap", "min_duration", "boxes")


def _sed_settings() -> set[str]:
    return set(SedConfig.__annotations__) - {"model_type"}


def _require_complete(name, info: dict, new: tuple[str, ...] = (), mismatched_may: tuple[str, ...] = ()) -> None:
    """Raise ValueError where loading left tensors out, ``new`` ones (by the start of their names) aside."""
    missing = [k for k in info["missing_keys"] if not k.startswith(new)] if new else list(info["missing_keys"])
    mismatched = [k if isinstance(k, str) else k[0] for k in info.get("mismatched_keys", ())]
    wrong = [f"{k} is missing" for k in missing]
    wrong += [f"{k} has another shape" for k in mismatched if not (mismatched_may and k.startswith(mismatched_may))]
    wrong += [f"{k} has no place in the model" for k in info["unexpected_keys"]]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"{name}: the checkpoint does not fit its config: {', '.join(wrong[:3])}{more}.")
