"""Configuration of ATST-Frame."""

from __future__ import annotations

from ..configuration_vit import VitConfig


class AtstConfig(VitConfig):
    """ATST-Frame (Li et al. 2023, arXiv 2306.04186; ATST-SED `audio_transformer.py:55-249`). The defaults are the base size:
    patches of 4 mel frames and all 64 bins, 40 ms a frame, 12 layers of 768.

    Args:
        front_end: preset name or dict of constants, see `hf_sed.models.front_ends`; stored complete.
        patch_frames: mel frames of a patch.
        qkv_bias: whether query, key and value have a bias; the published models' have none.
        max_frames, long_clips and sizes: see [`VitConfig`]; "window" is what audiossl's `embedding.py` does.
    """

    model_type = "hf-sed-atst"

    front_end: str | dict = "atst"
    patch_frames: int = 4
    qkv_bias: bool = False

    @property
    def frame_hop(self) -> float:
        """Seconds between output frames."""
        return self.patch_frames * self.front_end["hop_length"] / self.front_end["sampling_rate"]

    def feature_frames(self, mel_frames):
        """Output frames of an input of ``mel_frames`` frames; works on ints and integer tensors."""
        return mel_frames // self.patch_frames
