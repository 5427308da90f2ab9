"""Tiny encoders of every family, with random weights."""

from transformers import ASTConfig, Data2VecAudioConfig, HubertConfig, Wav2Vec2Config, WavLMConfig, WhisperConfig

from hf_sed import AtstConfig, BeatsConfig, CrnnConfig, FrameMobilenetConfig, PasstConfig, YamnetConfig
from hf_sed.models.front_ends import FRONT_END_PRESETS, front_end_dict

_VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
_SPEECH = {
    **_VIT, "conv_dim": (8, 8, 8), "conv_kernel": (10, 8, 8), "conv_stride": (5, 8, 8), "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "layerdrop": 0.0, "apply_spec_augment": False,
}  # fmt: skip


def front_end(preset: str, bins: int) -> dict:
    return {**front_end_dict(FRONT_END_PRESETS[preset]), "num_mel_bins": bins}


def tiny_encoders() -> dict:
    """Name -> config, all at 16 kHz."""
    return {
        "crnn": CrnnConfig(front_end=front_end("crnn", 16), conv_filters=[4, 6], pooling=[[2, 4], [2, 4]]),
        "atst": AtstConfig(front_end=front_end("atst", 16), max_frames=60, **_VIT),
        "atst-interpolated": AtstConfig(
            front_end=front_end("atst", 16), max_frames=60, long_clips="interpolate", **_VIT
        ),
        "beats": BeatsConfig(front_end=front_end("beats", 32), patch_channels=8, conv_positions=8, conv_position_groups=2, **_VIT),
        "beats-tokens": BeatsConfig(
            front_end=front_end("beats", 32), patch_channels=8, conv_positions=8, conv_position_groups=2, frames="tokens", **_VIT
        ),
        "passt": PasstConfig(front_end=front_end("passt", 16), conv_channels=[2, 4, 8], max_frames=60, **_VIT),
        "frame-mobilenet": FrameMobilenetConfig(
            front_end=front_end("frame_mobilenet", 16), width=0.5,
            blocks=[(3, 16, 16, False, "relu", 1, 1), (5, 48, 24, True, "relu", 2, 2), (3, 48, 24, True, "hardswish", 1, 1)],
        ),
        "yamnet": YamnetConfig(
            front_end=front_end("yamnet", 16), first_channels=4, layers=[(1, 6), (2, 8), (1, 8), (2, 10)], out_layers=[2, 4, 5]
        ),
        "ast": ASTConfig(num_mel_bins=32, max_length=200, **_VIT),
        "wav2vec2": Wav2Vec2Config(feat_extract_norm="layer", do_stable_layer_norm=True, **_SPEECH),
        "wav2vec2-group": Wav2Vec2Config(**_SPEECH),
        "hubert": HubertConfig(feat_extract_norm="layer", **_SPEECH),
        "wavlm": WavLMConfig(feat_extract_norm="layer", **_SPEECH),
        "data2vec-audio": Data2VecAudioConfig(**{k: v for k, v in _SPEECH.items() if k != "num_conv_pos_embedding_groups"},
                                              num_conv_pos_embedding_groups=2, conv_pos_kernel_size=5),
        "whisper": WhisperConfig(
            d_model=16, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=24, decoder_layers=1,
            decoder_attention_heads=2, decoder_ffn_dim=24, max_source_positions=150, num_mel_bins=16, vocab_size=32,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, encoder_layerdrop=0.0,
        ),
    }  # fmt: skip
