"""How near a predicted identity is to the true one: cosine, retrieval, matching, and how sure one can be.

Every measure is a value *per person* (a query), so that means can be resampled over persons. Conventions: row i of a
score matrix is person i's voice against everybody's face, the truth on its diagonal; higher is nearer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer, Shaped

from v2f_core.errors import InputError

Statistic = Callable[[Float[np.ndarray, "*batch measures"]], Float[np.ndarray, "*batch"]]


def cosine(a: Float[np.ndarray, "n dim"], b: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, " n"]:
    """Row by row cosine of two sets of unit vectors. "Cos" of Table 2.

    A zero vector (an undetected face) has cosine 0 with everything. Chance is no constant: the mean face alone
    scores high, which is why cosines are read as :func:`skill`.

    Example:
        >>> cosine(np.eye(2), np.array([[1.0, 0.0], [1.0, 0.0]]))
        array([1., 0.])
    """
    return np.einsum("nd,nd->n", a.astype(np.float64), b.astype(np.float64))


def score_matrix(query: Float[np.ndarray, "n dim"], gallery: Float[np.ndarray, "m dim"]) -> Float[np.ndarray, "n m"]:
    """Cosine of every query with every face of the gallery, in float64 so that ties are ties.

    Example:
        >>> score_matrix(np.eye(2), np.eye(2))
        array([[1., 0.],
               [0., 1.]])
    """
    return query.astype(np.float64) @ gallery.astype(np.float64).T


def rank(scores: Float[np.ndarray, "n n"]) -> Integer[np.ndarray, " n"]:
    """The place of the true face among all, 1 the best; a tie counts against us.

    A constant prediction ties with everything and ranks last, not first.

    Example:
        >>> rank(np.array([[0.9, 0.1, 0.2], [0.5, 0.4, 0.1], [0.3, 0.3, 0.3]]))
        array([1, 2, 3])
    """
    truth = np.diag(scores)[:, None]
    return (~(scores < truth)).sum(axis=1)


def recall(scores: Float[np.ndarray, "n n"], k: int) -> Float[np.ndarray, " n"]:
    """R@k per person: 1 when the true face is among the k best of a gallery of n, else 0. Chance is k / n.

    Example:
        >>> recall(np.eye(3), k=1), recall(np.zeros((3, 3)), k=2)
        (array([1., 1., 1.]), array([0., 0., 0.]))
    """
    if not 1 <= k <= len(scores):
        raise InputError(f"R@{k} of a gallery of {len(scores)}: expected k between 1 and {len(scores)}")
    return (rank(scores) <= k).astype(np.float64)


def matching(scores: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " n"]:
    """1:2 matching per person: the share of other faces that score below the true one, ties half. Chance is 1/2.

    Its mean is the area under the ROC curve of "same person or not", computed query by query.

    Example:
        >>> matching(np.array([[0.9, 0.1, 0.2], [0.5, 0.4, 0.1], [0.3, 0.3, 0.3]]))
        array([1. , 0.5, 0.5])
    """
    truth = np.diag(scores)[:, None]
    won = (truth > scores) + 0.5 * (truth == scores)
    return (won.sum(axis=1) - 0.5) / (len(scores) - 1)


def within(
    measure: Callable[[Float[np.ndarray, "m m"]], Float[np.ndarray, " m"]],
    scores: Float[np.ndarray, "n n"],
    groups: Shaped[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    """A measure per person against a gallery of the person's own group only, such as the same sex.

    A perfect guess of sex alone doubles R@k over all; within sex it is worth nothing. R@k's chance is k / group size.

    Example:
        >>> right_sex_only = np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]])
        >>> matching(right_sex_only).mean().round(3), within(matching, right_sex_only, np.array(list("ffmm"))).mean()
        (np.float64(0.833), np.float64(0.5))
    """
    values = np.empty(len(scores))
    for group in np.unique(groups):
        of = np.flatnonzero(groups == group)
        values[of] = measure(scores[np.ix_(of, of)])
    return values


def skill(
    ours: Float[np.ndarray, "*batch"] | float, reference: float, ceiling: float
) -> Float[np.ndarray, "*batch"] | float:
    """(ours − reference) / (ceiling − reference): 0 is no better than the reference, 1 is as good as anybody could be.

    The reference is the mean face for a cosine (the same-sex mean within sex) and chance for R@k.

    Raises:
        InputError: the ceiling does not lie above the reference, so that there is nothing to be skilled at.

    Example:
        >>> round(skill(0.55, reference=0.5, ceiling=0.6), 3)
        0.5
    """
    if not ceiling > reference:
        raise InputError(f"ceiling {ceiling:.4f} is not above the reference {reference:.4f}: no room for skill")
    return (ours - reference) / (ceiling - reference)


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
