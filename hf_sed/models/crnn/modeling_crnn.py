"""The CNN encoder of the DCASE/ATST-SED CRNN: log-mel features in, one vector a frame out."""

from __future__ import annotations

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple

from ..initialization import EncoderPreTrainedModel
from ..masks import length_mask
from .configuration_crnn import CrnnConfig


class MaskedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over (B, C, T, F) whose training statistics leave padded frames out."""

    def forward(self, x: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        """``frame_mask`` (B, T): true for valid frames; padded frames come out as 0."""
        if frame_mask is None:
            return super().forward(x)
        if not self.training:
            return super().forward(x) * frame_mask[:, None, :, None]
        frames = x.transpose(1, 2)
        valid = frames[frame_mask]  # (valid frames, C, F)
        normalised = super().forward(valid.unsqueeze(-1)).squeeze(-1)
        return torch.zeros_like(frames).index_put((frame_mask,), normalised.to(x.dtype)).transpose(1, 2)


class CrnnBlock(nn.Module):
    """Convolution, BatchNorm, (gated) activation, dropout, average pooling."""

    def __init__(self, config: CrnnConfig, in_channels: int, out_channels: int, pool: tuple[int, int], dropout: float):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, config.kernel_size, padding=config.kernel_size // 2)
        self.batch_norm = MaskedBatchNorm2d(
            out_channels, eps=config.batch_norm_eps, momentum=config.batch_norm_momentum
        )
        self.gate = None if config.activation == "relu" else nn.Linear(out_channels, out_channels)
        self.activation = config.activation
        self.dropout = nn.Dropout(dropout)
        self.pool = tuple(pool)

    def forward(self, x: torch.Tensor, frame_mask: torch.Tensor | None) -> torch.Tensor:
        if frame_mask is not None:
            x = x * frame_mask[:, None, :, None]
        x = self.batch_norm(self.conv(x), frame_mask)
        if self.gate is None:
            x = x.relu()
        else:
            gate = self.gate(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            x = x * gate.sigmoid() if self.activation == "cg" else gate * x.sigmoid()
        return nn.functional.avg_pool2d(self.dropout(x), self.pool)


class CrnnPreTrainedModel(EncoderPreTrainedModel):
    config_class = CrnnConfig
    base_model_prefix = "crnn"


class CrnnModel(CrnnPreTrainedModel):
    """CNN encoder. See [`CrnnConfig`] for the architecture and its source."""

    def __init__(self, config: CrnnConfig):
        super().__init__(config)
        channels = [1, *config.conv_filters]
        blocks = len(config.pooling)
        dropout = config.dropout if isinstance(config.dropout, list) else [config.dropout] * blocks
        self.blocks = nn.ModuleList(
            CrnnBlock(config, channels[i], channels[i + 1], config.pooling[i], dropout[i]) for i in range(blocks)
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
        size) and, if asked, the feature map after each block, (B, channels, frames, mel bins).
        """
        x = input_values.unsqueeze(1).to(memory_format=torch.channels_last)
        lengths = None if attention_mask is None else attention_mask.sum(1)
        maps = []
        for block, (pool, _) in zip(self.blocks, self.config.pooling, strict=True):
            mask = None if lengths is None else length_mask(lengths, x.shape[2])
            x = block(x, mask)
            lengths = None if lengths is None else lengths // pool
            maps.append(x)
        batch, channels, frames, bins = x.shape
        hidden = x.permute(0, 2, 1, 3).reshape(batch, frames, channels * bins)
        if lengths is not None:
            hidden = hidden * length_mask(lengths, frames)[..., None]
        return self.as_output(hidden, maps, output_hidden_states)
