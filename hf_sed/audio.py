"""Read audio: from a path, bytes, a file object or an array to mono float32 samples at the wanted rate.

soundfile and soxr do the work. A format that soundfile cannot read goes to torchcodec, then torchaudio, where they
import; a broken install of either (PyPI's CUDA builds next to a CPU torch fail with OSError) counts as absent.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr

AudioSource = str | Path | bytes | BinaryIO | np.ndarray | Mapping[str, Any]


class AudioError(ValueError):
    """Audio that cannot be used; the message names the file and the remedy."""


def optional_import(name: str) -> Any | None:
    """The module ``name``, or None where it is absent or broken."""
    try:
        return importlib.import_module(name)
    except Exception:
        return None


def load_audio(source: AudioSource, sampling_rate: int, name: str | None = None) -> np.ndarray:
    """Mono float32 samples of ``source`` at ``sampling_rate`` (Hz), shape (samples,).

    ``source``: a path; encoded bytes or a binary file; a dict ``{"array" | "raw", "sampling_rate"}`` or a row's audio
    ``{"bytes", "path"}``; or a bare array, which is taken to be at ``sampling_rate`` already. Channels are averaged;
    integer samples are scaled to [-1, 1). ``name`` is what an error calls the source.

    Raises `FileNotFoundError`, or [`AudioError`] for audio that is corrupt, empty, not finite or not numeric.
    """
    if isinstance(source, Mapping):
        name = name or source.get("path")
        if (samples := source.get("array", source.get("raw"))) is not None:
            rate = source.get("sampling_rate")
            if not rate or rate <= 0:
                raise AudioError(f"{name or 'audio array'}: give its sampling_rate in Hz next to the array.")
            return _finish(np.asarray(samples), int(rate), sampling_rate, name or "audio array")
        if source.get("bytes") is not None:
            source = source["bytes"]
        elif source.get("path"):
            source = source["path"]
        else:
            raise AudioError(
                f"audio dict with keys {sorted(source)}: expected array and sampling_rate, bytes, or path."
            )
    if isinstance(source, np.ndarray):
        return _finish(source, sampling_rate, sampling_rate, name or "audio array")
    if isinstance(source, str | Path):
        path = Path(source)
        name = name or str(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such audio file.")
        samples, rate = _decode(path, name)
    elif isinstance(source, bytes | bytearray | memoryview):
        samples, rate = _decode(bytes(source), name or "audio bytes")
    elif hasattr(source, "read"):
        samples, rate = _decode(source.read(), name or getattr(source, "name", "audio file object"))
    else:
        raise AudioError(
            f"{name or 'audio'}: cannot read a {type(source).__name__}; give a path, bytes, a binary file, a numpy array, "
            'or {"array": …, "sampling_rate": …}.'
        )
    return _finish(samples, rate, sampling_rate, name or "audio")


def audio_duration(path: str | Path) -> float:
    """Length in seconds of an audio file, from its header where soundfile reads it. Raises as [`load_audio`] does."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such audio file.")
    try:
        info = soundfile.info(str(path))
    except soundfile.LibsndfileError:
        samples, rate = _decode(path, str(path))
        return samples.shape[0] / rate
    if info.frames == 0:
        raise AudioError(f"{path}: contains no samples.")
    return info.frames / info.samplerate


def encode_audio(samples: np.ndarray, sampling_rate: int) -> bytes:
    """16-bit PCM WAV bytes of mono samples in [-1, 1]; what lies outside is clipped. Exact and cheap to decode."""
    pcm = np.clip(np.round(np.asarray(samples, dtype=np.float64) * 32768.0), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, sampling_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def _decode(data: Path | bytes, name: str) -> tuple[np.ndarray, int]:
    if not (data.stat().st_size if isinstance(data, Path) else data):
        raise AudioError(f"{name}: the file is empty (0 bytes).")
    try:
        return soundfile.read(str(data) if isinstance(data, Path) else io.BytesIO(data), dtype="float32")
    except (soundfile.LibsndfileError, RuntimeError) as error:
        reason = error
    raw = data.read_bytes() if isinstance(data, Path) else data
    for decode in (_decode_torchcodec, _decode_torchaudio):
        decoded = decode(raw)
        if decoded is not None:
            return decoded
    raise AudioError(
        f"{name}: cannot be decoded ({reason}). The file may be corrupt; soundfile reads wav, flac, ogg and mp3, other "
        "formats need a working torchcodec (pip install 'hf_sed[torchcodec]' and ffmpeg)."
    ) from reason


def _decode_torchcodec(raw: bytes) -> tuple[np.ndarray, int] | None:
    decoders = optional_import("torchcodec.decoders")
    if decoders is None:
        return None
    try:
        samples = decoders.AudioDecoder(raw).get_all_samples()
    except Exception:
        return None
    return samples.data.numpy().T, samples.sample_rate


def _decode_torchaudio(raw: bytes) -> tuple[np.ndarray, int] | None:
    torchaudio = optional_import("torchaudio")
    if torchaudio is None:
        return None
    try:
        samples, rate = torchaudio.load(io.BytesIO(raw))
    except Exception:
        return None
    return samples.numpy().T, rate


def _finish(samples: np.ndarray, rate: int, wanted: int, name: str) -> np.ndarray:
    if np.issubdtype(samples.dtype, np.integer) and samples.dtype != np.uint8:
        samples = samples / -float(np.iinfo(samples.dtype).min or -np.iinfo(samples.dtype).max)
    elif not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(f"{name}: samples of type {samples.dtype}; expected float in [-1, 1] or signed integers.")
    if samples.size == 0:
        raise AudioError(f"{name}: contains no samples.")
    if samples.ndim == 2:  # channels are the shorter side, whichever library laid it out
        samples = samples.mean(axis=int(np.argmin(samples.shape)))
    elif samples.ndim != 1:
        raise AudioError(
            f"{name}: samples of shape {samples.shape}; expected (samples,) or two dimensions with channels."
        )
    if not np.isfinite(samples).all():
        bad = int(np.flatnonzero(~np.isfinite(samples))[0])
        raise AudioError(f"{name}: sample {bad} ({bad / rate:.3f} s) is NaN or infinite; repair or remove the file.")
    samples = np.ascontiguousarray(samples, dtype=np.float32)
    if rate != wanted:
        samples = soxr.resample(samples, rate, wanted).astype(np.float32, copy=False)
        if samples.size == 0:
            raise AudioError(f"{name}: too short to resample from {rate} Hz to {wanted} Hz.")
    return samples
