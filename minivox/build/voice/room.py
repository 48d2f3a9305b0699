"""Where and how an utterance was recorded: a small room, a cheap microphone, a little noise, a level."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from minivox.build.voice.kokoro import active

if TYPE_CHECKING:
    from jaxtyping import Float

RATE = 16_000  # of finished clips, Hz
LEVEL_DBFS = -23.0
_PEAK = 0.98


def record(wave: Float[np.ndarray, " samples"], rng: np.random.Generator) -> Float[np.ndarray, " samples"]:
    """A 16 kHz utterance as one recording of it: every room, microphone, noise and level is drawn afresh."""
    from scipy.signal import fftconvolve

    out = fftconvolve(fftconvolve(wave, _room(rng))[: wave.size], _microphone(rng), "same")
    out = out + rng.standard_normal(out.size) * np.std(out) * 10 ** (-rng.uniform(35, 50) / 20)
    return set_level(out, LEVEL_DBFS + float(np.clip(rng.standard_normal(), -2, 2)))


def _room(rng: np.random.Generator) -> Float[np.ndarray, " taps"]:
    """Direct sound, then a tail of noise that fades by 60 dB in 0.1 to 0.3 s."""
    fade = rng.uniform(0.1, 0.3)
    time = np.arange(int(fade * RATE)) / RATE
    taps = rng.standard_normal(time.size) * 10 ** (-3 * time / fade)
    taps *= 10 ** (rng.uniform(-26, -16) / 20) / np.sqrt(np.sum(taps**2))
    taps[: int(0.003 * RATE)] = 0
    taps[0] = 1.0
    return taps


def _microphone(rng: np.random.Generator) -> Float[np.ndarray, " taps"]:
    """A symmetric filter: a slight tilt, one broad bump, and a low cut between 50 and 110 Hz."""
    hertz = np.fft.rfftfreq(1024, 1 / RATE)
    octave = np.log2(np.maximum(hertz, 50) / 1000)
    bump = np.exp(-((octave - rng.uniform(-1, 2.5)) ** 2))
    gain_db = rng.normal(0, 0.5) * octave + rng.normal(0, 1.5) * bump
    low_cut = np.sqrt(1 + (rng.uniform(50, 110) / np.maximum(hertz, 1)) ** 4)
    return np.fft.fftshift(np.fft.irfft(10 ** (gain_db / 20) / low_cut)) * np.hanning(1024)


def set_level(wave: Float[np.ndarray, " samples"], dbfs: float) -> Float[np.ndarray, " samples"]:
    """Scale the audible part to a root mean square of ``dbfs``; peaks above 0.69 are bent to stay below 0.98."""
    loud = wave[active(wave, RATE)].astype(np.float64)
    wave = wave * (10 ** (dbfs / 20) / max(float(np.sqrt(np.mean(loud**2))), 1e-6))
    knee, size = 0.7 * _PEAK, np.abs(wave)
    bent = knee + (_PEAK - knee) * np.tanh((size - knee) / (_PEAK - knee))
    return np.where(size > knee, np.sign(wave) * bent, wave).astype(np.float32)
