"""Guards around a training's steps: ranges of settings, seeds, and no number that is not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from v2f_core.errors import InputError
from v2f_core.training.processes import average_gradients


def check_numbers(settings: object, positive: Sequence[str] = ()) -> None:
    """Refuse settings that are negative, infinite or NaN, and 0 for those that must be ``positive``."""
    for name, value in vars(settings).items():
        if isinstance(value, int | float) and not (0 <= value < math.inf and (value or name not in positive)):
            raise InputError(f"{name}={value}: expected a number {'above' if name in positive else 'of at least'} 0")


@contextmanager
def seeded(seed: int, device: str | torch.device) -> Iterator[None]:
    """Seed torch's global generators for initial weights and dropout; restore them when the block ends."""
    with torch.random.fork_rng([str(device)] if torch.device(device).type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def at_step(step: int, persons: Sequence[str]) -> Iterator[None]:
    """Add the step, the persons of the batch and the way out to an :class:`InputError` of the block."""
    try:
        yield
    except InputError as error:
        way_out = "check their files, or lower the learning rates. An earlier checkpoint, if there is one, is kept"
        raise InputError(f"step {step}: {error}; the batch was {', '.join(persons)}; {way_out}") from error


def descend(
    optimiser: torch.optim.Optimizer, loss: Tensor, terms: Mapping[str, Tensor], clip: float = math.inf
) -> Tensor:
    """One step down the gradient of a loss, averaged over all processes; returns the gradient's norm before the clip.

    Raises:
        InputError: one of the ``terms`` or the gradient is not finite. No parameter has changed then.
    """
    _check_finite(terms)
    optimiser.zero_grad()
    loss.backward()
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    average_gradients(parameters)
    norm = nn.utils.clip_grad_norm_(parameters, clip)
    _check_finite({"gradient": norm})
    optimiser.step()
    return norm


def _check_finite(terms: Mapping[str, Tensor]) -> None:
    if wrong := [name for name, value in terms.items() if not bool(value.isfinite().all())]:
        raise InputError(f"the {wrong[-1]} is not finite")
