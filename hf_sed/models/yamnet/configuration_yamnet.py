"""Configuration of YAMNet."""

from __future__ import annotations

from ..auto import EncoderConfig

# (stride, output channels) of the layers after the first, which is a full convolution of stride 2
YAMNET_LAYERS = (
    (1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512), (1, 512), (1, 512), (1, 512), (1, 512), (1, 512),
    (2, 1024), (1, 1024),
)  # fmt: skip


class YamnetConfig(EncoderConfig):
    """YAMNet (TensorFlow models `research/audioset/yamnet/yamnet.py`): a MobileNet-v1 of depthwise separable convolutions,
    run over whole clips instead of patches of 0.96 s.

    Args:
        front_end: preset name or dict of constants, see `hf_sed.models.front_ends`; stored complete.
        layers: (stride, output channels) of each separable convolution.
        first_channels: output channels of the first convolution.
        out_layers: layers (1 is the first convolution, 14 the last) whose maps, averaged over frequency, make up a frame;
            coarser ones are repeated to the rate of the finest. (14,) is YAMNet's embedding, 0.32 s a frame; (6, 12, 14)
            gives frames of 0.08 s.
    """

    model_type = "hf-sed-yamnet"

    front_end: str | dict = "yamnet"
    first_channels: int = 32
    layers: list | tuple = YAMNET_LAYERS
    out_layers: list[int] | tuple[int, ...] = (14,)
    batch_norm_eps: float = 1e-4
    batch_norm_momentum: float = 0.01

    def __post_init__(self, **kwargs):
        self.layers = [list(layer) for layer in self.layers]
        self.out_layers = sorted(self.out_layers)
        if not self.out_layers or not {1, *range(2, len(self.layers) + 2)} >= set(self.out_layers):
            raise ValueError(f"out_layers {self.out_layers}; expected numbers from 1 to {len(self.layers) + 1}.")
        super().__post_init__(**kwargs)

    @property
    def channels(self) -> list[int]:
        """Output channels of each layer, the first convolution included."""
        return [self.first_channels, *(channels for _, channels in self.layers)]

    @property
    def strides(self) -> list[int]:
        """Mel frames a frame of each layer's map."""
        strides = [2]
        for stride, _ in self.layers:
            strides.append(strides[-1] * stride)
        return strides

    @property
    def hidden_size(self) -> int:
        """Width of the encoder's output."""
        return sum(self.channels[layer - 1] for layer in self.out_layers)

    @property
    def frame_hop(self) -> float:
        """Seconds between output frames."""
        stride = self.strides[self.out_layers[0] - 1]
        return self.front_end["hop_length"] * stride / self.front_end["sampling_rate"]

    def feature_frames(self, mel_frames):
        """Output frames of an input of ``mel_frames`` frames; works on ints and integer tensors."""
        return -(-mel_frames // self.strides[self.out_layers[0] - 1])
