"""What shape a space of embeddings has, and how alike two spaces are: speech and faces, or before and after a map.

Rows of two spaces are the same persons in the same order. Persons whose face was not detected (zero rows) have no place
in a space: leave them out first, and say how many. None of these numbers is a proof of understanding: sex alone makes
two spaces alike, so that each is to be read within sex, and beside its value for shuffled rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer

from v2f_core.errors import InputError
from v2f_core.evaluation.metrics import l2


class Dimension(NamedTuple):
    """How many directions a cloud of points fills: two averages over the eigenvalues λ of its covariance."""

    participation: float
    entropy: float


def effective_dimension(x: Float[np.ndarray, "n dim"]) -> Dimension:
    """Participation ratio (Σλ)² / Σλ² and exp of the entropy of λ / Σλ; both are k for k directions of equal variance.

    The entropy form is never below the participation ratio, which large λ rule. n points show at most n − 1 directions;
    of d equal ones, the participation ratio sees about d·n / (d + n): compare spaces at the same n only.

    Raises:
        InputError: fewer than two points, NaN, or all points alike.

    Example:
        >>> effective_dimension(np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]))
        Dimension(participation=2.0, entropy=2.0)
    """
    (x,) = _spaces(2, x)
    share = np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2
    share = share / share.sum()
    share = share[share > 0]
    return Dimension(float(1 / (share**2).sum()), float(np.exp(-(share * np.log(share)).sum())))


def alignment(
    a: Float[np.ndarray, "n dim"], b: Float[np.ndarray, "n dim"], power: float = 2.0
) -> Float[np.ndarray, " n"]:
    """‖a − b‖^power of each pair of unit vectors that belong together: lower is better (Wang and Isola 2020, Eq. 1).

    Its mean is their alignment loss. At power 2 it is 2 − 2·cos; an undetected face (a zero vector) counts as cosine 0.

    Example:
        >>> alignment(np.eye(2), np.array([[1.0, 0.0], [1.0, 0.0]])).round(6)
        array([0., 2.])
    """
    return l2(a, b) ** power


def uniformity(z: Float[np.ndarray, "n dim"], t: float = 2.0) -> float:
    """log of the mean of exp(−t‖z_i − z_j‖²) over pairs of unit vectors: lower is more spread (Wang and Isola, Eq. 2).

    0 when all are one point. Vectors drawn uniformly from the sphere of 512 dimensions have −2t(1 − t/512), nearly.

    Raises:
        InputError: fewer than two vectors, or one that is not of norm 1.

    Example:
        >>> round(uniformity(np.eye(3)), 6)  # all at distance √2
        -4.0
    """
    from scipy.special import logsumexp

    if len(z) < 2:
        raise InputError(f"uniformity of {len(z)} vectors: expected at least 2")
    z = z.astype(np.float64)
    _check_unit(z)
    # a row at a time against the rows after it: no n × n table
    parts = [logsumexp(2 * t * (z[i + 1 :] @ z[i] - 1)) for i in range(len(z) - 1)]
    return float(logsumexp(parts) - np.log(len(z) * (len(z) - 1) / 2))


def cka(x: Float[np.ndarray, "n dim_x"], y: Float[np.ndarray, "m dim_y"]) -> float:
    """Linear centred kernel alignment of two spaces of the same persons, debiased: 1 the same geometry, about 0 none.

    Unchanged by rotation, shift and scale of either space. The plain form (Kornblith et al. 2019) nears 1 for *random*
    spaces that are wider than there are persons, which is our case; this one takes HSIC's unbiased estimator (Song et
    al. 2012) in all three places, has mean near 0 for unrelated spaces, and can fall below 0.

    Raises:
        InputError: not as many rows in both, fewer than four, NaN, or a space whose points do not differ.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((50, 8))
        >>> round(cka(x, 3 * x[:, ::-1] + 1), 6)
        1.0
    """
    x, y = _spaces(4, x, y)
    own = _hsic(x, x) * _hsic(y, y)
    if not own > 0:
        raise InputError("CKA of a space in which all points are (nearly) alike: there is no geometry to compare")
    return float(_hsic(x, y) / np.sqrt(own))


def mutual_knn(
    x: Float[np.ndarray, "n dim_x"], y: Float[np.ndarray, "m dim_y"], k: int = 10
) -> Float[np.ndarray, " n"]:
    """For each person the share of its k nearest that both spaces agree on (Huh et al. 2024). Chance is k / (n − 1).

    Nearest by cosine, the person itself not counted; of exact ties the earlier row is taken. For "within sex", give the
    rows of one sex.

    Raises:
        InputError: not as many rows in both, k outside 1 … n − 2, NaN, or a zero vector.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((20, 4))
        >>> bool((mutual_knn(x, 2 * x, k=5) == 1).all())
        True
    """
    x, y = _spaces(3, x, y)
    for space in (x, y):
        if (zero := ~space.any(axis=1)).any():
            raise InputError(f"row {zero.argmax()} is a zero vector (an undetected face?): leave it out, and count it")
    return _shared(*(_neighbours(s / np.linalg.norm(s, axis=1, keepdims=True), k) for s in (x, y)))


class Preservation(NamedTuple):
    """What of the neighbourhoods of a space a picture of it keeps, over k neighbours; 1 is all.

    Attributes:
        trustworthiness: 1 − a penalty for neighbours in the picture that are none.
        continuity: 1 − a penalty for neighbours that the picture tears apart.
        shared: mean share of the k nearest that both have; chance is k / (n − 1), while the other two have 0.5 or so.
    """

    trustworthiness: float
    continuity: float
    shared: float


def preservation(space: Float[np.ndarray, "n dim"], picture: Float[np.ndarray, "m flat"], k: int = 10) -> Preservation:
    """How far a map to fewer dimensions (UMAP, PCA) can be believed, neighbourhood by neighbourhood.

    By Euclidean distance, which orders unit vectors as the cosine does (Venna and Kaski 2001, by scikit-learn).

    Raises:
        InputError: not as many rows in both, NaN, or k not below n / 2.

    Example:
        >>> z = np.random.default_rng(0).standard_normal((40, 2))
        >>> preservation(z, 0.5 * z, k=5)
        Preservation(trustworthiness=1.0, continuity=1.0, shared=1.0)
    """
    from sklearn.manifold import trustworthiness

    space, picture = _spaces(3, space, picture)
    if not 1 <= k < len(space) / 2:
        raise InputError(f"k={k} neighbours of {len(space)} points: expected at least 1 and fewer than half of them")
    return Preservation(
        float(trustworthiness(space, picture, n_neighbors=k)),
        float(trustworthiness(picture, space, n_neighbors=k)),
        float(_shared(_neighbours(space, k), _neighbours(picture, k)).mean()),
    )


def _hsic(x: np.ndarray, y: np.ndarray) -> float:
    # unbiased, with kernels XXᵀ and YYᵀ whose diagonals are 0, written out so that no n × n table is needed
    n = len(x)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    diagonal = (x**2).sum(axis=1), (y**2).sum(axis=1)
    trace = ((x.T @ y) ** 2).sum() - diagonal[0] @ diagonal[1]
    rows = [s @ s.sum(axis=0) - d for s, d in zip((x, y), diagonal, strict=True)]
    total = trace + rows[0].sum() * rows[1].sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (rows[0] @ rows[1])
    return float(total / (n * (n - 3)))


def _neighbours(x: np.ndarray, k: int) -> Integer[np.ndarray, "n k"]:
    from sklearn.neighbors import NearestNeighbors

    if not 1 <= k <= len(x) - 2:
        raise InputError(f"k={k} neighbours of {len(x)} points: expected 1 to {len(x) - 2}")
    return NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x).kneighbors(return_distance=False)


def _shared(a: Integer[np.ndarray, "n k"], b: Integer[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
    return (a[:, :, None] == b[:, None, :]).any(axis=2).mean(axis=1)


def _spaces(least: int, *spaces: np.ndarray) -> list[np.ndarray]:
    if len(lengths := {len(space) for space in spaces}) > 1:
        raise InputError(f"spaces of {sorted(lengths)} rows: expected the same persons in the same order")
    for space in spaces:
        if len(space) < least:
            raise InputError(f"a space of {len(space)} points: expected at least {least}")
        if not np.isfinite(space).all():
            raise InputError("a space has NaN or infinite values: leave such rows out, and count them")
        if (space == space[0]).all():
            raise InputError("a space in which all points are alike: there is no geometry in it")
    return [space.astype(np.float64) for space in spaces]


def _check_unit(z: np.ndarray) -> None:
    off = ~(np.abs(np.linalg.norm(z, axis=1) - 1) < 1e-3)
    if off.any():
        raise InputError(f"row {off.argmax()} has not norm 1; normalise, and leave undetected faces out")
