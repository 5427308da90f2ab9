"""Frame-level PaSST: log-mel features in, one vector a frame out."""

from __future__ import annotations

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple

from ..masks import length_mask
from ..vit import VitLayer, VitPreTrainedModel, additive_mask, in_windows, position_window
from .configuration_passt import PasstConfig

_STRIDES = (2, 1, 2)


class PasstPreTrainedModel(VitPreTrainedModel):
    config_class = PasstConfig
    base_model_prefix = "passt"

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, PasstModel):
            for parameter in (module.tokens, module.time_embeddings, module.band_embedding):
                init.trunc_normal_(parameter, std=self.config.initializer_range)


class PasstModel(PasstPreTrainedModel):
    """Frame-level PaSST. See [`PasstConfig`] for the architecture and its source."""

    def __init__(self, config: PasstConfig):
        super().__init__(config)
        size, channels, bins = config.hidden_size, config.conv_channels, config.front_end["num_mel_bins"]
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, 3, stride=stride, padding=1)
            for i, o, stride in zip([1, *channels[:-1]], channels, _STRIDES, strict=True)
        )
        # The channels and quarter of the bands that are left are read as fewer channels of all bands.
        bands = (bins + 3) // 4
        self.patch_embedding = nn.Conv2d(channels[-1] * bands // bins, size, (bins, config.patch_frames))
        self.tokens = nn.Parameter(torch.zeros(1, 2, size))
        """Class and distillation token, their position included."""
        self.time_embeddings = nn.Parameter(torch.zeros(1, config.max_frames, size))
        self.band_embedding = nn.Parameter(torch.zeros(1, 1, size))
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(VitLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
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

        ``attention_mask`` (B, mel frames): true for valid frames; others are attended by none. Returns
        ``last_hidden_state`` (B, frames, hidden size) and, if asked, the embeddings and each layer's frames.
        """
        config = self.config
        x = input_values.transpose(1, 2).unsqueeze(1)  # (B, 1, bins, frames), as the checkpoint's kernels are
        lengths = None if attention_mask is None else attention_mask.sum(1)
        bins, valid = x.shape[2], None
        if attention_mask is not None:
            x = x * attention_mask[:, None, None, :]
        for conv, stride in zip(self.convs, _STRIDES, strict=True):
            x = nn.functional.gelu(conv(x))
            if lengths is not None:
                lengths = -(-lengths // stride)
                valid = length_mask(lengths, x.shape[3])
                x = x * valid[:, None, None, :]
        x = x.flatten(1, 2).unflatten(1, (-1, bins))
        x = self.patch_embedding(nn.functional.pad(x, (0, config.patch_frames - 1))).squeeze(2).transpose(1, 2)
        x, valid, joined = in_windows(x, valid, config.max_frames, config.long_clips)
        x = x + position_window(self.time_embeddings, x.shape[1], valid) + self.band_embedding
        x = self.dropout(torch.cat([self.tokens.expand(len(x), -1, -1), x], dim=1))
        mask = None if valid is None else additive_mask(nn.functional.pad(valid, (2, 0), value=True), x.dtype)
        states = [x]
        for layer in self.layers:
            x = layer(x, mask)
            states.append(x)
        own = (joined(h[:, 2:]) for h in states)  # without the tokens
        return self.as_output(joined(self.norm(x)[:, 2:]), own, output_hidden_states)
