"""Do generated faces, taken together, look like real ones? Distances of two clouds of face features.

Features are identities of ArcFace or of a second scorer, one a face. Neither distance asks who is who: the right faces
given to the wrong voices have none. The two clouds must not hold the same pictures; undetected faces (zero vectors)
are in no cloud, and are counted.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from v2f_core.errors import InputError

COMPONENTS = 64


class KernelDistance(NamedTuple):
    """Unbiased squared kernel distance: mean 0 for two clouds of one kind, so that it can fall below 0.

    Attributes:
        value: over all features.
        deviation: standard deviation over random subsets, as the kernel inception distance is reported; it is that of
            clouds of ``subset`` faces, and so too large for the value.
        subset: faces in a subset.
        generated, real: faces compared.
        undetected: rows of each that were zero and left out.
    """

    value: float
    deviation: float
    subset: int
    generated: int
    real: int
    undetected: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.value:.4f} ± {self.deviation:.4f} ({self.generated} against {self.real}, by {self.subset})"


def kernel_distance(
    generated: Float[np.ndarray, "n dim"],
    real: Float[np.ndarray, "m dim"],
    subsets: int = 100,
    subset: int = 100,
    seed: int = 0,
) -> KernelDistance:
    """MMD² with the kernel (x·y + 1)³, unbiased (Gretton et al. 2012, Eq. 3): the kernel inception distance's form.

    Bińkowski et al. 2018 divide x·y by the width, since their features have norms of about √width; ours have norm 1.
    Unbiased means that it does not fall with the number of faces, as Fréchet's distance does: 100 faces suffice for
    a value, if with a wide deviation.

    Args:
        generated, real: unit features; zero rows are undetected faces.
        subsets: how many random subsets give the deviation.
        subset: faces of each cloud in a subset; halves of the smaller cloud where it is smaller than twice that.
        seed: of the subsets.
    Raises:
        InputError: fewer than four detected faces in a cloud, or NaN.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((300, 8)) + np.eye(8)[0]
        >>> x /= np.linalg.norm(x, axis=1, keepdims=True)
        >>> near, far = kernel_distance(x[:150], x[150:]), kernel_distance(x[:150], -x[150:])
        >>> abs(near.value) < 0.02 < far.value
        True
    """
    (x, x_lost), (y, y_lost) = (_detected(side, 4) for side in (generated, real))
    size = min(subset, min(len(x), len(y)) // 2)
    generator = np.random.default_rng(seed)
    drawn = [
        _mmd(x[generator.choice(len(x), size, replace=False)], y[generator.choice(len(y), size, replace=False)])
        for _ in range(subsets)
    ]
    deviation = float(np.std(drawn)) if drawn else float("nan")
    return KernelDistance(_mmd(x, y), deviation, size, len(x), len(y), (x_lost, y_lost))


class FrechetOnComponents(NamedTuple):
    """Fréchet distance of two Gaussians on principal components, with what it depends on.

    Attributes:
        value: the squared distance, 0 for equal means and covariances.
        components: how many.
        explained: share of the real features' variance that they hold.
        generated, real: faces compared.
        undetected: rows of each that were zero and left out.
    """

    value: float
    components: int
    explained: float
    generated: int
    real: int
    undetected: tuple[int, int]


def frechet_on_components(
    generated: Float[np.ndarray, "n dim"], real: Float[np.ndarray, "m dim"], components: int = COMPONENTS
) -> FrechetOnComponents:
    """‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½) on the first principal components of the real features.

    This is no FID, and not comparable with one: other features, few components. A covariance of 512 wide features
    cannot be had from some hundred faces; one of 64 hardly. It is biased upwards, the more the fewer the faces: compare
    systems at the same numbers only, and prefer :func:`kernel_distance`.

    Args:
        generated, real: features; zero rows are undetected faces.
        components: at most 64.
    Raises:
        InputError: components outside 1 … 64 or the width, twice as many components as faces in a cloud, or NaN.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((200, 8))
        >>> round(frechet_on_components(x + 3, x, components=8).value, 6)  # 8 · 3²
        72.0
    """
    if not 1 <= components <= min(COMPONENTS, generated.shape[1]):
        raise InputError(f"{components} components: expected 1 to {min(COMPONENTS, generated.shape[1])}")
    (x, x_lost), (y, y_lost) = (_detected(side, 2 * components) for side in (generated, real))
    centre = y.mean(axis=0)
    _, spread, axes = np.linalg.svd(y - centre, full_matrices=False)
    x, y = (x - centre) @ axes[:components].T, (y - centre) @ axes[:components].T
    first, second = np.cov(x.T).reshape(components, -1), np.cov(y.T).reshape(components, -1)
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    # tr (Σ₁Σ₂)^½ = tr (Σ₁^½ Σ₂ Σ₁^½)^½, which is symmetric
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ second @ root), 0)).sum()
    value = ((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * cross
    explained = (spread[:components] ** 2).sum() / (spread**2).sum()
    return FrechetOnComponents(float(value), components, float(explained), len(x), len(y), (x_lost, y_lost))


def _mmd(x: np.ndarray, y: np.ndarray) -> float:
    n, m = len(x), len(y)
    own = [(_kernel_sum(s, s) - (((s**2).sum(axis=1) + 1) ** 3).sum()) / (len(s) * (len(s) - 1)) for s in (x, y)]
    return float(own[0] + own[1] - 2 * _kernel_sum(x, y) / (n * m))


def _kernel_sum(x: np.ndarray, y: np.ndarray, rows: int = 1024) -> float:
    # in blocks of rows: 10,000 by 10,000 kernel values would take 800 MB
    return float(sum(((x[i : i + rows] @ y.T + 1) ** 3).sum() for i in range(0, len(x), rows)))


def _detected(features: np.ndarray, least: int) -> tuple[np.ndarray, int]:
    if not np.isfinite(features).all():
        raise InputError("a feature is NaN or infinite: an undetected face is a row of zeros")
    kept = features[features.any(axis=1)].astype(np.float64)
    if len(kept) < least:
        raise InputError(f"{len(kept)} detected faces of {len(features)}: expected at least {least}")
    return kept, len(features) - len(kept)
