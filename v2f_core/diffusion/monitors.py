"""Collapse monitors: whether Stage II has learned or only reached a trivial optimum, for each band of timesteps.

L_self also falls if LoRA makes the UNet ignore its condition, or if every ẑ becomes the same. The monitors compare
predictions on the *same* noised real faces under different conditions: c* = P(z_arc), ĉ = P(ẑ), both of another person
("shuffled"), the mean identity and null: 10 UNet passes an example and band.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from v2f_core.diffusion.consistency import FaceBatch, SelfConsistency
from v2f_core.diffusion.lora import without_lora
from v2f_core.diffusion.prior import Identities, Prior
from v2f_core.errors import InputError
from v2f_core.identity.sphere import mean_direction


@torch.no_grad()
def collapse_monitors(
    prior: Prior,
    arcface: nn.Module,
    identity: Identities,
    faces: FaceBatch,
    bands: Sequence[tuple[int, int]],
    generator: torch.Generator,
) -> list[dict[str, int | float]]:
    """One row for each band of timesteps (first, last), over real faces of different persons and their ẑ.

    Use the same seed of the generator at every call, so that rows are comparable.

    Returns:
        for each band ``t_min``, ``t_max`` and

        - ``s_net``: ‖ε_{θ+ψ}(c*) − ε_{θ+ψ}(c*_shuffled)‖ / ‖ε_θ(c*) − ε_θ(c*_shuffled)‖; 1 without adapters, near 0 if
          the adapted UNet ignores its condition;
        - ``s_id``: ‖ε_θ(ĉ) − ε_θ(ĉ_shuffled)‖ with the same denominator; near 0 if all ẑ are the same;
        - ``residual``, ``residual_true``, ``residual_mean``, ``residual_null``: mean ‖ε − ε_{θ+ψ}(c)‖² under ĉ, c*, the
          mean identity and null, and ``delta`` = residual − residual_true, the cost of ẑ;
        - ``cos_self_true``, ``cos_self_predicted``: cosine of z_self = f_arc(x̂0 under ĉ) with z_arc and with ẑ;
        - ``cos_self_true_other``: the first of these from *another* person's noised face; the difference to
          ``cos_self_true`` is identity that leaked through z_t;
        - ``pairwise_predicted``, ``pairwise_true``: mean cosine between different persons, of ẑ and of z_arc. A voice
          does not determine a face, so good ẑ are more alike than z_arc.
    Raises:
        InputError: there are fewer than two faces.
    """
    if len(identity) < 2:
        raise InputError(f"{len(identity)} faces: monitors compare persons with one another; give at least 2")
    mean = mean_direction(faces.z_arc).expand_as(identity)
    rows: list[dict[str, int | float]] = []
    for t_min, t_max in bands:
        own = SelfConsistency(prior, arcface, t_min=t_min, t_max=t_max).look(faces, generator)
        other = own.renoise(faces.latents.roll(1, dims=0), faces.landmarks.roll(1, dims=0))
        under_true, under_predicted = own.predict(faces.z_arc), own.predict(identity)
        adapted = _length(under_true - own.predict(faces.z_arc.roll(1, dims=0)))
        with without_lora(prior):
            base = _length(own.predict(faces.z_arc) - own.predict(faces.z_arc.roll(1, dims=0)))
            predicted = _length(own.predict(identity) - own.predict(identity.roll(1, dims=0)))
        under_null = prior.predict(own.z_t, own.t, prior.null(len(identity)))
        z_self, z_self_other = own.recognise(under_predicted), other.recognise(other.predict(identity))
        row = {
            "s_net": adapted / base,
            "s_id": predicted / base,
            "residual": _length(own.noise - under_predicted) ** 2,
            "residual_true": _length(own.noise - under_true) ** 2,
            "residual_mean": _length(own.noise - own.predict(mean)) ** 2,
            "residual_null": _length(own.noise - under_null) ** 2,
            "cos_self_true": (z_self * faces.z_arc).sum(dim=1).mean(),
            "cos_self_predicted": (z_self * identity).sum(dim=1).mean(),
            "cos_self_true_other": (z_self_other * faces.z_arc).sum(dim=1).mean(),
            "pairwise_predicted": _pairwise(identity),
            "pairwise_true": _pairwise(faces.z_arc),
        }
        values = {name: float(value) for name, value in row.items()}
        values["delta"] = values["residual"] - values["residual_true"]
        rows.append({"t_min": t_min, "t_max": t_max, **values})
    return rows


def _pairwise(z: Tensor) -> Tensor:
    """The mean cosine between different rows of unit identities."""
    count = len(z)
    return (z.sum(dim=0).square().sum() - count) / (count * (count - 1))


def _length(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()  # of the whole batch, so that no ratio has one person's small denominator
