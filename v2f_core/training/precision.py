"""In which precision encoders embed: fp32, or bf16, several times as fast on a GPU that has it.

A store is of one precision from its first shard to its last: what was begun on a GPU is gone on with, and read, on any
machine as it was begun.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import torch

from v2f_core.training.store import PROVENANCE_NAME

Precision = Literal["fp32", "bf16"]


def precision_of(folder: str | Path, device: str | torch.device, wanted: Precision | None = None) -> Precision:
    """The precision of a store: the one wanted, else the one it was begun in, else bf16 on CUDA and fp32 elsewhere.

    Args:
        folder: the store, there or not.
        device: where the encoder is.
        wanted: where it is not the store's, :func:`~v2f_core.training.store.extract` will refuse to mix them.

    Example:
        >>> precision_of("nowhere", "cpu"), precision_of("nowhere", "cuda:1"), precision_of("nowhere", "cuda", "fp32")
        ('fp32', 'bf16', 'fp32')
    """
    begun = Path(folder) / PROVENANCE_NAME
    if wanted is None and begun.is_file():
        return "bf16" if json.loads(begun.read_text(encoding="utf-8")).get("precision") == "bf16" else "fp32"
    return wanted or ("bf16" if torch.device(device).type == "cuda" else "fp32")


def said(precision: Precision) -> dict[str, str]:
    """How a store's provenance says it: fp32 goes without saying, as in stores from before there was a choice.

    Example:
        >>> said("bf16"), said("fp32")
        ({'precision': 'bf16'}, {})
    """
    return {"precision": precision} if precision != "fp32" else {}


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Within it, networks compute in this precision; their weights stay as they are.

    Example:
        >>> with autocast("bf16", torch.device("cpu")):
        ...     (torch.ones(1, 2) @ torch.ones(2, 1)).dtype
        torch.bfloat16
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
