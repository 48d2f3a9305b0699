"""One training in several processes, as ``accelerate launch`` starts them.

Each process maps its share of a batch to identities. :func:`gather` joins them, with gradient, and every process
computes the loss of the whole batch: all rows are each other's negatives (InfoNCE, Eq. 9). Each process then has its
share of the gradient, times the number of processes; :func:`average_gradients` gives that of one process with the same
batch. The losses know nothing of this.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather

from v2f_core.errors import InputError

STRIDE = 1_000_003  # the distance between the seeds of two runs; seeds of steps lie between
PATIENCE = timedelta(days=7)  # extraction may take hours longer here than there; if one dies, the launcher ends all


def join(device: str = "cpu") -> tuple[int, int]:
    """Connect to the other processes, if a launcher started any; this process's number, and how many there are.

    Example:
        >>> join()
        (0, 1)
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        from accelerate import PartialState

        PartialState(cpu=device == "cpu", timeout=PATIENCE)
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def only_one(task: str) -> None:
    """Refuse to run in several processes.

    Raises:
        InputError: a launcher started several.
    """
    if (processes := int(os.environ.get("WORLD_SIZE", 1))) > 1:
        raise InputError(f"{processes} processes: {task} runs in one; start it without a launcher")


def own_device(device: str) -> str:
    """The GPU that the launcher gave to this process, for "cuda"; any other device unchanged.

    Example:
        >>> own_device("cpu")
        'cpu'
    """
    return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and "LOCAL_RANK" in os.environ else device


def gather(rows: Float[Tensor, "share dim"]) -> Float[Tensor, "batch dim"]:
    """The rows of all processes, in their order and with gradient; each process must have as many.

    Example:
        >>> gather(torch.eye(2))
        tensor([[1., 0.],
                [0., 1.]])
    """
    return torch.cat(all_gather(rows)) if dist.is_initialized() else rows


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over all processes; one process alone changes nothing."""
    if dist.is_initialized():
        for parameter in parameters:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()


def average(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes, without gradient.

    Example:
        >>> average(torch.tensor(2.0))
        tensor(2.)
    """
    value = value.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value


def anybody(here: bool, device: str | torch.device = "cpu") -> bool:
    """Whether ``here`` is True in at least one process; all processes get the same answer.

    Example:
        >>> anybody(False), anybody(True)
        (False, True)
    """
    return bool(average(torch.tensor(float(here), device=device)) > 0)


def seed_share(seed: int, step: int) -> None:
    """Where there are several processes, seed each one's dropout by seed, step and process number.

    Shares of a batch then drop other units, and a checkpoint need not hold every process's generator.
    """
    if dist.is_initialized():
        torch.manual_seed((seed * STRIDE + step) * dist.get_world_size() + dist.get_rank())


def wait() -> None:
    """Wait until all processes have reached this call."""
    if dist.is_initialized():
        dist.barrier()


@contextmanager
def in_turn() -> Iterator[None]:
    """Let process 0 run the block first: the others then find the files that it made.

    Example:
        >>> with in_turn():
        ...     print("fetched")
        fetched
    """
    later = dist.is_initialized() and dist.get_rank() > 0
    if later:
        wait()
    yield
    if not later:
        wait()
