"""ATST-Frame: log-mel features in, one vector a frame out."""

from __future__ import annotations

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple

from ..masks import length_mask
from ..vit import VitLayer, VitPreTrainedModel, additive_mask, in_windows, position_window
from .configuration_atst import AtstConfig


class AtstPreTrainedModel(VitPreTrainedModel):
    config_class = AtstConfig
    base_model_prefix = "atst"

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, AtstModel):
            init.trunc_normal_(module.position_embeddings, std=self.config.initializer_range)
            init.trunc_normal_(module.mask_embedding, std=self.config.initializer_range)


class AtstModel(AtstPreTrainedModel):
    """ATST-Frame's encoder. See [`AtstConfig`] for the architecture and its source."""

    def __init__(self, config: AtstConfig):
        super().__init__(config)
        size = config.hidden_size
        self.patch_embedding = nn.Linear(config.patch_frames * config.front_end["num_mel_bins"], size)
        self.position_embeddings = nn.Parameter(torch.zeros(1, config.max_frames, size))
        self.mask_embedding = nn.Parameter(torch.zeros(1, 1, size))
        """Stands for a masked patch; of self-supervised training, kept so that a checkpoint is complete."""
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
        masked_frames: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutput:
        """Encode log-mel features (B, mel frames, mel bins).

        Args:
            attention_mask (B, mel frames): true for valid frames; others are attended by none.
            masked_frames (B, frames): true for frames that `mask_embedding` stands for.

        Returns ``last_hidden_state`` (B, frames, hidden size) and, if asked, the embeddings and each layer's output.
        """
        config, patch = self.config, self.config.patch_frames
        frames = input_values.shape[1] // patch
        # (B, frames, bins x time within the patch): the checkpoint's patches are bin-major.
        patches = input_values[:, : frames * patch].unflatten(1, (frames, patch)).transpose(2, 3).flatten(2)
        x = self.patch_embedding(patches)
        if masked_frames is not None:
            x = torch.where(masked_frames[..., None], self.mask_embedding, x)
        valid = None
        if attention_mask is not None:
            lengths = attention_mask.sum(1) // patch
            valid = length_mask(lengths, frames)
        x, valid, joined = in_windows(x, valid, config.max_frames, config.long_clips)
        x = self.dropout(x + position_window(self.position_embeddings, x.shape[1], valid))
        mask = additive_mask(valid, x.dtype)
        states = [x]
        for layer in self.layers:
            x = layer(x, mask)
            states.append(x)
        return self.as_output(joined(self.norm(x)), map(joined, states), output_hidden_states)
