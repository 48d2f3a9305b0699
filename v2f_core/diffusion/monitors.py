"""Has Stage II learned anything, or found a trivial optimum? Collapse monitors, a row for each band of timesteps.

L_self falls when LoRA makes the UNet deaf to its condition, and when every ẑ becomes the same; neither is progress.
The monitors compare predictions on the *same* noised real faces under other conditions: c* = P(z_arc), ĉ = P(ẑ), the
same for another person ("shuffled"), the mean identity and null; 10 UNet passes an example and band.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from v2f_core.diffusion.consistency import FaceBatch
from v2f_core.diffusion.lora import without_lora
from v2f_core.diffusion.prior import Prior
from v2f_core.diffusion.timesteps import draw_timesteps
from v2f_core.errors import InputError
from v2f_core.identity.arcface_torch import align_batch
from v2f_core.identity.sphere import mean_direction


@torch.no_grad()
def collapse_monitors(
    prior: Prior,
    arcface: nn.Module,
    identity: Float[Tensor, "batch 512"],
    faces: FaceBatch,
    bands: Sequence[tuple[int, int]],
    generator: torch.Generator,
    at_once: int | None = None,
) -> list[dict[str, int | float]]:
    """One row for each band of timesteps.

    Args:
        prior: with its adapters.
        arcface: f_arc.
        identity: ẑ of the faces' persons.
        faces: real faces, each of another person.
        bands: (first, last) timestep of each band; see :func:`v2f_core.diffusion.timesteps.bands`.
        generator: draws timesteps and noise; the same seed makes rows of two moments comparable.
        at_once: so many faces are in the prior together, which bounds the memory; None: all.
    Returns:
        for each band ``t_min``, ``t_max`` and

        - ``s_net``: ‖ε_{θ+ψ}(c*) − ε_{θ+ψ}(c*_shuffled)‖ / ‖ε_θ(c*) − ε_θ(c*_shuffled)‖; 1 without adapters, towards 0
          as LoRA goes deaf;
        - ``s_id``: ‖ε_θ(ĉ) − ε_θ(ĉ_shuffled)‖ over the same; towards 0 as all ẑ become one;
        - ``residual``, ``residual_true``, ``residual_mean``, ``residual_null``: mean ‖ε − ε_{θ+ψ}(c)‖² under ĉ, c*, the
          mean identity and null, and ``delta`` = residual − residual_true, the critique: what ẑ costs;
        - ``cos_self_true``, ``cos_self_predicted``: of z_self = f_arc(x̂0 under ĉ) with z_arc and with ẑ, and
          ``cos_self_true_other``: the same as the first from *another* person's noised face. What of cos_self_true is
          not in it leaked through z_t;
        - ``pairwise_predicted``, ``pairwise_true``: mean cosine between different persons, of ẑ and of z_arc. A voice
          does not tell all of a face, so that honest ẑ are more alike than z_arc are; how much, the Bayes ẑ would say.
    Raises:
        InputError: there are fewer than two faces.
    """
    batch = len(identity)
    if batch < 2:
        raise InputError(f"{batch} faces: monitors compare persons with one another; give at least 2")

    def predict(z_t: Tensor, t: Tensor, c: Tensor) -> Tensor:
        parts = zip(*(x.split(at_once or batch) for x in (z_t, t, c)), strict=True)
        return torch.cat([prior.predict(*part) for part in parts])

    def recognise(z_t: Tensor, t: Tensor, noise: Tensor, landmarks: Tensor) -> Tensor:
        x0 = prior.one_step_x0(z_t, t, noise)
        parts = zip(x0.split(at_once or batch), landmarks.split(at_once or batch), strict=True)
        return torch.cat([arcface(align_batch(prior.decode(part), points)) for part, points in parts])

    mean = mean_direction(faces.z_arc).expand(batch, -1)
    true, predicted = prior.condition(faces.z_arc), prior.condition(identity)
    average, null = prior.condition(mean), prior.null(batch)
    with without_lora(prior):
        base_true, base_predicted = prior.condition(faces.z_arc), prior.condition(identity)
    spread = {"pairwise_predicted": pairwise_cosine(identity), "pairwise_true": pairwise_cosine(faces.z_arc)}
    rows: list[dict[str, int | float]] = []
    for t_min, t_max in bands:
        t = draw_timesteps(batch, t_min, t_max, generator).to(faces.latents.device)
        noise = torch.randn(faces.latents.shape, generator=generator, device=generator.device).to(faces.latents)
        z_t, other = (prior.add_noise(z_0, noise, t) for z_0 in (faces.latents, faces.latents.roll(1, dims=0)))
        under_true, under_predicted = predict(z_t, t, true), predict(z_t, t, predicted)
        heard = _norm(under_true - predict(z_t, t, true.roll(1, dims=0)))
        with without_lora(prior):
            could = _norm(predict(z_t, t, base_true) - predict(z_t, t, base_true.roll(1, dims=0)))
            said = _norm(predict(z_t, t, base_predicted) - predict(z_t, t, base_predicted.roll(1, dims=0)))
        own = recognise(z_t, t, under_predicted, faces.landmarks)
        from_other = predict(other, t, predicted)
        leaked = recognise(other, t, from_other, faces.landmarks.roll(1, dims=0))
        row = {
            "s_net": heard / could,
            "s_id": said / could,
            "residual": _norm(noise - under_predicted) ** 2,
            "residual_true": _norm(noise - under_true) ** 2,
            "residual_mean": _norm(noise - predict(z_t, t, average)) ** 2,
            "residual_null": _norm(noise - predict(z_t, t, null)) ** 2,
            "cos_self_true": (own * faces.z_arc).sum(dim=1).mean(),
            "cos_self_predicted": (own * identity).sum(dim=1).mean(),
            "cos_self_true_other": (leaked * faces.z_arc).sum(dim=1).mean(),
        }
        values = {name: float(value) for name, value in (row | spread).items()}
        values["delta"] = values["residual"] - values["residual_true"]
        rows.append({"t_min": t_min, "t_max": t_max, **values})
    return rows


def _norm(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()  # over the whole batch: the ratio of two such has no small denominators


def pairwise_cosine(z: Tensor) -> Tensor:
    count = len(z)
    return (z.sum(dim=0).square().sum() - count) / (count * (count - 1))
