"""Weight initialisation as torch does it, in the form that transformers needs.

transformers builds models on the meta device and calls `_init_weights` for whatever a checkpoint does not hold. Its own
default draws small normal weights for linear and convolutional layers and forgets `nn.GRU`, which then holds garbage;
the functions of `transformers.initialization` respect what was loaded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput

from .front_ends import MelFrontEnd, analysis_window, mel_filters


def init_like_torch(module: nn.Module) -> None:
    """Initialise a linear, convolutional, recurrent or front-end module with torch's default distributions."""
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
        init.kaiming_uniform_(module.weight, a=math.sqrt(5))
        if module.bias is not None:
            bound = 1 / math.sqrt(module.weight[0].numel())
            init.uniform_(module.bias, -bound, bound)
    elif isinstance(module, nn.GRU):
        bound = 1 / math.sqrt(module.hidden_size)
        for parameter in module.parameters():
            init.uniform_(parameter, -bound, bound)
    elif isinstance(module, MelFrontEnd):
        init.copy_(module.window, analysis_window(module.settings))
        init.copy_(module.mel_filters, mel_filters(module.settings))


class EncoderPreTrainedModel(PreTrainedModel):
    """Base of this package's encoders."""

    main_input_name = "input_values"
    input_modalities = ("audio",)

    def _init_weights(self, module):
        super()._init_weights(module)
        init_like_torch(module)

    def as_output(
        self, last_hidden_state: torch.Tensor, states: Iterable[torch.Tensor], output_hidden_states: bool | None
    ) -> BaseModelOutput:
        """What an encoder returns; ``states`` only where they are asked for, by the call or else by the config."""
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return BaseModelOutput(last_hidden_state=last_hidden_state, hidden_states=tuple(states) if wanted else None)
