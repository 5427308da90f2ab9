"""Every registration with transformers' Auto classes, in one table.

transformers has no entry points: a library registers its classes when it is imported. Importing a model class costs
over a second (`transformers.modeling_utils`), so `import hf_sed` registers the configs and the feature extractor, and
the first config that is made (by a user, or by any `Auto….from_pretrained` or `pipeline` on a saved model, which all
start with the config) registers the model classes and the pipeline.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module

from transformers import AutoConfig, AutoFeatureExtractor, PreTrainedConfig

from .encoders import Encoder
from .front_ends import front_end_dict

TASK = "sound-event-detection"

# model_type -> (folder, config class, {Auto class: model class}, feature extractor class or None)
REGISTRY: dict[str, tuple[str, str, dict[str, str], str | None]] = {
    "hf-sed": (
        "sed",
        "SedConfig",
        {"AutoModel": "SedModel", "AutoModelForAudioFrameClassification": "SedForAudioFrameClassification"},
        "SedFeatureExtractor",
    ),
    "hf-sed-crnn": ("crnn", "CrnnConfig", {"AutoModel": "CrnnModel"}, None),
    "hf-sed-atst": ("atst", "AtstConfig", {"AutoModel": "AtstModel"}, None),
    "hf-sed-beats": ("beats", "BeatsConfig", {"AutoModel": "BeatsModel"}, None),
    "hf-sed-frame-mobilenet": (
        "frame_mobilenet",
        "FrameMobilenetConfig",
        {"AutoModel": "FrameMobilenetModel"},
        None,
    ),
    "hf-sed-passt": ("passt", "PasstConfig", {"AutoModel": "PasstModel"}, None),
    "hf-sed-yamnet": ("yamnet", "YamnetConfig", {"AutoModel": "YamnetModel"}, None),
}


class SedPreTrainedConfig(PreTrainedConfig):
    """Base of this package's configs; making one registers the model classes."""

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        register_models()


class EncoderConfig(SedPreTrainedConfig):
    """Base of the configs of this package's encoders. A subclass says how many frames its model makes (`feature_frames`,
    `frame_hop` in seconds) and how wide they are (`hidden_size`).

    Args:
        front_end: preset name or dict of constants, see `hf_sed.models.front_ends`; stored complete.
    """

    front_end: str | dict = "crnn"

    def __post_init__(self, **kwargs):
        self.front_end = front_end_dict(self.front_end)
        super().__post_init__(**kwargs)

    def num_frames(self, num_samples):
        """Output frames of a clip of ``num_samples`` samples; works on ints and integer tensors."""
        return Encoder(self).num_frames(num_samples)


def _load(folder: str, kind: str, name: str):
    return getattr(import_module(f"hf_sed.models.{folder}.{kind}_{folder}"), name)


@cache
def register_configs() -> None:
    """Register configs and feature extractors; called by `import hf_sed`."""
    for model_type, (folder, config, _, extractor) in REGISTRY.items():
        config_class = _load(folder, "configuration", config)
        AutoConfig.register(model_type, config_class, exist_ok=True)
        if extractor is not None:
            AutoFeatureExtractor.register(config_class, _load(folder, "feature_extraction", extractor), exist_ok=True)


@cache
def register_models() -> None:
    """Register model classes and the pipeline task."""
    import transformers
    from transformers.pipelines import PIPELINE_REGISTRY

    for folder, config, models, _ in REGISTRY.values():
        for auto_class, model in models.items():
            getattr(transformers, auto_class).register(
                _load(folder, "configuration", config), _load(folder, "modeling", model), exist_ok=True
            )
    from ..inference.pipeline import SoundEventDetectionPipeline

    PIPELINE_REGISTRY.register_pipeline(
        TASK,
        pipeline_class=SoundEventDetectionPipeline,
        pt_model=transformers.AutoModelForAudioFrameClassification,
        type="audio",
    )
