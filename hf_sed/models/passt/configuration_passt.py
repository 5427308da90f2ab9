"""Configuration of frame-level PaSST."""

from __future__ import annotations

from ..configuration_vit import VitConfig


class PasstConfig(VitConfig):
    """Frame-level PaSST (PaSST: Koutini et al. 2022, arXiv 2110.05069; PretrainedSED, arXiv 2409.09546,
    `models/frame_passt/fpasst.py:349-530`): three convolutions, patches of two frames and all bands, a transformer.

    Args:
        front_end: preset name or dict of constants, see `hf_sed.models.front_ends`; stored complete.
        conv_channels: of the three convolutions, the first and the last with stride 2.
        patch_frames: frames of a patch after the convolutions; patches overlap by all but one.
        max_frames, long_clips and sizes: see [`VitConfig`]; the published model cuts longer clips off.
    """

    model_type = "hf-sed-passt"

    front_end: str | dict = "passt"
    conv_channels: list[int] | tuple[int, ...] = (16, 32, 64)
    patch_frames: int = 2

    def __post_init__(self, **kwargs):
        self.conv_channels = list(self.conv_channels)
        super().__post_init__(**kwargs)

    @property
    def frame_hop(self) -> float:
        """Seconds between output frames."""
        return 4 * self.front_end["hop_length"] / self.front_end["sampling_rate"]

    def feature_frames(self, mel_frames):
        """Output frames of an input of ``mel_frames`` frames; works on ints and integer tensors."""
        return (mel_frames + 3) // 4
