"""One training in several processes, as ``accelerate launch`` starts them: who is who, and gradients across all.

Each process embeds its share of a batch; the rows are then gathered, with gradient, and every process computes the loss
of the whole batch. So all rows are each other's negatives (InfoNCE, Eq. 9), and every term is that of one process with
the same batch, however many share it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from v2f_core.errors import InputError

STRIDE = 1_000_003  # between the seeds of two runs, which count steps up from there
PATIENCE = timedelta(days=7)  # one may extract for hours longer than another; a launcher ends all if one dies


def join(device: str = "cpu") -> tuple[int, int]:
    """Meet the other processes, if a launcher started any; which one this is, and of how many.

    Example:
        >>> join()
        (0, 1)
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        from accelerate import PartialState

        PartialState(cpu=device == "cpu", timeout=PATIENCE)
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def only_one(what: str) -> None:
    """Refuse to run in several processes.

    Raises:
        InputError: a launcher started several.
    """
    if (processes := int(os.environ.get("WORLD_SIZE", 1))) > 1:
        raise InputError(f"{processes} processes: {what} runs in one; start it without a launcher")


def own_device(device: str) -> str:
    """Of several GPUs, the one that the launcher means for this process.

    Example:
        >>> own_device("cpu")
        'cpu'
    """
    return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and "LOCAL_RANK" in os.environ else device


def gather(rows: Float[Tensor, "share dim"]) -> Float[Tensor, "batch dim"]:
    """The rows of all processes, in their order; each must have as many. In one process, the rows.

    The gradient that a process gets for its rows is the sum of all processes' gradients: with n processes that compute
    the same loss, n times that of one. Averaging the parameters' gradients (:func:`average_gradients`) makes it right.

    Example:
        >>> gather(torch.eye(2))
        tensor([[1., 0.],
                [0., 1.]])
    """
    if not dist.is_initialized():
        return rows
    gathered: Tensor = _Gather.apply(rows)
    return gathered


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over all processes; in one process nothing is done."""
    if dist.is_initialized():
        for parameter in parameters:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()


def average(value: Tensor) -> Tensor:
    """A number's mean over all processes, without gradient.

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
    """Whether it is so in any process, known to all of them.

    Example:
        >>> anybody(False), anybody(True)
        (False, True)
    """
    return bool(average(torch.tensor(float(here), device=device)) > 0) if dist.is_initialized() else here


def seed_share(seed: int, step: int) -> None:
    """Where there are several processes: let dropout differ between the shares of a batch, and depend on nothing but
    the seed and the step, so that a checkpoint need not hold what each process would draw next."""
    if dist.is_initialized():
        torch.manual_seed((seed * STRIDE + step) * dist.get_world_size() + dist.get_rank())


def wait() -> None:
    """Until all processes are here."""
    if dist.is_initialized():
        dist.barrier()


def trainer(device: str, mixed_precision: str, folder: Path, tensorboard: bool) -> Any:
    """An ``accelerate.Accelerator`` for one training: precision, clipping, curves (of the first process) in a folder.

    Example:
        >>> trainer("cpu", "no", Path("runs"), tensorboard=False).device
        device(type='cpu')
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    curves = tensorboard and join(device)[0] == 0
    AcceleratorState._reset_state(reset_partial_state=True)  # else a process could only ever train on one device
    log_with = "tensorboard" if curves else None
    found = Accelerator(cpu=device == "cpu", mixed_precision=mixed_precision, log_with=log_with, project_dir=folder)
    if curves:
        found.init_trackers("tensorboard")
    return found


@contextmanager
def in_turn() -> Iterator[None]:
    """Process 0 goes through the block first: what it finds missing it makes, and the others find it made.

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


class _Gather(torch.autograd.Function):
    """``all_gather`` has no gradient of its own."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        whole = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(whole)
        return whole.chunk(dist.get_world_size())[dist.get_rank()]
