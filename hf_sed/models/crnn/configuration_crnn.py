"""Configuration of the CNN encoder of the DCASE/ATST-SED CRNN."""

from __future__ import annotations

from math import prod

from ..auto import EncoderConfig


class CrnnConfig(EncoderConfig):
    """CNN encoder of the CRNN of DCASE Task 4 and ATST-SED; the recurrent part is the detector's `sequence_model`.

    The defaults are the published sizes (ATST-SED `nnet/CNN.py:33-114`, `confs/stage2.yaml:82-100`): 10 s at 16 kHz
    become 156 frames of 64 ms. ``batch_norm_momentum`` is meant as in PyTorch: 0.99 keeps little but the last batch.

    Args:
        front_end: preset name or dict of constants, see `hf_sed.models.front_ends`; stored complete.
        conv_filters: output channels of each block.
        kernel_size: of the convolutions, odd, in frames and mel bins.
        pooling: (time, frequency) average pooling of each block.
        activation: "cg" (context gating, x * sigmoid(Linear(x))), "glu" (Linear(x) * sigmoid(x)) or "relu".
        dropout: after the activation of each block; one number or one a block.
    """

    model_type = "hf-sed-crnn"

    front_end: str | dict = "crnn"
    conv_filters: list[int] | tuple[int, ...] = (16, 32, 64, 128, 128, 128, 128)
    kernel_size: int = 3
    pooling: list | tuple = ((2, 2), (2, 2), (1, 2), (1, 2), (1, 2), (1, 2), (1, 2))
    activation: str = "cg"
    dropout: float | int | list[float] = 0.5
    batch_norm_eps: float = 1e-3
    batch_norm_momentum: float = 0.99

    def __post_init__(self, **kwargs):
        self.conv_filters = list(self.conv_filters)
        self.pooling = [list(p) for p in self.pooling]
        if len(self.conv_filters) != len(self.pooling):
            raise ValueError(
                f"conv_filters has {len(self.conv_filters)} blocks, pooling {len(self.pooling)}; they must agree."
            )
        if isinstance(self.dropout, list | tuple) and len(self.dropout) != len(self.conv_filters):
            raise ValueError(f"dropout has {len(self.dropout)} values for {len(self.conv_filters)} blocks.")
        if self.activation not in ("cg", "glu", "relu"):
            raise ValueError(f"activation {self.activation!r}; expected cg, glu or relu.")
        super().__post_init__(**kwargs)
        if self.front_end["num_mel_bins"] < prod(p[1] for p in self.pooling):
            raise ValueError(
                f"{self.front_end['num_mel_bins']} mel bins are fewer than the frequency pooling {self.pooling} takes."
            )

    @property
    def hidden_size(self) -> int:
        """Width of the encoder's output: channels times the mel bins that pooling leaves."""
        bins = self.front_end["num_mel_bins"]
        for _, pool in self.pooling:
            bins //= pool
        return self.conv_filters[-1] * bins

    @property
    def frame_hop(self) -> float:
        """Seconds between output frames."""
        return self.front_end["hop_length"] * prod(p[0] for p in self.pooling) / self.front_end["sampling_rate"]

    def feature_frames(self, mel_frames):
        """Output frames of an input of ``mel_frames`` frames; works on ints and integer tensors."""
        for pool, _ in self.pooling:
            mel_frames = mel_frames // pool
        return mel_frames
