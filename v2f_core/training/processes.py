"""Train in several processes, as ``accelerate launch`` starts them.

Each maps its share of a batch to identities. :func:`gather` joins the shares, with gradient, and every process computes
the loss of the whole batch: all rows are each other's negatives (InfoNCE, Eq. 9). The mean of the processes' gradients
is the gradient that one process would have got from the same batch.
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

STRIDE = 1_000_003  # between the seeds of two runs lie those of a run's steps
TIMEOUT = timedelta(days=7)  # one process may extract for hours longer than another


def join(device: str = "cpu") -> tuple[int, int]:
    """Connect to the other processes of a launcher, if there are any; return this process's number and their count."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        from accelerate import PartialState

        PartialState(cpu=device == "cpu", timeout=TIMEOUT)
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def own_device(device: str) -> str:
    """The GPU that the launcher gave to this process, for "cuda"; any other device unchanged."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and "LOCAL_RANK" in os.environ else device


def share_of(rows: int, device: str) -> tuple[str, slice, bool]:
    """This process's device and rows of a batch, and whether it is process 0, which alone writes files."""
    process, processes = join(device)
    share = rows // processes
    if share == 0:
        raise InputError(f"{processes} processes: a batch has {rows} rows; start fewer processes")
    return own_device(device), slice(process * share, (process + 1) * share), process == 0


def gather(rows: Float[Tensor, "share dim"]) -> Float[Tensor, "batch dim"]:
    """The rows of all processes in their order, with gradient; each process must have equally many."""
    return torch.cat(all_gather(rows)) if dist.is_initialized() else rows


def average(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes, without gradient."""
    value = value.detach()
    if dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over all processes."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = average(parameter.grad)


def seed_share(seed: int, step: int) -> None:
    """With several processes, give each step and process its own seed of dropout; a checkpoint need hold none."""
    if dist.is_initialized():
        torch.manual_seed((seed * STRIDE + step) * dist.get_world_size() + dist.get_rank())


def wait() -> None:
    """Wait until all processes have reached this call."""
    if dist.is_initialized():
        dist.barrier()


@contextmanager
def first_process_first() -> Iterator[None]:
    """Let process 0 run the block before the others, which then find the files that it wrote."""
    process = dist.get_rank() if dist.is_initialized() else 0
    if process > 0:
        wait()
    yield
    if process == 0:
        wait()
