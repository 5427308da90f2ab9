"""hf_sed: sound event detectors from few labels, the Hugging Face way.

The path of a clip, and where each step lives:

    file -> `audio` -> `data.schema` row -> `data.batches` (waveforms, targets, masks)
    -> `models.front_ends` (linear mel) -> `training.mixup` -> `training.augmentation` -> encoder (`models.crnn`, …)
    -> `models.sed` (frame logits, clip probabilities, embeddings)
    -> `training.losses` -> `training.student_teacher` -> `training.trainer`
    or -> `inference.post_processing` -> `events` -> `metrics`, `inference.pipeline`, TSV, Space

Importing the package registers its configs and feature extractor with transformers; everything else is imported when it
is first used, so evaluate, datasets, peft and gradio may be absent.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .models.auto import register_configs

__version__ = "0.1.0"

_PUBLIC = {
    "audio": ["AudioError", "load_audio"],
    "events": [
        "AnnotationError",
        "Event",
        "events_to_targets",
        "read_annotations",
        "scores_to_events",
        "write_annotations",
    ],
    "data.desed": ["load_desed"],
    "data.folder": ["load_annotated_folder"],
    "data.soundscapes": ["SoundscapeSettings", "compose", "compose_to_disk"],
    "inference.pipeline": ["SoundEventDetectionPipeline", "pipeline"],
    "models.crnn.configuration_crnn": ["CrnnConfig"],
    "models.crnn.modeling_crnn": ["CrnnModel"],
    "models.atst.configuration_atst": ["AtstConfig"],
    "models.atst.modeling_atst": ["AtstModel"],
    "models.beats.configuration_beats": ["BeatsConfig"],
    "models.beats.modeling_beats": ["BeatsModel"],
    "models.frame_mobilenet.configuration_frame_mobilenet": ["FrameMobilenetConfig"],
    "models.frame_mobilenet.modeling_frame_mobilenet": ["FrameMobilenetModel"],
    "models.passt.configuration_passt": ["PasstConfig"],
    "models.passt.modeling_passt": ["PasstModel"],
    "models.yamnet.configuration_yamnet": ["YamnetConfig"],
    "models.yamnet.modeling_yamnet": ["YamnetModel"],
    "models.conversion": ["convert_checkpoint"],
    "models.sed.configuration_sed": ["SedConfig"],
    "models.sed.feature_extraction_sed": ["SedFeatureExtractor"],
    "models.sed.modeling_sed": ["SedForAudioFrameClassification", "SedModel"],
    "training.adapters": ["add_lora"],
    "training.arguments": ["SedTrainingArguments"],
    "training.trainer": ["SedTrainer"],
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = sorted(_MODULE_OF)

register_configs()


def __getattr__(name: str):
    if name in _MODULE_OF:
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


if TYPE_CHECKING:
    from .audio import AudioError, load_audio
    from .data.desed import load_desed
    from .data.folder import load_annotated_folder
    from .data.soundscapes import SoundscapeSettings, compose, compose_to_disk
    from .events import AnnotationError, Event, events_to_targets, read_annotations, scores_to_events, write_annotations
    from .inference.pipeline import SoundEventDetectionPipeline, pipeline
    from .models.atst.configuration_atst import AtstConfig
    from .models.atst.modeling_atst import AtstModel
    from .models.beats.configuration_beats import BeatsConfig
    from .models.beats.modeling_beats import BeatsModel
    from .models.conversion import convert_checkpoint
    from .models.crnn.configuration_crnn import CrnnConfig
    from .models.crnn.modeling_crnn import CrnnModel
    from .models.frame_mobilenet.configuration_frame_mobilenet import FrameMobilenetConfig
    from .models.frame_mobilenet.modeling_frame_mobilenet import FrameMobilenetModel
    from .models.passt.configuration_passt import PasstConfig
    from .models.passt.modeling_passt import PasstModel
    from .models.sed.configuration_sed import SedConfig
    from .models.sed.feature_extraction_sed import SedFeatureExtractor
    from .models.sed.modeling_sed import SedForAudioFrameClassification, SedModel
    from .models.yamnet.configuration_yamnet import YamnetConfig
    from .models.yamnet.modeling_yamnet import YamnetModel
    from .training.adapters import add_lora
    from .training.arguments import SedTrainingArguments
    from .training.trainer import SedTrainer
