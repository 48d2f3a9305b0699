"""The files of a training: its checkpoint, from which a killed run continues, and the table of its history."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from v2f_core.artefacts.files import atomic_write
from v2f_core.artefacts.loading import refusing
from v2f_core.errors import InputError

CHECKPOINT_NAME, HISTORY_NAME = "checkpoint.pt", "history.csv"
WAY_OUT = "choose another folder, or delete it to begin anew"


def save_training(
    path: str | Path, step: int, parts: Mapping[str, Any], generator: torch.Generator, made_from: Mapping[str, Any]
) -> None:
    """Write a checkpoint: the step, each part's ``state_dict()``, the states of all generators, and settings."""
    random = {"own": generator.get_state(), "cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["cuda"] = torch.cuda.get_rng_state()
    state = {"step": step, **{name: part.state_dict() for name, part in parts.items()}, "randomness": random}
    with atomic_write(path) as temporary:
        torch.save({"made_from": json.dumps(made_from), "state": state}, temporary)


def resume_training(
    path: str | Path, parts: Mapping[str, Any], generator: torch.Generator, made_from: Mapping[str, Any]
) -> int:
    """Restore the parts from a checkpoint of :func:`save_training`; return its step, or 0 if there is no checkpoint.

    Raises:
        InputError: the file is damaged, or belongs to a training with other settings or inputs.
    """
    if not Path(path).exists():
        return 0
    with refusing(path, "a checkpoint of this model and these persons", WAY_OUT), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickles of an unusual form: they load, or they raise
        saved = torch.load(path, map_location="cpu", weights_only=True)
        before, now = (_flat(json.loads(text)) for text in (saved["made_from"], json.dumps(made_from)))
        if changed := sorted(name for name in before.keys() | now if before.get(name) != now.get(name)):
            raise InputError(f"{path}: of another training ({', '.join(changed)} differs); {WAY_OUT}")
        for name, part in parts.items():
            part.load_state_dict(saved["state"][name])
        random = saved["state"]["randomness"]
        generator.set_state(random["own"])
        torch.set_rng_state(random["cpu"])
        if "cuda" in random and torch.cuda.is_available():
            torch.cuda.set_rng_state(random["cuda"])
        return int(saved["state"]["step"])


class History:
    """A table with a row for each evaluation, and the mean of each loss over the steps between two rows."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float | int]] = []
        self._steps: list[dict[str, float]] = []  # their losses, since the last row

    def count(self, terms: Mapping[str, Tensor]) -> None:
        """Add the losses of a step to the next means."""
        self._steps.append({name: float(value.detach()) for name, value in terms.items()})

    def means(self) -> dict[str, float | int]:
        """The mean of each loss over the steps since the last call, as ``train_NAME``."""
        steps, self._steps = self._steps, []
        return {f"train_{name}": fmean(step[name] for step in steps) for name in (steps[0] if steps else ())}

    def append(self, row: Mapping[str, float | int]) -> None:
        """Add a row."""
        self.rows.append(dict(row))

    def best(self, name: str) -> float:
        """The lowest value of a column so far; infinity for an empty table."""
        return min((row[name] for row in self.rows), default=math.inf)

    def write(self, path: str | Path) -> None:
        """Write the table as CSV."""
        import pandas as pd

        with atomic_write(path) as temporary:
            pd.DataFrame(self.rows).to_csv(temporary, index=False, float_format="%.6g")

    def state_dict(self) -> str:
        """Rows and unfinished means, for a checkpoint."""
        return json.dumps([self.rows, self._steps])

    def load_state_dict(self, state: str) -> None:
        """Restore rows and unfinished means."""
        self.rows, self._steps = json.loads(state)


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
