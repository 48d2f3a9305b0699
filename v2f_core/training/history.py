"""What a training tells: a table, a row an evaluation with each loss's mean since the row before; and its memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from v2f_core.artefacts.files import atomic_write

HISTORY_NAME = "history.csv"


class History:
    """Rows of numbers, and the losses that no row has told yet.

    Attributes:
        rows: what is written; whoever has a row completes it and appends it.
        sums: of the losses since the last row, and how many "steps" they are of.

    Example:
        >>> history = History()
        >>> for loss in (1.0, 3.0):
        ...     history.count({"total": torch.tensor(loss)})
        >>> history.row(2)
        {'step': 2, 'train_total': 2.0}
        >>> history.row(2)
        {'step': 2}
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float | int]] = []
        self.sums: dict[str, float] = {}

    def count(self, terms: Mapping[str, Tensor]) -> None:
        """Add a step's losses to those since the last row."""
        for name, value in {**terms, "steps": torch.ones(())}.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.detach())

    def state_dict(self) -> str:
        """All of it, for a checkpoint."""
        return json.dumps([self.rows, self.sums])

    def load_state_dict(self, state: str) -> None:
        """Put that of a checkpoint back."""
        self.rows, self.sums = json.loads(state)

    def row(self, step: int) -> dict[str, float | int]:
        """A new row, not in the table yet: the step, and each loss's mean over the steps since the row before."""
        taken = self.sums.pop("steps", 1.0)
        means = {f"train_{name}": value / taken for name, value in self.sums.items()}
        self.sums = {}
        return {"step": step, **means}


def peak_memory(device: str | torch.device) -> dict[str, str]:
    """The most of a GPU's memory that this process has held so far, for a progress bar; of a CPU nothing is told.

    Example:
        >>> peak_memory("cpu")
        {}
    """
    if torch.device(device).type != "cuda":
        return {}
    return {"peak": f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB"}


def write_table(rows: list[dict[str, float | int]], path: Path) -> None:
    """Write rows as CSV.

    Raises:
        InputError: the folder cannot be written to, or the disk is full.
    """
    import pandas as pd

    with atomic_write(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, float_format="%.6g")
