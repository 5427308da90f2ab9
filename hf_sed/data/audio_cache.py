"""Clips decoded and resampled once, kept on disk: what a run reads again and again is then at the model's rate already."""

from __future__ import annotations

import io
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import soundfile

from ..audio import load_audio
from .schema import storage_features, undecoded, with_audio_feature

if TYPE_CHECKING:
    import datasets


def resampled(
    dataset: datasets.Dataset, sampling_rate: int, folder: str | Path, num_proc: int | None = None
) -> datasets.Dataset:
    """The data set with mono float32 audio at ``sampling_rate`` (Hz), to the sample what decoding gives on the fly.

    The first call writes one Arrow file to ``folder`` (4 bytes a sample: 640 kB for ten seconds at 16 kHz); later ones, of this
    or another process, read it. It is known by the audio's content (of files: path, size and time of change) and the rate;
    annotations are not part of it, so that they may change.
    """
    from datasets import concatenate_datasets

    audio = undecoded(dataset).select_columns(["audio"])
    feature = {"audio": storage_features()["audio"]}
    audio = audio.cast(type(dataset.features)(feature))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    audio = audio.map(
        _resample,
        fn_kwargs={"sampling_rate": sampling_rate},
        features=audio.features,
        num_proc=num_proc,
        cache_file_name=str(folder / f"{_content(audio)}-{sampling_rate}.arrow"),
        load_from_cache_file=True,
        desc="resampling",
    )
    return concatenate_datasets([dataset.remove_columns("audio"), with_audio_feature(audio)], axis=1)


def _resample(row: dict, sampling_rate: int) -> dict:
    buffer = io.BytesIO()
    soundfile.write(buffer, load_audio(row["audio"], sampling_rate), sampling_rate, format="WAV", subtype="FLOAT")
    return {"audio": {"bytes": buffer.getvalue(), "path": row["audio"]["path"]}}


def _content(audio: datasets.Dataset) -> str:
    digest = blake2b(digest_size=16)
    for row in audio:
        content, path = row["audio"]["bytes"], row["audio"]["path"]
        if content is None:
            status = Path(path).stat()
            content = f"{path} {status.st_size} {status.st_mtime_ns}".encode()
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()
