"""Has Stage II learned anything, or found a trivial optimum? Collapse monitors, a row for each band of timesteps.

L_self falls when LoRA makes the UNet deaf to its condition, and when every ẑ becomes the same; neither is progress.
The monitors compare predictions on the *same* noised real faces under different conditions: c* = P(z_arc), ĉ = P(ẑ),
the same for another person ("shuffled"), the mean identity and null; 10 UNet passes an example and band.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from v2f_core.diffusion.consistency import FaceBatch, SelfConsistency
from v2f_core.diffusion.lora import without_lora
from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError
from v2f_core.identity.sphere import mean_direction


@torch.no_grad()
def collapse_monitors(
    prior: Prior,
    arcface: nn.Module,
    identity: Float[Tensor, "batch 512"],
    faces: FaceBatch,
    bands: Sequence[tuple[int, int]],
    generator: torch.Generator,
) -> list[dict[str, int | float]]:
    """One row for each band of timesteps.

    Args:
        prior: with its adapters.
        arcface: f_arc.
        identity: ẑ of the faces' persons.
        faces: real faces, each of another person.
        bands: (first, last) timestep of each band; see :func:`bands`.
        generator: draws timesteps and noise; the same seed makes rows of two moments comparable.
    Returns:
        for each band ``t_min``, ``t_max`` and

        - ``s_net``: ‖ε_{θ+ψ}(c*) − ε_{θ+ψ}(c*_shuffled)‖ / ‖ε_θ(c*) − ε_θ(c*_shuffled)‖; 1 without adapters, towards 0
          as LoRA goes deaf;
        - ``s_id``: ‖ε_θ(ĉ) − ε_θ(ĉ_shuffled)‖ over the same; towards 0 as all ẑ become one;
        - ``residual``, ``residual_true``, ``residual_mean``, ``residual_null``: mean ‖ε − ε_{θ+ψ}(c)‖² under ĉ, c*, the
          mean identity and null, and ``delta`` = residual − residual_true: what ẑ costs;
        - ``cos_self_true``, ``cos_self_predicted``: of z_self = f_arc(x̂0 under ĉ) with z_arc and with ẑ, and
          ``cos_self_true_other``: the same as the first from *another* person's noised face. The part of cos_self_true
          that is missing there leaked through z_t;
        - ``pairwise_predicted``, ``pairwise_true``: mean cosine between different persons, of ẑ and of z_arc. A voice
          does not tell all of a face, so honest ẑ are more alike than z_arc are.
    Raises:
        InputError: there are fewer than two faces.
    """
    if len(identity) < 2:
        raise InputError(f"{len(identity)} faces: monitors compare persons with one another; give at least 2")
    mean = mean_direction(faces.z_arc).expand_as(identity)
    spread = {"pairwise_predicted": pairwise_cosine(identity), "pairwise_true": pairwise_cosine(faces.z_arc)}
    rows: list[dict[str, int | float]] = []
    for t_min, t_max in bands:
        own = SelfConsistency(prior, arcface, t_min=t_min, t_max=t_max).look(faces, generator)
        other = own.renoise(faces.latents.roll(1, dims=0), faces.landmarks.roll(1, dims=0))
        under_true, under_predicted = own.predict(faces.z_arc), own.predict(identity)
        heard = _length(under_true - own.predict(faces.z_arc.roll(1, dims=0)))
        with without_lora(prior):
            could = _length(own.predict(faces.z_arc) - own.predict(faces.z_arc.roll(1, dims=0)))
            differs = _length(own.predict(identity) - own.predict(identity.roll(1, dims=0)))
        under_null = prior.predict(own.z_t, own.t, prior.null(len(identity)))
        seen, leaked = own.recognise(under_predicted), other.recognise(other.predict(identity))
        row = {
            "s_net": heard / could,
            "s_id": differs / could,
            "residual": _length(own.noise - under_predicted) ** 2,
            "residual_true": _length(own.noise - under_true) ** 2,
            "residual_mean": _length(own.noise - own.predict(mean)) ** 2,
            "residual_null": _length(own.noise - under_null) ** 2,
            "cos_self_true": (seen * faces.z_arc).sum(dim=1).mean(),
            "cos_self_predicted": (seen * identity).sum(dim=1).mean(),
            "cos_self_true_other": (leaked * faces.z_arc).sum(dim=1).mean(),
        }
        values = {name: float(value) for name, value in (row | spread).items()}
        values["delta"] = values["residual"] - values["residual_true"]
        rows.append({"t_min": t_min, "t_max": t_max, **values})
    return rows


def bands(t_min: int, t_max: int, count: int) -> list[tuple[int, int]]:
    """The timesteps in ``count`` adjacent bands of about the same length, both ends of each included.

    Example:
        >>> bands(0, 999, 4)
        [(0, 249), (250, 499), (500, 749), (750, 999)]
    """
    edges = [t_min + (t_max + 1 - t_min) * i // count for i in range(count + 1)]
    return [(low, high - 1) for low, high in pairwise(edges)]


def pairwise_cosine(z: Float[Tensor, "batch 512"]) -> Float[Tensor, ""]:
    """The mean cosine between different rows of unit identities."""
    count = len(z)
    return (z.sum(dim=0).square().sum() - count) / (count * (count - 1))


def _length(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()  # over the whole batch: no person with a small denominator can break a ratio
