"""Every measure of the tables: likeness, retrieval, verification, and the variety and realism of sets of faces.

Measures of likeness and retrieval give a value *per person*, so that their means can be resampled over persons
(:mod:`~v2f_core.evaluation.intervals`). Row i of a score matrix holds the scores of person i's voice with everybody's
face, the true face on the diagonal; higher is nearer. An undetected face is a zero vector: a miss with cosine 0. Rows
whose norm is neither 1 nor 0 are refused with an InputError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer, Shaped
from scipy.special import rel_entr

from v2f_core.errors import InputError
from v2f_core.evaluation import intervals

# the statistics of these values, so that one module holds everything that a table shows
Difference, Interval = intervals.Difference, intervals.Interval
bootstrap, paired_difference, holm = intervals.bootstrap, intervals.paired_difference, intervals.holm
SPLITS = 5  # of the images in VFS


# --- likeness


def cosine(a: Float[np.ndarray, "n dim"], b: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, " n"]:
    """Row by row cosine, "Cos" of Table 2. The mean face alone scores high, so read cosines as :func:`skill`."""
    return np.einsum("nd,nd->n", _unit_rows(a), _unit_rows(b))


def l2(a: Float[np.ndarray, "n dim"], b: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, " n"]:
    """Row by row Euclidean distance, from 0 to 2, "L2" of Table 2; an undetected face has √2, as at cosine 0.

    L2² = 2 − 2·cos for unit vectors, so L2 ranks persons as the cosine does, and the mean L2 is at most
    √(2 − 2·mean cos). Table 2 breaks this bound: Voice2Face's cosine .259 allows 1.217 and stands beside 1.26.

    Example:
        >>> l2(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]), np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]))
        array([0.        , 2.        , 1.41421356])
    """
    a, b = _unit_rows(a), _unit_rows(b)
    return np.where(a.any(axis=1) & b.any(axis=1), np.linalg.norm(a - b, axis=1), np.sqrt(2))


def _unit_rows(vectors: Float[np.ndarray, "*batch dim"]) -> Float[np.ndarray, "*batch dim"]:
    """The vectors in float64, so that ties are ties, after a check that a dot product is a cosine."""
    vectors = vectors.astype(np.float64)
    norms = np.linalg.norm(vectors, axis=-1).ravel()
    if not (fits := (np.abs(norms - 1) < 1e-3) | (norms == 0)).all():
        row = int((~fits).argmax())
        raise InputError(f"row {row} has norm {norms[row]:.4g}: expected unit vectors, or 0 for an undetected face")
    return vectors


def skill(
    ours: Float[np.ndarray, "*batch"] | float, reference: float, ceiling: float
) -> Float[np.ndarray, "*batch"] | float:
    """(ours − reference) / (ceiling − reference): 0 equals the reference, 1 equals the ceiling.

    The reference is the mean face for a cosine (the same-sex mean within sex) and chance for R@k.
    """
    if not ceiling > reference:
        raise InputError(f"ceiling {ceiling:.4f} is not above the reference {reference:.4f}: no room for skill")
    return (ours - reference) / (ceiling - reference)


# --- retrieval


def score_matrix(query: Float[np.ndarray, "n dim"], gallery: Float[np.ndarray, "m dim"]) -> Float[np.ndarray, "n m"]:
    """Cosine of every query with every face of the gallery."""
    return _unit_rows(query) @ _unit_rows(gallery).T


def rank(scores: Float[np.ndarray, "n n"]) -> Integer[np.ndarray, " n"]:
    """The rank of the true face in the gallery, from 1 (best); a tie counts against us.

    A constant prediction ties with everything and ranks last, not first.

    Example:
        >>> rank(np.array([[0.9, 0.1, 0.2], [0.5, 0.4, 0.1], [0.3, 0.3, 0.3]]))
        array([1, 2, 3])
    """
    truth = np.diag(scores)[:, None]
    return (~(scores < truth)).sum(axis=1)


def recall(scores: Float[np.ndarray, "n n"], k: int) -> Float[np.ndarray, " n"]:
    """R@k per person: 1 when the true face is among the k best of a gallery of n, else 0. Chance is min(1, k / n).

    Example:
        >>> recall(np.eye(3), k=1), recall(np.zeros((3, 3)), k=2), recall(np.zeros((3, 3)), k=10)
        (array([1., 1., 1.]), array([0., 0., 0.]), array([1., 1., 1.]))
    """
    if k < 1:
        raise InputError(f"R@{k}: expected k of at least 1")
    return (rank(scores) <= k).astype(np.float64)


def matching(scores: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " n"]:
    """1:2 matching per person: the share of other faces that score below the true one, ties half. Chance is 1/2.

    Example:
        >>> matching(np.array([[0.9, 0.1, 0.2], [0.5, 0.4, 0.1], [0.3, 0.3, 0.3]]))
        array([1. , 0.5, 0.5])
    """
    truth = np.diag(scores)[:, None]
    tied = np.maximum((scores == truth).sum(axis=1) - 1, 0)  # not even itself where the score is NaN
    return ((scores < truth).sum(axis=1) + tied / 2) / (len(scores) - 1)


def within(
    measure: Callable[[Float[np.ndarray, "m m"]], Shaped[np.ndarray, " m"]],
    scores: Float[np.ndarray, "n n"],
    groups: Shaped[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
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


# --- same person or not


def pair_cosines(
    vectors: Float[np.ndarray, "n dim"], person: Shaped[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " same"], Float[np.ndarray, " different"]]:
    """The cosines of all pairs of rows: pairs of one person, and pairs of two."""
    i, j = np.triu_indices(len(person), 1)
    cosines, same = cosine(vectors[i], vectors[j]), person[i] == person[j]
    return cosines[same], cosines[~same]


def error_rates(
    same: Float[np.ndarray, " same"], different: Float[np.ndarray, " different"]
) -> tuple[Float[np.ndarray, " scores"], Float[np.ndarray, " scores"], Float[np.ndarray, " scores"]]:
    """Errors of the rule "same person if the score is at least the threshold", at every score that occurs, rising.

    Returns:
        the thresholds; the share of pairs of one person below each (missed); that of pairs of two at or above it
        (accepted).
    Raises:
        InputError: there are no pairs of one kind, or a score is NaN.
    """
    threshold = np.unique(np.concatenate([same, different]))
    if not (len(same) and len(different)) or np.isnan(threshold).any():
        pairs = f"{len(same)} pairs of one person, {len(different)} of two"
        raise InputError(f"{pairs}: expected at least one of each, and no score that is NaN")
    missed = np.searchsorted(np.sort(same), threshold) / len(same)
    accepted = 1 - np.searchsorted(np.sort(different), threshold) / len(different)
    return threshold, missed, accepted


def equal_error_rate(same: Float[np.ndarray, " same"], different: Float[np.ndarray, " different"]) -> float:
    """The mean of both :func:`error_rates` where they are closest: 0 is perfect, 0.5 is chance."""
    _, missed, accepted = error_rates(same, different)
    at = int(np.abs(missed - accepted).argmin())
    return float((missed[at] + accepted[at]) / 2)


# --- sets of faces


def diversity(draws: Float[np.ndarray, "utterances draws dim"]) -> Float[np.ndarray, " utterances"]:
    """How different the faces drawn for one voice are: mean 1 − cos over all pairs of an utterance's draws.

    A faithful sampler of p(face | voice) has the diversity of the *persons* who could own that voice; higher is not
    better. A pair with an undetected face adds 0.

    Example:
        >>> diversity(np.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]]))
        array([1., 0., 0.])
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


