"""Ridge regression from voice to face, ranked by a likelihood ratio: the baseline of few persons. Not in the paper.

With standardised voices x and persons' mean faces, m(x) = μ + W·x minimises Σ|z − m(x)|² + λ|W|². λ is chosen by
leaving each person out in turn, which the hat matrix gives in closed form. If faces spread around m(x) with variance s²
in every axis, and around μ with variance s₀² before anything is heard, then (by completing the squares)

    log p(z | x) − log p(z)  =  zᵀ(W·x + (1 − s²/s₀²)·μ) / s²  +  a number for each voice

for z of unit length, so that the ratio ranks faces as the cosine with W·x + (1 − s²/s₀²)·μ does. The cosine with m(x)
itself keeps all of μ, and prefers faces that are typical, whoever speaks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

PENALTIES = tuple(10.0**exponent for exponent in torch.arange(-3, 6.01, 0.25).tolist())  # λ, times the persons' number


class Line(NamedTuple):
    """A linear map of standardised voices: (v − centre) / spread ↦ weight · x + bias."""

    centre: Float[Tensor, " speaker"]
    spread: Float[Tensor, " speaker"]
    weight: Float[Tensor, "identity speaker"]
    bias: Float[Tensor, " identity"]

    def __call__(self, voices: Float[Tensor, "persons speaker"]) -> Float[Tensor, "persons identity"]:
        """The map's value for some voices, not normalised."""
        return (voices - self.centre) / self.spread @ self.weight.T + self.bias


class Ridge(NamedTuple):
    """Two lines with the same weights: a voice's mean face, and what ranks faces as the likelihood ratio does.

    Attributes:
        mean: m(x); its direction has the highest cosine to be expected.
        ratio: W·x + (1 − s²/s₀²)·μ; its cosines rank faces by the likelihood ratio.
        penalty: λ over the number of persons.
        explained: the share of the faces' variance that is predicted for persons left out; at most 0 if nothing is.
    """

    mean: Line
    ratio: Line
    penalty: float
    explained: float


def fit_ridge(voices: Float[Tensor, "persons speaker"], faces: Float[Tensor, "persons identity"]) -> Ridge:
    """Fit both lines to persons' voices and mean faces."""
    v, z = voices.double(), faces.double()
    n = len(v)
    centre, mean = v.mean(dim=0), z.mean(dim=0)
    spread = v.std(dim=0, correction=0)
    spread = torch.where(spread > 1e-6 * spread.max().clamp_min(1e-12), spread, torch.ones_like(spread))
    x, y = (v - centre) / spread, z - mean
    u, s, vt = torch.linalg.svd(x, full_matrices=False)
    projected = u.T @ y
    total = (y * n / max(n - 1, 1)).square().sum()  # each face from the mean of the others
    best, penalty = torch.tensor(torch.inf, dtype=torch.float64), PENALTIES[-1]
    for candidate in PENALTIES:
        kept = s**2 / (s**2 + candidate * n)
        leverage = (u.square() * kept).sum(dim=1) + 1 / n
        left_out = (y - u @ (kept[:, None] * projected)) / (1 - leverage).clamp_min(1e-6)[:, None]
        if (error := left_out.square().sum()) < best:
            best, penalty = error, candidate
    weight = (vt.T @ ((s / (s**2 + penalty * n))[:, None] * projected)).T
    left = float(best / total)  # s² / s₀²

    def line(share: float) -> Line:
        return Line(*(part.float() for part in (centre, spread, weight, share * mean)))

    return Ridge(line(1.0), line(max(0.0, 1 - left)), penalty, 1 - left)
