"""WORLD's view of base speech: pitch, spectral envelope and aperiodicity every 5 ms, cached on disk."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from minivox.build.voice.kokoro import RATE
from v2f_core.artefacts.files import atomic_write

if TYPE_CHECKING:
    from jaxtyping import Float

FRAME_MS = 5.0
_FFT = 1024  # at 24 kHz: 513 bins of 23.4 Hz
FREQUENCIES = np.arange(_FFT // 2 + 1) * RATE / _FFT


class Analysis(NamedTuple):
    """Base speech, taken apart."""

    f0: Float[np.ndarray, " frames"]  # Hz, 0 where unvoiced
    log_envelope: Float[np.ndarray, "frames 513"]  # natural logarithm of power
    aperiodicity: Float[np.ndarray, "frames 513"]  # amplitude share of noise, 0..1


def analyse(wave: Float[np.ndarray, " samples"]) -> Analysis:
    """Take 24 kHz speech apart with DIO, StoneMask, CheapTrick and D4C."""
    import pyworld

    x = wave.astype(np.float64)
    f0, times = pyworld.dio(x, RATE, f0_floor=60, f0_ceil=500, frame_period=FRAME_MS)
    f0 = pyworld.stonemask(x, f0, times, RATE)
    envelope = pyworld.cheaptrick(x, f0, times, RATE, fft_size=_FFT)
    aperiodicity = pyworld.d4c(x, f0, times, RATE, fft_size=_FFT)
    return Analysis(f0, np.log(envelope + 1e-16), aperiodicity)


def synthesise(part: Analysis, frame_ms: float) -> Float[np.ndarray, " samples"]:
    """Put speech together again at 24 kHz, one frame every ``frame_ms``."""
    import pyworld

    envelope = np.ascontiguousarray(np.exp(part.log_envelope))
    return pyworld.synthesize(part.f0, envelope, np.ascontiguousarray(part.aperiodicity), RATE, frame_ms)


def store(path: Path, part: Analysis) -> None:
    """Write an analysis; aperiodicity in WORLD's own two bands, the envelope in half precision."""
    import pyworld

    bands = pyworld.code_aperiodicity(part.aperiodicity, RATE)
    with atomic_write(path) as temporary:
        np.savez(temporary, f0=part.f0, log_envelope=part.log_envelope.astype(np.float16), bands=bands)


@lru_cache(maxsize=64)
def load(path: Path) -> Analysis:
    """Read an analysis that :func:`store` wrote. Do not write into its arrays: they are shared."""
    import pyworld

    with np.load(path) as file:
        aperiodicity = pyworld.decode_aperiodicity(file["bands"], RATE, _FFT)
        return Analysis(file["f0"], file["log_envelope"].astype(np.float64), aperiodicity)


def warp(rows: Float[np.ndarray, "frames bins"], scale: float) -> Float[np.ndarray, "frames bins"]:
    """Stretch every row along frequency: what lay at f goes to f * scale.

    Example:
        >>> warp(np.array([[0.0, 1.0, 2.0, 3.0]]), 2.0)
        array([[0. , 0.5, 1. , 1.5]])
    """
    bins = rows.shape[1]
    source = np.minimum(np.arange(bins) / scale, bins - 1)
    low = np.minimum(source.astype(int), bins - 2)
    return rows[:, low] + (source - low) * (rows[:, low + 1] - rows[:, low])
