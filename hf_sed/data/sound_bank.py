"""An embedded bank of synthesised sounds: eight classes with random parameters, and coloured-noise backgrounds.

It stands in for a folder of recordings where there is none (the quickstart, the tests): no file, no network. Each
``(label, number)`` names one sound source with its own pitch, tempo, timbre and decay; the same name always sounds
the same at a given rate.
"""

from __future__ import annotations

import zlib

import numpy as np
import scipy.signal

BACKGROUND = "background"
FloatArray = np.ndarray


def synthesise(label: str, number: int, sampling_rate: int) -> FloatArray:
    """Samples (float32) of source ``number`` of class ``label``; 0.2 s to 5 s long, peak 0.9."""
    rng = np.random.default_rng([zlib.crc32(label.encode()), number])
    samples = _CLASSES[label](rng, sampling_rate) if label != BACKGROUND else _background(rng, sampling_rate)
    return (0.9 * samples / (np.abs(samples).max() + 1e-9)).astype(np.float32)


def _time(seconds: float, rate: int) -> FloatArray:
    return np.arange(int(seconds * rate)) / rate


def _tone(frequency: FloatArray | float, time: FloatArray, rate: int, harmonics: FloatArray) -> FloatArray:
    """A sum of harmonics of a (possibly moving) frequency in Hz, without those above 0.45 of the sampling rate; at a low
    rate the whole sound is moved down until its first harmonic fits."""
    frequency = np.broadcast_to(frequency, time.shape)
    frequency = frequency * min(1.0, 0.44 * rate / frequency.max())
    phase = 2 * np.pi * np.cumsum(frequency) / rate
    return sum(a * np.sin(k * phase) * (k * frequency < 0.45 * rate) for k, a in enumerate(harmonics, start=1))


def _band_noise(rng: np.random.Generator, samples: int, low: float, high: float, rate: int) -> FloatArray:
    sos = scipy.signal.butter(4, [low, min(high, 0.45 * rate)], btype="band", fs=rate, output="sos")
    return scipy.signal.sosfilt(sos, rng.standard_normal(samples))


def _whistle(rng, rate):
    t = _time(rng.uniform(0.6, 2.0), rate)
    frequency = rng.uniform(900, 2200) * 2 ** (
        rng.uniform(-0.6, 0.6) * t / t[-1] + 0.02 * np.sin(2 * np.pi * rng.uniform(4, 7) * t)
    )
    return _tone(frequency, t, rate, np.array([1.0, 0.08])) * np.hanning(t.size) ** 0.25


def _alarm(rng, rate):
    t = _time(rng.uniform(1.5, 4.0), rate)
    low = rng.uniform(500, 1400)
    high = low * rng.uniform(1.2, 1.6)
    upper = scipy.signal.square(2 * np.pi * rng.uniform(1.5, 5.0) * t) > 0
    return _tone(np.where(upper, high, low), t, rate, 1.0 / np.arange(1, 6) ** rng.uniform(0.8, 2.0))


def _siren(rng, rate):
    t = _time(rng.uniform(2.0, 5.0), rate)
    swing = 0.5 - 0.5 * np.cos(2 * np.pi * rng.uniform(0.3, 1.2) * t + rng.uniform(0, 6))
    return _tone(rng.uniform(400, 700) * 2 ** (rng.uniform(0.7, 1.3) * swing), t, rate, 1.0 / np.arange(1, 5))


def _knock(rng, rate):
    t = _time(rng.uniform(0.5, 1.6), rate)
    out = np.zeros_like(t)
    modes = rng.uniform(120, 900, size=4)
    ring = sum(np.exp(-rng.uniform(30, 70) * t) * np.sin(2 * np.pi * m * t) for m in modes)
    for start in np.arange(0, t[-1] - 0.15, rng.uniform(0.14, 0.3)):
        first = int(start * rate)
        out[first:] += rng.uniform(0.6, 1.0) * ring[: t.size - first]
    return out


def _chirps(rng, rate):
    t = _time(rng.uniform(0.5, 1.8), rate)
    syllable = (t * rng.uniform(5, 11)) % 1.0
    frequency = rng.uniform(2500, 4200) * (1 + rng.uniform(-0.35, 0.5) * syllable)
    return _tone(frequency, t, rate, np.array([1.0, 0.2])) * np.sin(np.pi * np.minimum(syllable / 0.7, 1.0)) ** 2


def _engine(rng, rate):
    t = _time(rng.uniform(2.5, 5.0), rate)
    pitch = rng.uniform(40, 110) * (1 + 0.03 * np.sin(2 * np.pi * rng.uniform(0.3, 1.0) * t))
    tone = _tone(pitch, t, rate, 1.0 / np.arange(1, 25) ** rng.uniform(0.5, 1.2))
    return tone + rng.uniform(0.1, 0.5) * _band_noise(rng, t.size, 80, 1200, rate)


def _hiss(rng, rate):
    t = _time(rng.uniform(1.0, 4.0), rate)
    low = rng.uniform(1800, 3500)
    return _band_noise(rng, t.size, low, low * rng.uniform(1.6, 2.2), rate) * np.hanning(t.size) ** 0.2


def _bark(rng, rate):
    t = _time(rng.uniform(0.25, 0.5), rate)
    pitch = rng.uniform(250, 650) * (1 + 0.5 * np.exp(-((t / t[-1] - 0.3) ** 2) / 0.04))
    tone = _tone(pitch, t, rate, np.array([0.5, 1.0, 0.8, 0.5, 0.3, 0.2]))
    noise = _band_noise(rng, t.size, 400, 3000, rate)
    return (tone + rng.uniform(0.4, 1.0) * noise) * np.maximum(np.sin(np.pi * t / t[-1]), 0) ** 0.6


def _background(rng, rate):
    """Five seconds of noise with a random spectral slope and slow level changes."""
    samples = 5 * rate
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.maximum(np.fft.rfftfreq(samples, 1 / rate), 30.0)
    noise = np.fft.irfft(spectrum * frequency ** -rng.uniform(0.2, 1.0), n=samples)
    t = np.arange(samples) / rate
    return noise * (1 + rng.uniform(0, 0.4) * np.sin(2 * np.pi * rng.uniform(0.1, 0.8) * t))


_CLASSES = {
    "Alarm": _alarm,
    "Bark": _bark,
    "Chirps": _chirps,
    "Engine": _engine,
    "Hiss": _hiss,
    "Knock": _knock,
    "Siren": _siren,
    "Whistle": _whistle,
}
LABELS = tuple(_CLASSES)
