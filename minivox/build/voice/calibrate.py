"""What each timbre has of its own: formant scale, colour and tempo, measured so that they can be divided out.

The timbres of a sex are compared with its four reference timbres, which say the same sentences, frame by frame after
time alignment. What is left of a voice's vocal tract, spectrum and rate is then the person's, not the synthesiser's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from minivox.build.voice.world_vocoder import FRAME_MS, FREQUENCIES, Analysis, warp

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_STEP = 2  # every second frame: 10 ms
_SCALES = np.exp(np.linspace(-0.25, 0.25, 26))
COLOUR_HZ = np.geomspace(100, 8000, 39)  # six to the octave
_MEL_GRID = 700 * (np.exp(np.linspace(np.log(1 + 150 / 700), np.log(1 + 5500 / 700), 80)) - 1)


Speech = Mapping[tuple[str, int], Analysis]  # (timbre's name, sentence) -> analysis of its base speech


class Own(NamedTuple):
    """A timbre's own part of what a voice's parameters set."""

    log_scale: float  # log formant scale against the references of its sex
    colour_db: tuple[float, ...]  # mean voiced spectrum against the references', at COLOUR_HZ
    seconds: dict[int, float]  # sentence -> its mean length by the references


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
    return tuple(np.array(path[::-1]).T)


def calibrate(said: Speech, references: Speech) -> dict[str, Own]:
    """Measure every timbre's own parameters, against the mean of the reference timbres of its sex.

    Args:
        said: the timbres to calibrate, the references among them or not; a name starts with the sex, "f" or "m".
        references: timbres that say every sentence.
    """
    said = {**references, **said}
    names = {name for name, _ in references}
    scales = {
        (name, sentence, other): -log_scale_between(part, references[other, sentence])
        for (name, sentence), part in tqdm(said.items(), desc="calibration", unit="sentence")
        for other in sorted(names)
        if other[0] == name[0] and other != name
    }
    log_scale = {name: float(value) for name, value in _two_way(scales, names).items()}
    colour = _two_way({(n, s, n[0]): _colour(part, log_scale[n]) for (n, s), part in said.items()}, names)
    lengths = defaultdict(list)
    for (_, sentence), part in references.items():
        lengths[sentence].append(part.f0.size * FRAME_MS / 1000)
    seconds = {sentence: float(np.mean(values)) for sentence, values in sorted(lengths.items())}
    return {name: Own(log_scale[name], tuple(colour[name].round(2).tolist()), seconds) for name in log_scale}


def _two_way(values: Mapping[tuple[str, int, str], Any], zero: Collection[str]) -> dict[str, Any]:
    """Split value(name, sentence, other), a number or an array, into a part of the name and one of (sentence, other).

    The names' parts are centred so that those in ``zero`` have a mean of 0 within each sex.
    """
    name_part: dict[str, Any] = defaultdict(float)
    for _ in range(20):
        rest, own = defaultdict(list), defaultdict(list)
        for (name, *pair), value in values.items():
            rest[tuple(pair)].append(value - name_part[name])
        pair_part = {pair: np.median(group, 0) for pair, group in rest.items()}
        for (name, *pair), value in values.items():
            own[name].append(value - pair_part[tuple(pair)])
        name_part = {name: np.mean(group, 0) for name, group in own.items()}
    means = {sex: np.mean([name_part[n] for n in zero if n[0] == sex], 0) for sex in {n[0] for n in name_part}}
    return {name: value - means[name[0]] for name, value in name_part.items()}


def _colour(part: Analysis, log_scale: float) -> Float[np.ndarray, " points"]:
    """The mean voiced spectrum in decibels, level taken out, once the timbre's own formant scale is taken out."""
    mean = warp(part.log_envelope[part.f0 > 0].mean(0, keepdims=True), float(np.exp(-log_scale)))[0]
    colour = np.interp(COLOUR_HZ, FREQUENCIES, mean * 10 / np.log(10))
    return colour - colour.mean()
