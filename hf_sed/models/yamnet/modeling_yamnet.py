"""YAMNet: log-mel features in, one vector a frame out."""

from __future__ import annotations

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple

from ..crnn.modeling_crnn import MaskedBatchNorm2d
from ..initialization import EncoderPreTrainedModel
from ..masks import length_mask
from .configuration_yamnet import YamnetConfig


def same_padding(x: torch.Tensor, stride: int, lengths: torch.Tensor | None = None) -> torch.Tensor:
    """Pad (B, C, T, F) for a 3 x 3 convolution as TensorFlow's SAME does: with stride 2 an even size at its end, an odd one on
    both sides. ``lengths`` (B,): frames of each clip, which decide how it is padded; the frames beyond must be zero."""
    x = nn.functional.pad(x, _same(x.shape[3], stride))
    if lengths is None or stride == 1:
        return nn.functional.pad(x, (0, 0, *_same(x.shape[2], stride)))
    # Each clip is moved by the padding that its own size asks for.
    size = 2 * (-(-x.shape[2] // 2)) + 1
    x = nn.functional.pad(x, (0, 0, 1, 2))
    odd = (lengths % 2 == 1)[:, None, None, None]
    return torch.where(odd, x[:, :, :size], x[:, :, 1 : size + 1])


def _same(size: int, stride: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + 3 - size, 0)
    return total // 2, total - total // 2


class YamnetLayer(nn.Module):
    """A convolution, or a depthwise and a pointwise one, each followed by BatchNorm and ReLU."""

    def __init__(self, config: YamnetConfig, in_channels: int, out_channels: int, stride: int, separable: bool):
        super().__init__()
        norm = {"eps": config.batch_norm_eps, "momentum": config.batch_norm_momentum}
        groups, middle = (in_channels, in_channels) if separable else (1, out_channels)
        self.stride = stride
        self.conv = nn.Conv2d(in_channels, middle, 3, stride=stride, groups=groups, bias=False)
        self.conv_norm = MaskedBatchNorm2d(middle, **norm)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False) if separable else None
        self.pointwise_norm = MaskedBatchNorm2d(out_channels, **norm) if separable else None

    def forward(
        self, x: torch.Tensor, lengths: torch.Tensor | None = None, out_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """``lengths`` (B,): valid frames of the input, beyond which it is zero; ``out_mask`` (B, frames) those of the
        output."""
        x = self.conv_norm(self.conv(same_padding(x, self.stride, lengths)), out_mask).relu()
        if self.pointwise is not None:
            x = self.pointwise_norm(self.pointwise(x), out_mask).relu()
        return x if out_mask is None else x * out_mask[:, None, :, None]


class YamnetPreTrainedModel(EncoderPreTrainedModel):
    config_class = YamnetConfig
    base_model_prefix = "yamnet"


class YamnetModel(YamnetPreTrainedModel):
    """YAMNet's convolutions. See [`YamnetConfig`] for the architecture and its source."""

    def __init__(self, config: YamnetConfig):
        super().__init__(config)
        channels = [1, *config.channels]
        strides = [2, *(stride for stride, _ in config.layers)]
        self.layers = nn.ModuleList(
            YamnetLayer(config, channels[i], channels[i + 1], strides[i], separable=i > 0) for i in range(len(strides))
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> BaseModelOutput:
        """Encode log-mel features (B, mel frames, mel bins).

        ``attention_mask`` (B, mel frames) is true for valid frames. Returns ``last_hidden_state`` (B, frames, hidden
        size) and, if asked, each layer's map (B, channels, frames, mel bins).
        """
        x = input_values.unsqueeze(1)
        lengths = None if attention_mask is None else attention_mask.sum(1)
        if lengths is not None:
            x = x * attention_mask[:, None, :, None]
        maps, masks = [], []
        for layer in self.layers:
            stride = layer.stride
            out_lengths = None if lengths is None else -(-lengths // stride)
            mask = None if lengths is None else length_mask(out_lengths, -(-x.shape[2] // stride))
            # Depthwise convolutions are several times as fast on CPUs with channels last.
            x, lengths = layer(x, lengths, mask).contiguous(memory_format=torch.channels_last), out_lengths
            maps.append(x)
            masks.append(mask)
        finest = self.config.out_layers[0] - 1
        frames, stride = maps[finest].shape[2], self.config.strides[finest]
        parts = []
        for number in self.config.out_layers:
            part = maps[number - 1].mean(3).transpose(1, 2)  # (B, frames, channels)
            repeats = self.config.strides[number - 1] // stride
            parts.append(part.repeat_interleave(repeats, dim=1)[:, :frames] if repeats > 1 else part)
        hidden = torch.cat(parts, dim=-1)
        if masks[finest] is not None:
            hidden = hidden * masks[finest][..., None]
        return self.as_output(hidden, maps, output_hidden_states)
