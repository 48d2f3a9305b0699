"""Whether a difference is there: many tests at once, seeds beside persons, sign flips, and how many persons it takes.

Intervals are in ``intervals``. All tests here are two-sided, and take the same persons in the same order.
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from v2f_core.errors import InputError


def holm(p: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """p-values corrected for being several (Holm 1979): of families tested at 0.05, at most 5 % have a false finding.

    The smallest of m is multiplied by m, the next by m − 1, and so on; no corrected p is below a smaller one's.

    Raises:
        InputError: a value is not between 0 and 1.

    Example:
        >>> holm(np.array([0.01, 0.04, 0.03]))
        array([0.03, 0.06, 0.06])
    """
    if not ((p >= 0) & (p <= 1)).all():
        raise InputError(f"p-values {p}: expected numbers between 0 and 1")
    order = np.argsort(p)
    raised = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(raised, 1)
    return adjusted


class Variances(NamedTuple):
    """Where the doubt of a mean over persons and seeds comes from.

    Attributes:
        mean: of all.
        person, seed, rest: standard deviations between persons, between seeds, and of what is left of one run of one
            person; 0 where the estimate of the variance is not above 0.
        error_persons: standard error of the mean if other persons had been asked, the seeds kept.
        error_seeds: standard error of the mean if other seeds had been run, the persons kept.
    """

    mean: float
    person: float
    seed: float
    rest: float
    error_persons: float
    error_seeds: float


def variance_components(values: Float[np.ndarray, "seeds persons"]) -> Variances:
    """Variance over seeds shown apart from variance over persons, from a table of runs (rows) by persons (columns).

    Analysis of variance of a crossed table: value = mean + person + seed + rest, all random. More persons shrink the
    first error and not the second; more seeds the second, hardly the first. A gain has to stand out against both.

    Raises:
        InputError: fewer than two seeds or persons, or NaN.

    Example:
        >>> found = variance_components(np.array([[0.0, 1.0, 2.0], [0.5, 1.5, 2.5]]))
        >>> found.mean, round(found.person, 3), round(found.seed, 3), found.rest
        (1.25, 1.0, 0.354, 0.0)
    """
    seeds, persons = values.shape
    if min(seeds, persons) < 2 or not np.isfinite(values).all():
        raise InputError(f"a table of {seeds} seeds and {persons} persons: expected at least 2 of each and no NaN")
    values = values.astype(np.float64)
    mean, of_seed, of_person = values.mean(), values.mean(axis=1), values.mean(axis=0)
    rest = ((values - of_seed[:, None] - of_person + mean) ** 2).sum() / ((seeds - 1) * (persons - 1))
    person = max(of_person.var(ddof=1) - rest / seeds, 0)
    seed = max(of_seed.var(ddof=1) - rest / persons, 0)
    return Variances(
        float(mean),
        float(np.sqrt(person)),
        float(np.sqrt(seed)),
        float(np.sqrt(rest)),
        float(np.sqrt((person + rest / seeds) / persons)),
        float(np.sqrt((seed + rest / persons) / seeds)),
    )


def sign_flip(
    ours: Float[np.ndarray, " n"],
    theirs: Float[np.ndarray, " m"],
    groups: Shaped[np.ndarray, " n"] | None = None,
    flips: int = 10_000,
    seed: int = 0,
) -> float:
    """p-value of "both systems are alike": how often random exchanges of the two, person by person, differ as much.

    If the systems are alike, each person's two values could as well stand the other way round. Of hits and misses it is
    McNemar's exact test. Up to ``flips`` ways of exchanging are all tried; of more, a random draw, and p is then
    at least 1 / (flips + 1).

    Args:
        ours, theirs: one measure of two systems; entry i of both is person i.
        groups: sex, for instance: groups count alike, as in ``paired_difference``.
        flips: how many exchanges.
        seed: of the draw.
    Raises:
        InputError: not the same number of persons, none, or NaN.

    Example:
        >>> sign_flip(np.array([2.0, 3, 4, 5, 6]), np.ones(5))  # 2 of 32 ways: all as they are, or all exchanged
        0.0625
    """
    if len(ours) != len(theirs) or not len(ours):
        raise InputError(f"{len(ours)} and {len(theirs)} persons: expected the same persons in the same order")
    difference = ours.astype(np.float64) - theirs
    if not np.isfinite(difference).all():
        raise InputError("a value is NaN or infinite: give a miss its worst value instead")
    if groups is not None:
        _, group, size = np.unique(groups, return_inverse=True, return_counts=True)
        difference = difference / size[group]
    difference = difference[difference != 0]  # exchanging equals changes nothing
    n, found = len(difference), abs(difference.sum())
    exact = 2**n <= flips
    generator, larger = np.random.default_rng(seed), 0
    total = 2**n if exact else flips
    for start in range(0, total, 1000):
        count = min(1000, total - start)
        if exact:
            ones = (np.arange(start, start + count)[:, None] >> np.arange(n)) & 1
        else:
            ones = generator.integers(0, 2, (count, n), dtype=np.int8)
        sums = np.abs((2 * ones - 1) @ difference)
        larger += int((sums >= found - 1e-9 * np.abs(difference).sum()).sum())
    return larger / total if exact else (larger + 1) / (flips + 1)


def discordance(ours: float, theirs: float, correlation: float = 0.0) -> float:
    """Share of persons that one system hits and the other misses, from both hit rates and the hits' correlation φ.

    Raises:
        InputError: a rate is outside 0 … 1, or no two systems of these rates are so correlated.

    Example:
        >>> round(discordance(0.321, 0.298), 3)
        0.428
    """
    if not (0 <= ours <= 1 and 0 <= theirs <= 1):
        raise InputError(f"hit rates {ours} and {theirs}: expected numbers between 0 and 1")
    covariance = correlation * np.sqrt(ours * (1 - ours) * theirs * (1 - theirs))
    share = ours * (1 - theirs) + theirs * (1 - ours) - 2 * covariance
    if not abs(ours - theirs) - 1e-12 <= share <= min(ours + theirs, 2 - ours - theirs) + 1e-12:
        raise InputError(f"hit rates {ours} and {theirs} cannot have the correlation {correlation}")
    return float(share)


def paired_persons(gain: float, discordance: float, power: float = 0.8, level: float = 0.05) -> int:
    """How many test persons would show a gain in R@K, when both systems answer the *same* persons (McNemar's test).

    n = (z_{1−level/2}·√ψ + z_power·√(ψ − gain²))² / gain², with ψ the share of discordant persons (Connor 1987). The
    more alike two systems' hits are, the smaller ψ, and the fewer persons it takes; ψ cannot be below the gain.

    Raises:
        InputError: ψ below the gain or above 1, or no gain.

    Example: the paper's own R@10, 32.1 against SF2F's 29.8 % (Table 2), if the hits are unrelated, and if ψ is 0.1:
        >>> paired_persons(0.023, discordance(0.321, 0.298)), paired_persons(0.023, 0.1)
        (6344, 1482)
    """
    tail, reach = _quantiles(level, power)
    _check_gain(gain, discordance)
    return ceil((tail * discordance**0.5 + reach * (discordance - gain**2) ** 0.5) ** 2 / gain**2)


def paired_power(persons: int, gain: float, discordance: float, level: float = 0.05) -> float:
    """How surely so many persons show a gain in R@K: the chance that McNemar's test finds it (inverse of the above).

    Example: the paper's 378 test persons and its 2.3 points:
        >>> round(paired_power(378, 0.023, discordance(0.321, 0.298)), 2), round(paired_power(378, 0.023, 0.1), 2)
        (0.1, 0.29)
    """
    from scipy.stats import norm

    tail, _ = _quantiles(level, 0.5)
    _check_gain(gain, discordance)
    spread = (discordance - gain**2) ** 0.5
    edges = (np.array([1, -1]) * gain * persons**0.5 - tail * discordance**0.5) / max(spread, 1e-12)
    return float(norm.cdf(edges).sum())


def unpaired_persons(ours: float, theirs: float, power: float = 0.8, level: float = 0.05) -> int:
    """How many test persons *each* of two systems would need, when they answer different persons (two proportions).

    Raises:
        InputError: a rate is outside 0 … 1, or they are equal.

    Example: two papers that report R@10 of 32.1 and 29.8 % on other splits:
        >>> unpaired_persons(0.321, 0.298)
        6341
    """
    tail, reach = _quantiles(level, power)
    discordance(ours, theirs)
    if ours == theirs:
        raise InputError(f"two rates of {ours}: no number of persons shows a gain of nothing")
    mean = (ours + theirs) / 2
    spread = tail * (2 * mean * (1 - mean)) ** 0.5 + reach * (ours * (1 - ours) + theirs * (1 - theirs)) ** 0.5
    return ceil(spread**2 / (ours - theirs) ** 2)


def _quantiles(level: float, power: float) -> tuple[float, float]:
    from scipy.stats import norm

    if not (0 < level < 1 and 0 < power < 1):
        raise InputError(f"level {level} and power {power}: expected numbers between 0 and 1")
    return float(norm.ppf(1 - level / 2)), float(norm.ppf(power))


def _check_gain(gain: float, discordance: float) -> None:
    if not 0 < abs(gain) <= discordance <= 1:
        raise InputError(f"gain {gain} with {discordance} discordant: expected 0 < gain <= discordant <= 1")
