"""Random identities: uniform on the sphere, or around a mean direction (von Mises–Fisher).

They are the null of every identity claim (what do directions without meaning score?) and honest noise for an identity:
Gaussian noise added to a unit vector of 512 entries mostly changes its length, not where it points.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from v2f_core.errors import InputError
from v2f_core.identity.sphere import check_unit, normalise


def uniform(
    count: int, dim: int, generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "count dim"]:
    """Directions without preference. The cosine of two has mean 0 and variance 1 / dim: 0 ± 0.044 at 512.

    Example:
        >>> uniform(2, 512, torch.Generator().manual_seed(0)).norm(dim=1)
        tensor([1.0000, 1.0000])
    """
    return normalise(torch.randn(count, dim, generator=generator, device=generator.device, dtype=dtype))


def von_mises_fisher(
    mean: Float[Tensor, " dim"], concentration: float, count: int, generator: torch.Generator
) -> Float[Tensor, "count dim"]:
    """Draws with density ∝ exp(κ·cos θ), θ the angle to ``mean``: the Gaussian of the sphere.

    Uniform directions are pushed towards the mean by a map with a known density, then accepted or refused so that the
    density becomes the wanted one (Ulrich 1984; Wood 1994, "Simulation of the von Mises Fisher distribution", algorithm
    VM*). A draw keeps its direction around the mean, since that is uniform in both. All steps are in
    float64 and use 1 − cos θ, which keeps its digits where cos θ is nearly 1.

    κ for a wanted mean cosine r is about r(dim − r²)/(1 − r²) (Banerjee et al. 2005, eq. 4.4): κ = 341 for r = 0.5 at
    width 512.

    Args:
        mean: a unit vector of at least two entries.
        concentration: κ ≥ 0; 0 is uniform.
        count: how many.
        generator: where the randomness comes from.
    Raises:
        InputError: κ is negative, NaN or above 1e15, where every draw is the mean itself; the mean is not of unit
            length, or has a single entry.

    Example:
        >>> mean = torch.eye(512)[0]
        >>> draws = von_mises_fisher(mean, 341.0, 1000, torch.Generator().manual_seed(0))
        >>> (draws @ mean).mean()
        tensor(0.50...)
    """
    dim = len(mean)
    if not 0 <= concentration <= 1e15:
        raise InputError(f"concentration {concentration}: expected a number from 0 to 1e15, such as 341")
    if dim < 2:
        raise InputError(f"a mean direction of {dim} entry: expected at least 2")
    pole = normalise(check_unit(mean).double()).to(generator.device)
    spread = (dim - 1) / (2 * concentration + math.hypot(2 * concentration, dim - 1))  # Wood's b; 1 is uniform
    best = 2 * spread / (1 + spread)  # 1 − cos θ where acceptance is certain
    accepted: list[Tensor] = []
    missing = count
    while missing > 0:
        around = uniform(missing, dim, generator, torch.float64)
        cosine = around @ pole
        # Wood's W, with his Beta((dim − 1)/2, (dim − 1)/2) variable read off a uniform direction: (1 − cosine) / 2
        high, low = (1 + cosine) / 2, (1 - cosine) / 2
        scale = high + spread * low
        far, near = 2 * spread * low / scale, 2 * high / scale  # 1 − W and 1 + W
        log_ratio = concentration * (best - far) + (dim - 1) * torch.log(
            (best + (1 - best) * far) * (1 + spread) ** 2 / (4 * spread)
        )
        draw = torch.rand(missing, generator=generator, device=generator.device, dtype=torch.float64)
        kept = torch.log(draw) <= log_ratio
        sideways = normalise(around[kept] - cosine[kept, None] * pole)
        accepted.append((1 - far[kept, None]) * pole + (far * near)[kept, None].sqrt() * sideways)
        missing -= int(kept.sum())
    return normalise(torch.cat([*accepted, pole.new_zeros(0, dim)])).to(mean)
