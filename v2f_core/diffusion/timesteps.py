"""At which timesteps a loss looks, and how much each of them counts: the w(t) of Eq. 14 and its truncation."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from v2f_core.errors import InputError

SNR_LIMIT = 5.0


def _snr(alpha: Tensor) -> Tensor:
    return alpha / (1 - alpha)


# each takes ᾱ_t and t/T; the paper names w(t) and does not give it
WEIGHTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "uniform": lambda alpha, share: torch.ones_like(alpha),
    "one_minus_alpha": lambda alpha, share: 1 - alpha,
    # Hang et al., "Efficient Diffusion Training via Min-SNR Weighting", ICCV 2023, for noise prediction
    "min_snr": lambda alpha, share: _snr(alpha).clamp(max=SNR_LIMIT) / _snr(alpha),
    "quadratic": lambda alpha, share: (1 - share) ** 2,
}


def timestep_weight(
    name: str, t: Int[Tensor, " batch"], alphas_cumprod: Float[Tensor, " timesteps"]
) -> Float[Tensor, " batch"]:
    """w(t), between 0 and 1.

    Args:
        name: "uniform", 1; "one_minus_alpha", 1 − ᾱ_t: more where there is more noise; "min_snr",
            min(SNR, 5)/SNR with SNR = ᾱ_t/(1 − ᾱ_t): less where there is hardly any; "quadratic", (1 − t/T)²: the
            other way round, less where x̂0 is a blur.
        t: timesteps.
        alphas_cumprod: ᾱ of all T timesteps.
    Raises:
        InputError: no such weight.

    Example:
        >>> timestep_weight("quadratic", torch.tensor([0, 500]), torch.linspace(1, 0, 1000))
        tensor([1.0000, 0.2500])
    """
    if name not in WEIGHTS:
        raise InputError(f"weight {name!r}: no such w(t); choose {', '.join(WEIGHTS)}")
    return WEIGHTS[name](alphas_cumprod[t], t / len(alphas_cumprod))


def draw_timesteps(batch: int, t_min: int, t_max: int, generator: torch.Generator) -> Int[Tensor, " batch"]:
    """Random timesteps from t_min to t_max, both included, each equally likely.

    Example:
        >>> draw_timesteps(3, 7, 7, torch.Generator())
        tensor([7, 7, 7])
    """
    return torch.randint(t_min, t_max + 1, (batch,), generator=generator, device=generator.device)


def bands(t_min: int, t_max: int, count: int) -> list[tuple[int, int]]:
    """The range of timesteps in ``count`` adjacent parts of about the same length, both ends of each included.

    Example:
        >>> bands(0, 999, 4)
        [(0, 249), (250, 499), (500, 749), (750, 999)]
    """
    edges = [t_min + (t_max + 1 - t_min) * i // count for i in range(count + 1)]
    return [(low, high - 1) for low, high in pairwise(edges)]
