"""Configuration of Frame-MobileNet."""

from __future__ import annotations

from ..auto import EncoderConfig

# (kernel, expanded channels, output channels, squeeze and excitation, activation, frequency stride, time stride) at width 1:
# MobileNetV3-Large (Howard et al. 2019, arXiv 1905.02244, table 1) with the strides of PretrainedSED `frame_mn/model.py`.
MOBILENET_BLOCKS = (
    (3, 16, 16, False, "relu", 1, 1), (3, 64, 24, False, "relu", 2, 2), (3, 72, 24, False, "relu", 2, 1),
    (5, 72, 40, True, "relu", 1, 1), (5, 120, 40, True, "relu", 1, 1), (5, 120, 40, True, "relu", 2, 1),
    (3, 240, 80, False, "hardswish", 1, 1), (3, 200, 80, False, "hardswish", 2, 1), (3, 184, 80, False, "hardswish", 1, 1),
    (3, 184, 80, False, "hardswish", 1, 1), (3, 480, 112, True, "hardswish", 2, 1), (3, 672, 112, True, "hardswish", 1, 1),
    (5, 672, 160, True, "hardswish", 1, 1), (5, 960, 160, True, "hardswish", 1, 1), (5, 960, 160, True, "hardswish", 2, 1),
)  # fmt: skip


def scaled(channels: float, divisor: int = 8) -> int:
    """Channels rounded to a multiple of 8, never down by more than a tenth (MobileNet's rule)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


class FrameMobilenetConfig(EncoderConfig):
    """Frame-MobileNet (PretrainedSED, arXiv 2409.09546; `models/frame_mn/`): a MobileNet-v3 that pools frequency away and keeps
    a frame for every 4 mel frames.

    Args:
        front_end: preset name or dict of constants, see `hf_sed.models.front_ends`; stored complete.
        width: factor of all channels (0.6 is `frame_mn06`, 1 `frame_mn10`).
        blocks: (kernel, expanded channels, output channels, squeeze and excitation, activation, frequency stride, time
            stride) of each inverted residual, at width 1.
        first_channels: of the first convolution, at width 1.
    """

    model_type = "hf-sed-frame-mobilenet"

    front_end: str | dict = "frame_mobilenet"
    width: float | int = 1.0
    first_channels: int = 16
    blocks: list | tuple = MOBILENET_BLOCKS
    batch_norm_eps: float = 1e-3
    batch_norm_momentum: float = 0.01

    def __post_init__(self, **kwargs):
        self.blocks = [list(block) for block in self.blocks]
        super().__post_init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """Width of the encoder's output: six times that of the last block."""
        return 6 * scaled(self.blocks[-1][2] * self.width)

    @property
    def time_strides(self) -> list[int]:
        """Of the first convolution and of each block."""
        return [2, *(block[6] for block in self.blocks)]

    @property
    def frame_hop(self) -> float:
        """Seconds between output frames."""
        hop = self.front_end["hop_length"]
        for stride in self.time_strides:
            hop *= stride
        return hop / self.front_end["sampling_rate"]

    def feature_frames(self, mel_frames):
        """Output frames of an input of ``mel_frames`` frames; works on ints and integer tensors."""
        for stride in self.time_strides:
            mel_frames = -(-mel_frames // stride)
        return mel_frames
