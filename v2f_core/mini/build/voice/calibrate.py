"""What each timbre has of its own: formant scale, nasal colouring and tempo, measured so that they can be divided out.

All timbres of a sex are compared with four reference timbres that say the same sentences, frame by frame after time
alignment. What is left of a voice's vocal tract, nasality and rate is then the person's, not the synthesiser's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from v2f_core.mini.build.voice.world_vocoder import FRAME_MS, FREQUENCIES, Analysis, warp

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_STEP = 2  # every second frame: 10 ms
_SCALES = np.exp(np.linspace(-0.25, 0.25, 26))
_MEL_GRID = 700 * (np.exp(np.linspace(np.log(1 + 150 / 700), np.log(1 + 5500 / 700), 80)) - 1)


class Own(NamedTuple):
    """A timbre's own part of three voice parameters."""

    log_scale: float  # log formant scale against the mean of its sex
    nasal: float  # in units of the trait ``nasal``
    seconds: dict[int, float]  # sentence -> its mean length over all timbres


def nasal_pattern(hertz: Float[np.ndarray, " bins"]) -> Float[np.ndarray, " bins"]:
    """Decibels that one unit of nasality adds: a pole near 250 Hz, a zero near 1 kHz.

    Example:
        >>> nasal_pattern(np.array([250.0, 1000.0])).round(1)
        array([ 3., -5.])
    """
    octave = np.log2(np.maximum(hertz, 20) / 1000)
    return 3 * np.exp(-0.5 * ((octave + 2) / 0.4) ** 2) - 5 * np.exp(-0.5 * (octave / 0.35) ** 2)


def log_scale_between(one: Analysis, other: Analysis) -> float:
    """The log of the factor on frequency that makes ``one``'s formants most like ``other``'s (same sentence)."""
    a, b = (part.log_envelope[::_STEP] for part in (one, other))
    voiced = tuple(part.f0[::_STEP] > 0 for part in (one, other))
    i, j = align(_cepstrum(a, 1, 14), _cepstrum(b, 1, 14))
    both = voiced[0][i] & voiced[1][j]
    i, j = i[both], j[both]
    target = _cepstrum(b, 2, 22)[j]
    miss = np.array([np.median(((_cepstrum(a, 2, 22, s)[i] - target) ** 2).sum(1)) for s in _SCALES])
    best = int(np.clip(miss.argmin(), 1, miss.size - 2))
    left, mid, right = miss[best - 1 : best + 2]
    vertex = 0.5 * (left - right) / (left - 2 * mid + right)  # of the parabola through the three
    return float(np.log(_SCALES[best]) + vertex * np.log(_SCALES[1] / _SCALES[0]))


def _cepstrum(
    log_envelope: Float[np.ndarray, "frames 513"], start: int, stop: int, scale: float = 1.0
) -> Float[np.ndarray, "frames coefficients"]:
    from scipy.fft import dct

    at = np.minimum(_MEL_GRID / scale, FREQUENCIES[-2]) / FREQUENCIES[1]
    low = at.astype(int)
    rows = log_envelope[:, low] + (at - low) * (log_envelope[:, low + 1] - log_envelope[:, low])
    return dct(rows, norm="ortho", axis=1)[:, start:stop]


def align(
    one: Float[np.ndarray, "n d"], other: Float[np.ndarray, "m d"]
) -> tuple[Int[np.ndarray, " path"], Int[np.ndarray, " path"]]:
    """Dynamic time warping: the cheapest monotone path of frame pairs from first to last.

    Example:
        >>> i, j = align(np.array([[0.0], [1.0]]), np.array([[0.0], [0.0], [1.0]]))
        >>> i.tolist(), j.tolist()
        ([0, 0, 1], [0, 1, 2])
    """
    from scipy.spatial.distance import cdist

    one, other = one - one.mean(0), other - other.mean(0)
    cost = cdist(one, other)
    n, m = cost.shape
    total = np.full((n + 1, m + 1), np.inf)
    total[0, 0] = 0
    for k in range(n + m - 1):  # anti-diagonals: all cells of one are independent
        i = np.arange(max(0, k - m + 1), min(n, k + 1))
        j = k - i
        total[i + 1, j + 1] = cost[i, j] + np.minimum(np.minimum(total[i, j], total[i, j + 1]), total[i + 1, j])
    i, j, path = n, m, []
    while i and j:
        path.append((i - 1, j - 1))
        i, j = min(((i - 1, j - 1), (i - 1, j), (i, j - 1)), key=lambda at: total[at])
    return tuple(np.array(path[::-1]).T)  # type: ignore[return-value]


def calibrate(said: Mapping[tuple[str, int], Analysis], references: Iterable[str]) -> dict[str, Own]:
    """Measure every timbre's own parameters; names start with their sex.

    Args:
        said: (timbre's name, sentence) -> analysis of its base speech.
        references: timbres that say every sentence; each is compared with those of its own sex.
    """
    references = list(references)
    scales: dict[tuple[str, int, str], float] = {
        (name, sentence, reference): -log_scale_between(part, said[reference, sentence])
        for (name, sentence), part in said.items()
        for reference in references
        if reference[0] == name[0] and reference != name
    }
    log_scale = _two_way(scales)
    nasal = _two_way({(n, s, n[0]): _nasality(part, log_scale[n]) for (n, s), part in said.items()})
    lengths = defaultdict(list)
    for (_, sentence), part in said.items():
        lengths[sentence].append(part.f0.size * FRAME_MS / 1000)
    seconds = {sentence: float(np.mean(values)) for sentence, values in sorted(lengths.items())}
    return {name: Own(log_scale[name], nasal[name], seconds) for name in log_scale}


def _two_way(values: Mapping[tuple[str, int, str], float]) -> dict[str, float]:
    """Split value(name, sentence, reference) into a part of the name and a part of (sentence, reference); centre."""
    name_part: dict[str, float] = defaultdict(float)
    for _ in range(20):
        rest = defaultdict(list)
        for (name, sentence, reference), value in values.items():
            rest[sentence, reference].append(value - name_part[name])
        pair_part = {key: np.median(group) for key, group in rest.items()}
        own = defaultdict(list)
        for (name, sentence, reference), value in values.items():
            own[name].append(value - pair_part[sentence, reference])
        name_part = defaultdict(float, {name: float(np.mean(group)) for name, group in own.items()})
    means = {sex: np.mean([v for n, v in name_part.items() if n[0] == sex]) for sex in {n[0] for n in name_part}}
    return {name: float(value - means[name[0]]) for name, value in name_part.items()}


def _nasality(part: Analysis, log_scale: float) -> float:
    """How much of the nasal pattern the mean voiced spectrum holds, in the trait's units."""
    loud = part.f0 > 0
    mean_db = warp(part.log_envelope[loud].mean(0, keepdims=True), float(np.exp(-log_scale)))[0] * 10 / np.log(10)
    hertz = np.geomspace(120, 3000, 60)
    octave = np.log2(hertz / 1000)
    basis = np.stack([nasal_pattern(hertz), np.ones_like(octave), octave], 1)
    return float(np.linalg.lstsq(basis, np.interp(hertz, FREQUENCIES, mean_db), rcond=None)[0][0])
