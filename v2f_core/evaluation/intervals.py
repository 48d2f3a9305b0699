"""How sure one can be of a mean over persons: bootstrap intervals, of one system and of the difference of two."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

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
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """A statistic of means over persons, with its BCa interval (Efron 1987). Persons are resampled, the gallery is not.

    Several measures of the same persons are resampled together, which makes differences between systems paired.

    Args:
        values: one row a person, one column a measure (one measure may be a plain vector).
        statistic: maps the measures' means to a number; without it, the (only) mean itself. Called on a batch.
        groups: when given, persons are resampled within their group, and each mean is the macro-average of the groups'.
        resamples: how many bootstrap samples.
        level: of the interval.
        seed: of the resampling.
    Raises:
        InputError: fewer than two persons, or a value that is NaN.

    Example:
        >>> heads = np.array([1.0] * 30 + [0.0] * 70)
        >>> print(bootstrap(heads))
        0.300 [0.210, 0.390]
    """
    from scipy.stats import norm

    values = values.astype(np.float64).reshape(len(values), -1)
    if len(values) < 2 or not np.isfinite(values).all():
        raise InputError(f"a bootstrap of {len(values)} persons: expected at least 2 and no NaN among their values")
    names = np.zeros(len(values)) if groups is None else groups
    parts = [values[names == name] for name in np.unique(names)]
    if min(map(len, parts)) < 2:
        raise InputError("a bootstrap within groups needs at least 2 persons in each")
    of_means: Statistic = statistic or (lambda means: means[..., 0])

    means = np.stack([part.mean(axis=0) for part in parts])
    value = float(of_means(means.mean(axis=0)))
    generator = np.random.default_rng(seed)
    drawn = np.zeros((resamples, values.shape[1]))
    jackknife = []
    for part, mean in zip(parts, means, strict=True):
        n = len(part)
        counts = generator.multinomial(n, np.full(n, 1 / n), size=resamples)
        drawn += counts @ part / n / len(parts)
        # leaving one person out moves this group's mean by (mean − value) / (n − 1)
        jackknife.append(of_means(means.mean(axis=0) + (mean - part) / (n - 1) / len(parts)))
    sample = of_means(drawn)
    left_out = np.concatenate([part.mean() - part for part in jackknife])
    spread = (left_out**2).sum()
    if spread == 0:
        return Interval(value, value, value)
    acceleration = (left_out**3).sum() / (6 * spread**1.5)
    # resamples equal to the estimate count half, which matters for hits and misses
    below = (np.isclose(sample, value) * 0.5 + (sample < value) * ~np.isclose(sample, value)).mean()
    bias = norm.ppf(np.clip(below, 0.5 / resamples, 1 - 0.5 / resamples))
    tails = norm.ppf([(1 - level) / 2, (1 + level) / 2]) + bias
    low, high = np.quantile(sample, norm.cdf(bias + tails / (1 - acceleration * tails)))
    return Interval(value, float(low), float(high))


class Difference(NamedTuple):
    """How much better one system is than another, with its 95 % interval, over n persons."""

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
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Mean of ours − theirs over the *same persons*, with its BCa interval: persons are resampled as pairs.

    What makes a person easy for one system makes them easy for the other. Pairing takes that out; comparing two single
    intervals would not, and would miss most true differences. With several seeds, average each person's value first.

    Args:
        ours, theirs: one measure of two systems; entry i of both is person i.
        groups: sex, for instance: persons are resampled within their group, and groups count alike.
        resamples, level, seed: as for :func:`bootstrap`.
    Raises:
        InputError: not as many persons in both, fewer than two (in a group), or a value that is NaN.

    Example:
        >>> theirs = np.linspace(0, 1, 50)  # persons differ much more than the systems
        >>> print(paired_difference(theirs + np.tile([0.05, 0.15], 25), theirs))
        +0.100 [+0.086, +0.114], n = 50
    """
    if len(ours) != len(theirs):
        raise InputError(f"{len(ours)} and {len(theirs)} persons: expected the same persons in the same order")
    for name, values in (("ours", ours), ("theirs", theirs)):
        if bad := int((~np.isfinite(values)).sum()):
            raise InputError(
                f"{name}: {bad} of {len(values)} values are NaN or infinite; give a miss its worst value instead"
            )
    # the mean of differences is the difference of means, also within groups
    interval = bootstrap(ours.astype(np.float64) - theirs, None, groups, resamples, level, seed)
    return Difference(*interval, n=len(ours))
