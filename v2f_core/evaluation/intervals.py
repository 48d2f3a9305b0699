"""Intervals of means over persons, paired differences, and corrected p-values.

Persons are resampled, never clips or pairs: the scores of one person are not independent of each other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped
from scipy.stats import norm

from v2f_core.errors import InputError

Statistic = Callable[[Float[np.ndarray, "*batch measures"]], Float[np.ndarray, "*batch"]]


class Interval(NamedTuple):
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(
    values: Float[np.ndarray, "n measures"] | Float[np.ndarray, " n"],
    statistic: Statistic | None = None,
    groups: Shaped[np.ndarray, " n"] | None = None,
    resamples: int = 4000,
    seed: int = 0,
) -> Interval:
    """A statistic of means over persons with its BCa interval (Efron 1987). Persons are resampled, the gallery is not.

    ``values`` has a row a person and a column a measure; ``statistic`` maps a batch of the measures' means to numbers,
    by default to the only mean. With ``groups`` persons are resampled within their group, and a mean is the average of
    the groups' means.

    Raises:
        InputError: fewer than two persons (in a group), or a value that is NaN or infinite.

    Example:
        >>> heads = np.array([1.0] * 30 + [0.0] * 70)
        >>> print(bootstrap(heads))
        0.300 [0.210, 0.390]
    """
    values = values.astype(np.float64).reshape(len(values), -1)
    names = np.zeros(len(values)) if groups is None else groups
    parts = [values[names == name] for name in np.unique(names)]
    if min(map(len, parts), default=0) < 2 or not np.isfinite(values).all():
        raise InputError(f"a bootstrap of {len(values)} persons: expected at least 2 (in each group) and finite values")
    of_means: Statistic = statistic or (lambda means: means[..., 0])
    means = np.stack([part.mean(axis=0) for part in parts])
    value = float(of_means(means.mean(axis=0)))
    counts = _resampling(tuple(map(len, parts)), resamples, seed)
    drawn = [count @ part / len(part) / len(parts) for count, part in zip(counts, parts, strict=True)]
    sample = of_means(np.sum(drawn, axis=0))
    # without one person, the mean of their group moves by (mean − value) / (n − 1)
    jackknife = [
        of_means(means.mean(axis=0) + (mean - part) / (len(part) - 1) / len(parts))
        for part, mean in zip(parts, means, strict=True)
    ]
    left_out = np.concatenate([part.mean() - part for part in jackknife])
    spread = (left_out**2).sum()
    if spread == 0:
        return Interval(value, value, value)
    acceleration = (left_out**3).sum() / (6 * spread**1.5)
    equal = np.isclose(sample, value)  # samples equal to the estimate count half, which matters for hits and misses
    below = (equal * 0.5 + (sample < value) * ~equal).mean()
    bias = norm.ppf(np.clip(below, 0.5 / resamples, 1 - 0.5 / resamples))
    tails = norm.ppf([0.025, 0.975]) + bias
    low, high = np.quantile(sample, norm.cdf(bias + tails / (1 - acceleration * tails)))
    return Interval(value, float(low), float(high))


@lru_cache(maxsize=4)
def _resampling(sizes: tuple[int, ...], resamples: int, seed: int) -> list[Float[np.ndarray, "resamples _"]]:
    """How often each person of each group is drawn; cached, since a table needs the same counts for each row."""
    generator = np.random.default_rng(seed)
    return [generator.multinomial(size, np.full(size, 1 / size), size=resamples).astype(float) for size in sizes]


class Difference(NamedTuple):
    """The difference of two systems with its 95 % interval, over n persons."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}], n = {self.n}"


def paired_difference(
    ours: Float[np.ndarray, " n"],
    theirs: Float[np.ndarray, " m"],
    groups: Shaped[np.ndarray, " n"] | None = None,
    resamples: int = 4000,
) -> Difference:
    """Mean of ours − theirs over the *same persons*, with its BCa interval: persons are resampled as pairs.

    A person who is easy for one system is mostly easy for the other. Pairing removes that variance; comparing two
    single intervals does not. Average each person's value over seeds first.

    Example:
        >>> theirs = np.linspace(0, 1, 50)  # persons differ much more than the systems
        >>> print(paired_difference(theirs + np.tile([0.05, 0.15], 25), theirs))
        +0.100 [+0.086, +0.114], n = 50
    """
    if len(ours) != len(theirs):
        raise InputError(f"{len(ours)} and {len(theirs)} persons: expected the same persons in the same order")
    difference = ours.astype(np.float64) - theirs  # its mean is the difference of the means, also within groups
    return Difference(*bootstrap(difference, None, groups, resamples), n=len(ours))


def holm(p: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """p-values corrected for their number (Holm 1979): at 0.05, at most 5 % of families have a false finding.

    The smallest of m is multiplied by m, the next by m − 1, and so on; no corrected p is below a smaller one's.
    """
    order, adjusted = np.argsort(p), np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted
