"""Similarity of two spaces of embeddings (speech and faces, before and after a map), and quality of a 2-D picture.

Rows of two spaces are the same persons in the same order. Leave out persons without a detected face (zero rows). Sex
alone makes two spaces similar, so read each value within sex and beside its value for shuffled rows. Spaces of
different lengths, too few points, NaN, and points that are all alike are refused with an InputError.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors

from v2f_core.errors import InputError


def cka(x: Float[np.ndarray, "n dim_x"], y: Float[np.ndarray, "m dim_y"]) -> float:
    """Linear centred kernel alignment of two spaces of the same persons: 1 is equal geometry, whatever the rotation.

    The plain form (Kornblith et al. 2019) nears 1 for *random* spaces that are wider than there are persons, as ours
    are. This one takes HSIC's unbiased estimator (Song et al. 2012): near 0 for unrelated spaces, at times below.

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
    """For each person the share of the k nearest persons that both spaces have in common (Huh et al. 2024).

    Chance is k / (n − 1). Nearest by cosine, without the person. For "within sex", give the rows of one sex.
    """
    x, y = _spaces(3, x, y)
    for space in (x, y):
        if (zero := ~space.any(axis=1)).any():
            raise InputError(f"row {zero.argmax()} is a zero vector (an undetected face?): leave it out, and count it")
    return _shared(*(_neighbours(s / np.linalg.norm(s, axis=1, keepdims=True), k) for s in (x, y)))


class Preservation(NamedTuple):
    """The share of the neighbourhoods of a space that a picture of it preserves, over k neighbours; 1 is all."""

    trustworthiness: float  # 1 − a penalty for neighbours in the picture that are not neighbours in the space
    continuity: float  # 1 − a penalty for neighbours in the space that are separated in the picture
    shared: float  # mean share of the k nearest that both have; chance is k / (n − 1), of the others 0.5 or so


def preservation(space: Float[np.ndarray, "n dim"], picture: Float[np.ndarray, "m flat"], k: int = 10) -> Preservation:
    """How well a map to fewer dimensions (UMAP, PCA) preserves neighbourhoods.

    By Euclidean distance, which orders unit vectors as the cosine does (Venna and Kaski 2001, by scikit-learn).
    """
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
    if not 1 <= k <= len(x) - 2:
        raise InputError(f"k={k} neighbours of {len(x)} points: expected 1 to {len(x) - 2}")
    return NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x).kneighbors(return_distance=False)


def _shared(a: Integer[np.ndarray, "n k"], b: Integer[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
    return (a[:, :, None] == b[:, None, :]).any(axis=2).mean(axis=1)


def _spaces(least: int, *spaces: np.ndarray) -> list[np.ndarray]:
    if len(lengths := {len(space) for space in spaces}) > 1:
        raise InputError(f"spaces of {sorted(lengths)} rows: expected the same persons in the same order")
    for space in spaces:
        if len(space) < least or not np.isfinite(space).all() or (space == space[0]).all():
            raise InputError(f"a space of {len(space)} points: expected at least {least}, finite, and not all alike")
    return [space.astype(np.float64) for space in spaces]
