"""Configuration of the sound event detector around any encoder."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from ...checks import check_choices
from ..auto import SedPreTrainedConfig
from ..crnn.configuration_crnn import CrnnConfig
from ..encoders import Encoder, encoder_of


class SedConfig(SedPreTrainedConfig):
    """A detector: front end and encoder (`backbone_config`), sequence model, frame-level heads, and what decoding needs.

    The defaults are the CRNN of ATST-SED (`CRNN_e2e.py:16-52`): a two-layer BiGRU of 128 units a direction, dropout
    0.5, attention pooling. Class names are ``id2label``/``label2id`` as everywhere in transformers; `labels=[…]` sets
    both.

    Args:
        backbone_config: config (or dict with `model_type`) of the encoder: one of this package's, or of transformers'
            (see `hf_sed.models.encoders`); default `CrnnConfig()`.
        cnn_branch: settings of a [`CrnnConfig`] for a second, convolutional branch beside the encoder, as in ATST-SED: the
            encoder's frames are brought to its frame rate, the two concatenated and merged by a linear layer as wide as
            the branch (`CRNN_e2e.py:83-98`). None: no branch.
        output_frame_hop: seconds between output frames, where it is not to be the encoder's (or the branch's) own. More
            encoder frames are averaged, fewer interpolated (PretrainedSED `prediction_wrapper.py`).
        sequence_model: "gru" (bidirectional) or "none".
        sequence_hidden_size: units a direction.
        dropout: before the heads.
        pooling: from frames to clips. "attention" (softmax over the classes weighs the frame probabilities), "mean" (of
            the frame probabilities) or "mean_embedding" (a linear head of its own on the mean of the frame embeddings, as
            in PretrainedSED and YAMNet).
        clip_length: seconds of a training clip; longer recordings are detected in windows of this length.
        thresholds: score above which a frame is active, one number or one a class.
        median_filter: length in seconds of the median filter on the frame scores, one number or one a class; 0 is none.
        low_thresholds, min_gap, min_duration, boxes: further post-processing, see
            `hf_sed.inference.post_processing.PostProcessing`.
    """

    model_type = "hf-sed"
    sub_configs = {"backbone_config": AutoConfig}

    backbone_config: dict | PreTrainedConfig | None = None
    cnn_branch: dict | None = None
    output_frame_hop: float | None = None
    sequence_model: str = "gru"
    sequence_hidden_size: int = 128
    sequence_layers: int = 2
    sequence_dropout: float | int = 0.0
    dropout: float | int = 0.5
    pooling: str = "attention"
    clip_length: float | int = 10.0
    thresholds: float | list[float] = 0.5
    median_filter: float | list[float] = 0.448
    low_thresholds: float | list[float] | None = None
    min_gap: float | list[float] = 0.0
    min_duration: float | list[float] = 0.0
    boxes: dict | None = None

    def __post_init__(self, labels: Sequence[str] | None = None, **kwargs):
        if self.backbone_config is None:
            self.backbone_config = {"model_type": "hf-sed-crnn"}
        if isinstance(self.backbone_config, dict):
            values = dict(self.backbone_config)
            model_type = values.pop("model_type", None)
            if model_type not in CONFIG_MAPPING:
                raise ValueError(
                    f"backbone_config: model_type {model_type!r} is not one that transformers or hf_sed knows."
                )
            self.backbone_config = CONFIG_MAPPING[model_type](**values)
        if self.cnn_branch is not None:
            # Stored complete, so that a default can never change under a model.
            self.cnn_branch = {
                k: v for k, v in CrnnConfig(**self.cnn_branch).to_dict().items() if k in CrnnConfig.__annotations__
            }
            if self.output_frame_hop is not None:
                raise ValueError("output_frame_hop: with a cnn_branch the frames are the branch's.")
        if self.output_frame_hop is not None and abs(self.output_frame_hop - self.encoder.frame_hop) < 1e-9:
            self.output_frame_hop = None
        rates = {e.sampling_rate for e in self.encoders}
        if len(rates) > 1:
            raise ValueError(f"encoder and cnn_branch take waveforms of different rates: {sorted(rates)} Hz.")
        if labels is not None:
            if isinstance(labels, str) or len(set(labels)) != len(labels) or not labels:
                raise ValueError(f"labels {labels!r}: expected a list of distinct class names.")
            kwargs["id2label"] = dict(enumerate(labels))
            kwargs["label2id"] = {label: i for i, label in enumerate(labels)}
        check_choices(self, {"sequence_model": ("gru", "none"), "pooling": ("attention", "mean", "mean_embedding")})
        super().__post_init__(**kwargs)
        if self.boxes is not None and not {"length"} <= set(self.boxes) <= {"length", "merge_abs", "merge_rel"}:
            raise ValueError(f"boxes {self.boxes}: expected length and, if wanted, merge_abs and merge_rel.")
        per_class = {
            n: getattr(self, n) for n in ("thresholds", "median_filter", "low_thresholds", "min_gap", "min_duration")
        }
        for name, value in {**per_class, **(self.boxes or {})}.items():
            if isinstance(value, list) and len(value) != self.num_labels:
                raise ValueError(f"{name} has {len(value)} values for {self.num_labels} classes.")

    @property
    def labels(self) -> list[str]:
        """Class names in the order of the model's outputs."""
        return [self.id2label[i] for i in range(self.num_labels)]

    @property
    def encoder(self) -> Encoder:
        """What the detector knows of its encoder."""
        return encoder_of(self.backbone_config)

    @property
    def encoders(self) -> list[Encoder]:
        """The encoder, and the convolutional branch where there is one."""
        branch = [] if self.cnn_branch is None else [Encoder(CrnnConfig(**self.cnn_branch))]
        return [self.encoder, *branch]

    @property
    def sampling_rate(self) -> int:
        """Hz of the waveforms that the model takes."""
        return self.encoder.sampling_rate

    @property
    def frame_hop(self) -> float:
        """Seconds between output frames."""
        return self.encoders[-1].frame_hop if self.output_frame_hop is None else self.output_frame_hop

    def num_frames(self, num_samples):
        """Output frames of a clip of ``num_samples`` samples; works on ints and integer tensors."""
        if self.output_frame_hop is None:
            return self.encoders[-1].num_frames(num_samples)
        return num_samples // round(self.output_frame_hop * self.sampling_rate)

    @property
    def encoded_size(self) -> int:
        """Width of what the sequence model reads: the encoder's frames, or those merged with the branch's."""
        return self.encoders[-1].hidden_size

    @property
    def hidden_size(self) -> int:
        """Width of the frame embeddings that the heads read."""
        return 2 * self.sequence_hidden_size if self.sequence_model == "gru" else self.encoded_size