def vfs(posteriors: Float[np.ndarray, "images classes"], seed: int = 0) -> VFS:
    """VFS of Table 2: exp of the mean KL divergence of p(y|x) from its mean p(y), averaged over splits of the images.

    The inception score (Salimans et al. 2016) with a face judge: high when the judge is sure about each image and its
    answers differ; the right person plays no part. As in SF2F's published code images are shuffled and cut into 5
    splits. A split of N images cannot score above N (nor above the number of classes): give a VFS with its N.

    Raises:
        InputError: a row is no distribution (negative, NaN, not summing to 1), or there are fewer images than splits.
    """
    posteriors = posteriors.astype(np.float64)
    if len(posteriors) < SPLITS:
        raise InputError(f"VFS of {len(posteriors)} images in {SPLITS} splits: expected an image or more in each")
    bad = ~((posteriors >= 0).all(axis=1) & (np.abs(posteriors.sum(axis=1) - 1) < 1e-3))
    if bad.any():
        raise InputError(f"row {bad.argmax()} of the judge's posteriors is no distribution; expected its softmax")
    order = np.random.default_rng(seed).permutation(len(posteriors))
    parts = np.split(posteriors[order], np.arange(1, SPLITS) * len(order) // SPLITS)
    scores = [np.exp(rel_entr(part, part.mean(axis=0)).sum(axis=1).mean()) for part in parts]
    return VFS(float(np.mean(scores)), float(np.std(scores)), min(map(len, parts)))


def kernel_distance(generated: Float[np.ndarray, "n dim"], real: Float[np.ndarray, "m dim"]) -> float:
    """Distance between a set of generated and a set of real faces: MMD² with the kernel (x·y + 1)³, unbiased.

    Gretton et al. 2012, Eq. 3; the form of the kernel inception distance, for features of norm 1. It is 0 on average
    for two sets of one kind, however few the faces, and can fall below 0. The right faces given to the wrong voices
    have distance 0. The two sets must not share pictures; undetected faces are left out.

    Raises:
        InputError: fewer than four detected faces in a set, or NaN.
    """
    x, y = (cloud[cloud.any(axis=1)].astype(np.float64) for cloud in (generated, real))
    if min(len(x), len(y)) < 4 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError(f"{len(x)} and {len(y)} detected faces: expected at least 4 of each, and no NaN")
    x, y = _unit_rows(x), _unit_rows(y)

    def total(a: np.ndarray, b: np.ndarray) -> float:  # in blocks: 10,000 × 10,000 values would take 800 MB
        return float(sum(((a[i : i + 1024] @ b.T + 1) ** 3).sum() for i in range(0, len(a), 1024)))

    own = [(total(s, s) - (((s**2).sum(axis=1) + 1) ** 3).sum()) / (len(s) * (len(s) - 1)) for s in (x, y)]
    return float(own[0] + own[1] - 2 * total(x, y) / (len(x) * len(y)))
