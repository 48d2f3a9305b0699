"""The reverse process: from noise to latents by any of diffusers' schedulers."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from v2f_core.errors import InputError

Generators = torch.Generator | list[torch.Generator] | None  # one for all, one for each of a batch, torch's own


def solve(
    predict: Callable[[Tensor, Tensor], Tensor],
    scheduler: Any,
    noise: Float[Tensor, "batch 4 h w"],
    num_steps: int,
    generator: Generators = None,
) -> Float[Tensor, "batch 4 h w"]:
    """Follow a scheduler from pure noise to clean latents.

    Args:
        predict: ε(z, t), the noise that is seen in z at the timestep t.
        scheduler: of diffusers; stays as it is, since a fresh one of its kind and settings is used.
        noise: standard normal latents.
        num_steps: how many steps; second-order ones, such as Heun's, call ``predict`` twice in a step.
        generator: for schedulers that add noise on the way, as LCM does.
    Raises:
        InputError: the scheduler cannot make so many steps.

    Example:
        >>> from diffusers import DDIMScheduler
        >>> clean = torch.zeros(1, 4, 2, 2)
        >>> alphas = DDIMScheduler().alphas_cumprod
        >>> truth = lambda z, t: (z - alphas[t].sqrt() * clean) / (1 - alphas[t]).sqrt()
        >>> bool(solve(truth, DDIMScheduler(), torch.randn(1, 4, 2, 2), 5).abs().max() < 0.1)
        True
    """
    if num_steps < 1:
        raise InputError(f"num_steps {num_steps}: expected a positive number of solver steps (25 is usual)")
    solver = type(scheduler).from_config(scheduler.config)  # a fresh one: solvers keep a history
    try:
        solver.set_timesteps(num_steps, device=noise.device)
    except ValueError as error:
        raise InputError(f"num_steps {num_steps}: not for {type(scheduler).__name__} ({error})") from error
    options = {"generator": generator} if "generator" in signature(solver.step).parameters else {}
    z = noise * solver.init_noise_sigma
    for t in solver.timesteps:
        z = solver.step(predict(solver.scale_model_input(z, t), t), t, z, **options).prev_sample
    return z
