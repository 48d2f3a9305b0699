"""Guards around a training's steps: ranges of settings, seeds, a delayed SIGTERM, and no number that is not finite."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from v2f_core.errors import InputError


def check_numbers(
    settings: object, whole: Sequence[str] = (), positive: Sequence[str] = (), not_negative: Sequence[str] = ()
) -> None:
    """Refuse settings out of their range: whole numbers from 1, finite numbers above 0, finite numbers from 0.

    Example:
        >>> from types import SimpleNamespace
        >>> check_numbers(SimpleNamespace(learning_rate=float("nan")), positive=["learning_rate"])
        Traceback (most recent call last):
        v2f_core.errors.InputError: learning_rate=nan: expected a positive number
    """
    values = vars(settings)
    for name in whole:
        if values[name] < 1:
            raise InputError(f"{name}={values[name]}: expected a whole number of at least 1")
    for name in positive:
        if not 0 < values[name] < math.inf:
            raise InputError(f"{name}={values[name]}: expected a positive number")
    for name in not_negative:
        if not 0 <= values[name] < math.inf:
            raise InputError(f"{name}={values[name]}: expected a number of at least 0")


@contextmanager
def seeded(seed: int, device: str | torch.device) -> Iterator[None]:
    """Seed torch's global generators for initial weights and dropout; restore them when the block ends.

    On a machine with several GPUs, name the process's own, such as "cuda:3"; the others are not touched.
    """
    with torch.random.fork_rng([str(device)] if torch.device(device).type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def delayed_sigterm() -> Iterator[Callable[[], bool]]:
    """Delay SIGTERM until the block ends; yield a function that returns True once the signal has arrived.

    Clusters send SIGTERM some time before they take a machine away. When the block ends, the signal is raised again
    under the handler that was there before. Python handles signals in the main thread only: in another thread nothing
    is delayed.

    Example:
        >>> with delayed_sigterm() as terminated:
        ...     terminated()
        False
    """
    arrived: list[int] = []
    try:
        before = signal.signal(signal.SIGTERM, lambda number, _: arrived.append(number))
    except ValueError:  # not the main thread
        yield lambda: False
        return
    try:
        yield lambda: bool(arrived)
    finally:
        signal.signal(signal.SIGTERM, before)
        if arrived:
            signal.raise_signal(signal.SIGTERM)


@contextmanager
def at_step(step: int, persons: Sequence[str]) -> Iterator[None]:
    """Add the step, the persons of the batch and the way out to an :class:`InputError` of the block.

    Example:
        >>> with at_step(7, ["Ada", "Bea"]):
        ...     check_finite({"total": torch.tensor(float("nan"))})
        Traceback (most recent call last):
        v2f_core.errors.InputError: step 7: the total is not finite; the batch was Ada, Bea; check their files, or …
    """
    try:
        yield
    except InputError as error:
        raise InputError(
            f"step {step}: {error}; the batch was {', '.join(persons)}; check their files, or lower the learning "
            "rates. An earlier checkpoint, if there is one, is kept"
        ) from error


def check_finite(terms: Mapping[str, Tensor]) -> None:
    """Refuse losses, or the norm of a gradient, that are infinite or NaN, before the optimiser uses them.

    Raises:
        InputError: names the last such term; the total comes first.
    """
    if wrong := [name for name, value in terms.items() if not bool(value.isfinite().all())]:
        raise InputError(f"the {wrong[-1]} is not finite")
