"""Similarity of two spaces of embeddings: speech and faces, before and after a map, or a space and a 2-D picture of it.

Rows of both are the same persons in the same order. Leave out persons without a detected face (zero rows). Sex alone
makes two spaces similar, so read each value within sex and beside its value for shuffled rows.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
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
    x, y = _spaces(x, y)
    own = _hsic(x, x) * _hsic(y, y)
    if not own > 0:
        raise InputError("CKA of a space in which all points are (nearly) alike: there is no geometry to compare")
    return float(_hsic(x, y) / np.sqrt(own))


def mutual_knn(
    x: Float[np.ndarray, "n dim_x"], y: Float[np.ndarray, "m dim_y"], k: int = 10
) -> Float[np.ndarray, " n"]:
    """For each person the share of the k nearest persons that both spaces have in common (Huh et al. 2024).

    Nearest by Euclidean distance, which orders unit vectors as the cosine does. Chance is k / (n − 1).
    """
    x, y = _spaces(x, y)
    if not 1 <= k <= len(x) - 2:
        raise InputError(f"k={k} neighbours of {len(x)} points: expected 1 to {len(x) - 2}")
    nearest = NearestNeighbors(n_neighbors=k, algorithm="brute")
    a, b = (nearest.fit(space).kneighbors(return_distance=False) for space in (x, y))  # without the person itself
    return (a[:, :, None] == b[:, None, :]).any(axis=2).mean(axis=1)


def _hsic(x: np.ndarray, y: np.ndarray) -> float:
    # unbiased, with kernels XXᵀ and YYᵀ whose diagonals are 0, written out so that no n × n table is needed
    n = len(x)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    diagonal = (x**2).sum(axis=1), (y**2).sum(axis=1)
    trace = ((x.T @ y) ** 2).sum() - diagonal[0] @ diagonal[1]
    rows = [s @ s.sum(axis=0) - d for s, d in zip((x, y), diagonal, strict=True)]
    total = trace + rows[0].sum() * rows[1].sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (rows[0] @ rows[1])
    return float(total / (n * (n - 3)))


def _spaces(*spaces: np.ndarray) -> list[np.ndarray]:
    if len(lengths := {len(space) for space in spaces}) > 1:
        raise InputError(f"spaces of {sorted(lengths)} rows: expected the same persons in the same order")
    for space in spaces:
        if len(space) < 4 or not np.isfinite(space).all() or (space == space[0]).all():
            raise InputError(f"a space of {len(space)} points: expected at least 4, finite, and not all alike")
    return [space.astype(np.float64) for space in spaces]
