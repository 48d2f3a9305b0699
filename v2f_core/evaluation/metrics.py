"""Every measure of the tables: likeness, retrieval, verification, variety and realism of sets of faces; intervals.

Likeness and retrieval give a value *per person*, to be resampled over persons. Row i of a score matrix holds the scores
of person i's voice with everybody's face; higher is nearer. An undetected face is a zero vector: a miss with cosine 0.
Rows whose norm is neither 1 nor 0 are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer, Shaped
from scipy.special import rel_entr
from scipy.stats import norm

from v2f_core.errors import InputError

SPLITS = 5  # of the images in VFS
Vectors = Float[np.ndarray, "n dim"]
Scores = Float[np.ndarray, "n n"]
Values = Float[np.ndarray, " n"]  # one a person
Groups = Shaped[np.ndarray, " n"]  # the label of each person's group


def cosine(a: Vectors, b: Vectors) -> Values:
    """Row by row cosine, "Cos" of Table 2. The mean face alone scores high: read cosines as :func:`skill`."""
    return np.einsum("nd,nd->n", _unit_rows(a), _unit_rows(b))


def l2(a: Vectors, b: Vectors) -> Values:
    """Row by row Euclidean distance, from 0 to 2, "L2" of Table 2; an undetected face has √2, as at cosine 0.

    L2² = 2 − 2·cos for unit vectors, so the mean L2 is at most √(2 − 2·mean cos). Table 2 breaks this bound:
    Voice2Face's cosine .259 allows 1.217 and stands beside 1.26.
    """
    a, b = _unit_rows(a), _unit_rows(b)
    return np.where(a.any(axis=1) & b.any(axis=1), np.linalg.norm(a - b, axis=1), np.sqrt(2))


def _unit_rows(vectors: Float[np.ndarray, "*batch dim"]) -> Float[np.ndarray, "*batch dim"]:
    """The vectors in float64, so that ties are ties; their dot products are cosines."""
    vectors = vectors.astype(np.float64)
    norms = np.linalg.norm(vectors, axis=-1).ravel()
    if not (fits := (np.abs(norms - 1) < 1e-3) | (norms == 0)).all():
        row = int((~fits).argmax())
        raise InputError(f"row {row} has norm {norms[row]:.4g}: expected unit vectors, or 0 for an undetected face")
    return vectors


def skill(ours: float, reference: float, ceiling: float) -> float:
    """(ours − reference) / (ceiling − reference): 0 equals the reference, 1 equals the ceiling.

    The reference is the mean face for a cosine (the same-sex mean within sex) and chance for R@k.
    """
    if not ceiling > reference:
        raise InputError(f"ceiling {ceiling:.4f} is not above the reference {reference:.4f}: no room for skill")
    return (ours - reference) / (ceiling - reference)


def score_matrix(query: Vectors, gallery: Float[np.ndarray, "m dim"]) -> Float[np.ndarray, "n m"]:
    """Cosine of every query with every face of the gallery."""
    return _unit_rows(query) @ _unit_rows(gallery).T


def rank(scores: Scores) -> Integer[np.ndarray, " n"]:
    """The rank of the true face in the gallery, from 1 (best); a tie counts against us.

    A constant prediction ties with everything and ranks last, not first.

    Example:
        >>> rank(np.array([[0.9, 0.1, 0.2], [0.5, 0.4, 0.1], [0.3, 0.3, 0.3]]))
        array([1, 2, 3])
    """
    truth = np.diag(scores)[:, None]
    return (~(scores < truth)).sum(axis=1)


def recall(scores: Scores, k: int) -> Values:
    """R@k per person: 1 when the true face is among the k best of a gallery of n, else 0. Chance is min(1, k / n)."""
    return (rank(scores) <= k).astype(np.float64)


def matching(scores: Scores) -> Values:
    """1:2 matching per person: the share of other faces that score below the true one, ties half. Chance is 1/2.

    Example:
        >>> matching(np.array([[0.9, 0.1, 0.2], [0.5, 0.4, 0.1], [0.3, 0.3, 0.3]]))
        array([1. , 0.5, 0.5])
    """
    truth = np.diag(scores)[:, None]
    tied = np.maximum((scores == truth).sum(axis=1) - 1, 0)  # not even itself where the score is NaN
    return ((scores < truth).sum(axis=1) + tied / 2) / (len(scores) - 1)


def within(
    measure: Callable[[Float[np.ndarray, "m m"]], Shaped[np.ndarray, " m"]], scores: Scores, groups: Groups
) -> Values:
    """A measure per person against a gallery of the person's own group only, such as the same sex; NaN in group "".

    A perfect guess of sex alone doubles R@k over all and changes nothing within sex.

    Example:
        >>> right_sex_only = np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]])
        >>> matching(right_sex_only).mean().round(3), within(matching, right_sex_only, np.array(list("ffmm"))).mean()
        (np.float64(0.833), np.float64(0.5))
    """
    values = np.full(len(scores), np.nan)
    for group in set(groups.tolist()) - {""}:
        of = np.flatnonzero(groups == group)
        values[of] = measure(scores[np.ix_(of, of)])
    return values


def pair_cosines(
    vectors: Vectors, person: Groups
) -> tuple[Float[np.ndarray, " same"], Float[np.ndarray, " different"]]:
    """The cosines of all pairs of rows: of one person, and of two."""
    i, j = np.triu_indices(len(person), 1)
    cosines, same = cosine(vectors[i], vectors[j]), person[i] == person[j]
    return cosines[same], cosines[~same]


def error_rates(
    same: Float[np.ndarray, " same"], different: Float[np.ndarray, " different"]
) -> tuple[Float[np.ndarray, " scores"], Float[np.ndarray, " scores"], Float[np.ndarray, " scores"]]:
    """Errors of the rule "same person if the score is at least the threshold", at every score that occurs, rising.

    Returns the thresholds; the share of pairs of one person below each (missed); that of pairs of two at or above it
    (accepted). No pairs of one kind, or a score that is NaN, is refused.
    """
    threshold = np.unique(np.concatenate([same, different]))
    if not (len(same) and len(different)) or np.isnan(threshold).any():
        raise InputError(f"{len(same)} pairs of one person, {len(different)} of two: expected some of each, and no NaN")
    missed = np.searchsorted(np.sort(same), threshold) / len(same)
    accepted = 1 - np.searchsorted(np.sort(different), threshold) / len(different)
    return threshold, missed, accepted


def equal_error_rate(same: Float[np.ndarray, " same"], different: Float[np.ndarray, " different"]) -> float:
    """The mean of both :func:`error_rates` where they are closest: 0 is perfect, 0.5 is chance."""
    _, missed, accepted = error_rates(same, different)
    at = int(np.abs(missed - accepted).argmin())
    return float((missed[at] + accepted[at]) / 2)


def diversity(draws: Float[np.ndarray, "utterances draws dim"]) -> Float[np.ndarray, " utterances"]:
    """How different the faces drawn for one voice are: mean 1 − cos over all pairs of an utterance's draws.

    A faithful sampler has the diversity of the *persons* who could own that voice; higher is not better. A pair with an
    undetected face adds 0.
    """
    _, count, _ = draws.shape
    if count < 2:
        raise InputError(f"diversity of {count} draw an utterance: expected at least 2")
    draws = _unit_rows(draws)
    detected = draws.any(axis=2).sum(axis=1)
    # Σ cos over ordered pairs = ‖Σ z‖² − Σ‖z‖²: no utterance × draws × draws table
    cosines = (draws.sum(axis=1) ** 2).sum(axis=1) - (draws**2).sum(axis=(1, 2))
    return (detected * (detected - 1) - cosines) / (count * (count - 1))


class VFS(NamedTuple):
    """VGGFace score: mean and standard deviation over the splits, and how many images the smallest split holds."""

    value: float
    deviation: float
    images: int


def vfs(posteriors: Float[np.ndarray, "images classes"]) -> VFS:
    """VFS of Table 2: exp of the mean KL divergence of p(y|x) from its mean p(y), averaged over splits of the images.

    The inception score (Salimans et al. 2016) with a face judge: high when the judge is sure about each image and its
    answers differ; the right person plays no part. As in SF2F, images are shuffled and cut into 5 splits. A split
    of N images cannot score above N: give a VFS with its N. Rows that are no distribution are refused.
    """
    posteriors = posteriors.astype(np.float64)
    if len(posteriors) < SPLITS:
        raise InputError(f"VFS of {len(posteriors)} images in {SPLITS} splits: expected an image or more in each")
    bad = ~((posteriors >= 0).all(axis=1) & (np.abs(posteriors.sum(axis=1) - 1) < 1e-3))
    if bad.any():
        raise InputError(f"row {bad.argmax()} of the judge's posteriors is no distribution; expected its softmax")
    order = np.random.default_rng(0).permutation(len(posteriors))
    parts = np.split(posteriors[order], np.arange(1, SPLITS) * len(order) // SPLITS)
    scores = [np.exp(rel_entr(part, part.mean(axis=0)).sum(axis=1).mean()) for part in parts]
    return VFS(float(np.mean(scores)), float(np.std(scores)), min(map(len, parts)))


def kernel_distance(generated: Vectors, real: Float[np.ndarray, "m dim"]) -> float:
    """Distance between a set of generated and a set of real faces: MMD² with the kernel (x·y + 1)³, unbiased.

    Gretton et al. 2012, Eq. 3; the form of the kernel inception distance, for features of norm 1. It is 0 on average
    for two sets of one kind, however few the faces, and can fall below 0. The right faces given to the wrong voices
    have distance 0. The two sets must not share pictures. Undetected faces are left out; at least four must remain.
    """
    x, y = (cloud[cloud.any(axis=1)].astype(np.float64) for cloud in (generated, real))
    if min(len(x), len(y)) < 4 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError(f"{len(x)} and {len(y)} detected faces: expected at least 4 of each, and no NaN")
    x, y = _unit_rows(x), _unit_rows(y)

    def total(a: np.ndarray, b: np.ndarray) -> float:  # in blocks: 10,000 × 10,000 values would take 800 MB
        return float(sum(((a[i : i + 1024] @ b.T + 1) ** 3).sum() for i in range(0, len(a), 1024)))

    own = [(total(s, s) - (((s**2).sum(axis=1) + 1) ** 3).sum()) / (len(s) * (len(s) - 1)) for s in (x, y)]
    return float(own[0] + own[1] - 2 * total(x, y) / (len(x) * len(y)))


# --- statistics: persons are resampled, never clips or pairs, since the scores of a person depend on each other


class Interval(NamedTuple):
    """An estimate over persons, or a difference of two, and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(
    values: Float[np.ndarray, "n measures"] | Values,
    statistic: Callable[[Float[np.ndarray, "*batch measures"]], Float[np.ndarray, "*batch"]] | None = None,
    groups: Groups | None = None,
    resamples: int = 4000,
) -> Interval:
    """A statistic of means over persons with its BCa interval (Efron 1987). Persons are resampled, the gallery is not.

    ``values`` has a row a person and a column a measure; ``statistic`` maps a batch of the measures' means to numbers,
    by default to the only mean. With ``groups`` persons are resampled within their group, and a mean is the average of
    the groups' means. Fewer than two persons (in a group) and values that are not finite are refused.

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
    of_means = statistic or (lambda means: means[..., 0])
    means = np.stack([part.mean(axis=0) for part in parts])
    value = float(of_means(means.mean(axis=0)))
    counts = _resampling(tuple(map(len, parts)), resamples)
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
def _resampling(sizes: tuple[int, ...], resamples: int) -> list[Float[np.ndarray, "resamples _"]]:
    """How often each person of each group is drawn; cached, since a table needs the same counts for each row."""
    generator = np.random.default_rng(0)
    return [generator.multinomial(size, np.full(size, 1 / size), size=resamples).astype(float) for size in sizes]


def paired_difference(
    ours: Values, theirs: Float[np.ndarray, " m"], groups: Groups | None = None, resamples: int = 4000
) -> Interval:
    """Mean of ours − theirs over the *same persons*, with its BCa interval: persons are resampled as pairs.

    Pairing removes the variance between persons, who are mostly easy or hard for both systems. Average each person's
    value over seeds first.

    Example:
        >>> theirs = np.linspace(0, 1, 50)  # persons differ much more than the systems
        >>> print(paired_difference(theirs + np.tile([0.05, 0.15], 25), theirs))
        0.100 [0.086, 0.114]
    """
    if len(ours) != len(theirs):
        raise InputError(f"{len(ours)} and {len(theirs)} persons: expected the same persons in the same order")
    # the mean of the differences is the difference of the means, also within groups
    return bootstrap(ours.astype(np.float64) - theirs, None, groups, resamples)


def holm(p: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """p-values corrected for their number (Holm 1979): at 0.05, at most 5 % of families have a false finding."""
    order, adjusted = np.argsort(p), np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted
