"""Frame-MobileNet: log-mel features in, one vector a frame out."""

from __future__ import annotations

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple

from ..crnn.modeling_crnn import MaskedBatchNorm2d
from ..initialization import EncoderPreTrainedModel
from ..masks import length_mask
from .configuration_frame_mobilenet import FrameMobilenetConfig, scaled

_ACTIVATIONS = {"relu": nn.functional.relu, "hardswish": nn.functional.hardswish, None: lambda x: x}


class ConvNorm(nn.Module):
    """Convolution over (B, C, T, F), BatchNorm, activation. Frames beyond a clip's own come out as 0."""

    def __init__(
        self,
        config: FrameMobilenetConfig,
        in_channels: int,
        out_channels: int,
        kernel: int,
        strides: tuple[int, int] = (1, 1),
        groups: int = 1,
        activation: str | None = None,
    ):
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride=strides, padding=kernel // 2, groups=groups, bias=False
        )
        self.norm = MaskedBatchNorm2d(out_channels, eps=config.batch_norm_eps, momentum=config.batch_norm_momentum)
        self.activation = _ACTIVATIONS[activation]

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """``mask`` (B, output frames): true for valid frames."""
        x = self.activation(self.norm(self.conv(x), mask))
        return x if mask is None else x * mask[:, None, :, None]


class SqueezeExcitation(nn.Module):
    """Weighs channels by their mean over a clip's own frames and bands (Hu et al. 2018, arXiv 1709.01507)."""

    def __init__(self, channels: int):
        super().__init__()
        inner = scaled(channels // 4)
        self.fc1, self.fc2 = nn.Linear(channels, inner), nn.Linear(inner, channels)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        total = x.mean(3)
        mean = total.mean(2) if mask is None else total.sum(2) / mask.sum(1, keepdim=True)
        return x * self.fc2(self.fc1(mean).relu()).sigmoid()[:, :, None, None]


class InvertedResidual(nn.Module):
    """Expand, filter depthwise, weigh, project (MobileNet-v3)."""

    def __init__(self, config: FrameMobilenetConfig, in_channels: int, block: list):
        super().__init__()
        kernel, expanded, out_channels, excite, activation, f_stride, t_stride = block
        expanded, out_channels = scaled(expanded * config.width), scaled(out_channels * config.width)
        self.residual = (f_stride, t_stride) == (1, 1) and in_channels == out_channels
        self.expand = None
        if expanded != in_channels:
            self.expand = ConvNorm(config, in_channels, expanded, 1, activation=activation)
        self.depthwise = ConvNorm(
            config, expanded, expanded, kernel, (t_stride, f_stride), groups=expanded, activation=activation
        )
        self.excite = SqueezeExcitation(expanded) if excite else None
        self.project = ConvNorm(config, expanded, out_channels, 1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None, out_mask: torch.Tensor | None) -> torch.Tensor:
        y = x if self.expand is None else self.expand(x, mask)
        y = self.depthwise(y, out_mask)
        if self.excite is not None:
            y = self.excite(y, out_mask)
        y = self.project(y, out_mask)
        return x + y if self.residual else y


class FrameMobilenetPreTrainedModel(EncoderPreTrainedModel):
    config_class = FrameMobilenetConfig
    base_model_prefix = "frame_mobilenet"


class FrameMobilenetModel(FrameMobilenetPreTrainedModel):
    """Frame-MobileNet. See [`FrameMobilenetConfig`] for the architecture and its source."""

    def __init__(self, config: FrameMobilenetConfig):
        super().__init__(config)
        channels = [scaled(c * config.width) for c in (config.first_channels, *(b[2] for b in config.blocks))]
        self.first = ConvNorm(config, 1, channels[0], 3, (2, 2), activation="hardswish")
        self.blocks = nn.ModuleList(
            InvertedResidual(config, channels[i], block) for i, block in enumerate(config.blocks)
        )
        self.last = ConvNorm(config, channels[-1], config.hidden_size, 1, activation="hardswish")
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
        size) and, if asked, the feature map after each block, (B, channels, frames, bands).
        """
        x = input_values.unsqueeze(1).to(memory_format=torch.channels_last)
        lengths = None if attention_mask is None else attention_mask.sum(1)

        def halved(frames: int, stride: int) -> torch.Tensor | None:
            nonlocal lengths
            if lengths is None:
                return None
            lengths = -(-lengths // stride)
            return length_mask(lengths, -(-frames // stride))

        if attention_mask is not None:
            x = x * attention_mask[:, None, :, None]
        strides = self.config.time_strides
        mask = halved(x.shape[2], strides[0])
        x = self.first(x, mask).contiguous(memory_format=torch.channels_last)
        maps = []
        for block, stride in zip(self.blocks, strides[1:], strict=True):
            out_mask = halved(x.shape[2], stride)
            x = block(x, mask, out_mask)
            mask = out_mask
            maps.append(x)
        hidden = self.last(x, mask).mean(3).transpose(1, 2)
        return self.as_output(hidden, maps, output_hidden_states)
