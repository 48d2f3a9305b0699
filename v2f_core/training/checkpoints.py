"""What lets a training be killed and go on: its seed, its checkpoint, its history, and a delayed SIGTERM."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from v2f_core.artefacts.files import atomic_write
from v2f_core.errors import InputError
from v2f_core.training.processes import own_device

CHECKPOINT_NAME, HISTORY_NAME = "checkpoint.pt", "history.csv"


@runtime_checkable
class Part(Protocol):
    """Anything with a state that a checkpoint can hold: a net, an optimiser, a schedule, a history."""

    def state_dict(self) -> Any:
        """The state, in tensors, numbers, strings and nestings of them."""

    def load_state_dict(self, state: Any) -> Any:
        """Restore the state."""


# --- files


def save_checkpoint(path: str | Path, state: Mapping[str, Any], made_from: Mapping[str, Any]) -> None:
    """Write a state together with the settings and hashes that it depends on.

    Args:
        path: the file; an older one is replaced only when the new one is complete.
        state: tensors, numbers, strings and nestings of them.
        made_from: settings and hashes that JSON can hold; :func:`load_checkpoint` compares them.
    Raises:
        InputError: the folder cannot be written to.
    """
    with atomic_write(path) as temporary:
        torch.save({"made_from": json.dumps(made_from), "state": dict(state)}, temporary)


def load_checkpoint(path: str | Path, made_from: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state in a checkpoint, on the CPU; None if there is no file. The file cannot run code.

    Raises:
        InputError: the file is damaged, or belongs to a training with other settings or inputs.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "checkpoint.pt"
        >>> load_checkpoint(path, {"seed": 0}) is None
        True
        >>> save_checkpoint(path, {"step": 7}, {"seed": 0})
        >>> load_checkpoint(path, {"seed": 0})
        {'step': 7}
        >>> load_checkpoint(path, {"seed": 1})
        Traceback (most recent call last):
        v2f_core.errors.InputError: …: of another training (seed differs); choose another folder, or delete it to …
    """
    path = Path(path)
    if not path.exists():
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        before, state = json.loads(saved["made_from"]), saved["state"]
    except (UnpicklingError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no checkpoint of a training; choose another folder, or delete it") from error
    except Exception as error:  # torch raises many kinds of errors for a damaged file
        raise InputError(f"{path}: damaged ({str(error).splitlines()[0]}); delete it to begin anew") from error
    before, now = _flat(before), _flat(json.loads(json.dumps(made_from)))
    if changed := sorted(name for name in before.keys() | now if before.get(name) != now.get(name)):
        raise InputError(
            f"{path}: of another training ({', '.join(changed)} differs); choose another folder, or delete it to "
            "begin anew"
        )
    return state


def save_training(
    path: str | Path, step: int, parts: Mapping[str, Part], generator: torch.Generator, made_from: Mapping[str, Any]
) -> None:
    """Write a training's checkpoint after a step: the state of each part, and all random generators."""
    random = {"own": generator.get_state(), "cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["cuda"] = torch.cuda.get_rng_state()
    states = {name: part.state_dict() for name, part in parts.items()}
    save_checkpoint(path, {"step": step, **states, "randomness": random}, made_from)


def resume_training(
    path: str | Path, parts: Mapping[str, Part], generator: torch.Generator, made_from: Mapping[str, Any]
) -> int:
    """Restore what :func:`save_training` wrote, if the file is there; the step it was written after, else 0.

    Raises:
        InputError: see :func:`load_checkpoint`; or a part has another size, as that of another model has.

    Example:
        >>> import tempfile
        >>> path, seeded = Path(tempfile.mkdtemp()) / "checkpoint.pt", torch.Generator().manual_seed(0)
        >>> net, again = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        >>> save_training(path, 7, {"net": net}, seeded, {})
        >>> resume_training(path, {"net": again}, seeded, {}), bool((again.weight == net.weight).all())
        (7, True)
    """
    state = load_checkpoint(path, made_from)
    if state is None:
        return 0
    try:
        for name, part in parts.items():
            part.load_state_dict(state[name])
    except (KeyError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{path}: of another model, or of other persons ({name} does not fit); choose another folder, or delete it "
            "to begin anew"
        ) from error
    random = state["randomness"]
    generator.set_state(random["own"])
    torch.set_rng_state(random["cpu"])
    if "cuda" in random and torch.cuda.is_available():
        torch.cuda.set_rng_state(random["cuda"])
    return int(state["step"])


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


# --- the history of a training


class History:
    """A table with one row an evaluation, and the mean of each loss over the steps between two rows.

    Args:
        curves: folder for TensorBoard's files; None writes none.

    Attributes:
        rows: the table.

    Example:
        >>> history = History()
        >>> for loss in (1.0, 3.0):
        ...     history.count({"total": torch.tensor(loss)})
        >>> history.append({"step": 2, **history.means(), "val_total": 2.5})
        >>> history.rows
        [{'step': 2, 'train_total': 2.0, 'val_total': 2.5}]
        >>> history.means()
        {}
    """

    def __init__(self, curves: Path | None = None) -> None:
        self.rows: list[dict[str, float | int]] = []
        self._sums: dict[str, float] = {}
        self._steps = 0
        self._writer: Any = None
        if curves:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(curves))

    def count(self, terms: Mapping[str, Tensor]) -> None:
        """Add the losses of a step to the next means."""
        self._steps += 1
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value.detach())

    def means(self) -> dict[str, float | int]:
        """The mean of each loss over the steps since the last call, as ``train_NAME``."""
        means: dict[str, float | int] = {f"train_{name}": value / self._steps for name, value in self._sums.items()}
        self._sums, self._steps = {}, 0
        return means

    def append(self, row: Mapping[str, float | int]) -> None:
        """Add a row, which has a "step", to the table and to TensorBoard."""
        self.rows.append(dict(row))
        self.log({name: value for name, value in row.items() if name != "step"}, int(row["step"]))

    def log(self, values: Mapping[str, float | int], step: int) -> None:
        """Show numbers in TensorBoard alone."""
        if self._writer:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()

    def write(self, path: str | Path) -> None:
        """Write the table as CSV.

        Raises:
            InputError: the folder cannot be written to, or the disk is full.
        """
        import pandas as pd

        with atomic_write(path) as temporary:
            pd.DataFrame(self.rows).to_csv(temporary, index=False, float_format="%.6g")

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self._writer:
            self._writer.close()

    def state_dict(self) -> str:
        """Rows and unfinished means, for a checkpoint."""
        return json.dumps([self.rows, self._sums, self._steps])

    def load_state_dict(self, state: str) -> None:
        """Restore rows and unfinished means."""
        self.rows, self._sums, self._steps = json.loads(state)


def peak_memory(device: str | torch.device) -> dict[str, str]:
    """For a progress bar: the largest amount of GPU memory this process has held; empty on other devices.

    Example:
        >>> peak_memory("cpu")
        {}
    """
    if torch.device(device).type != "cuda":
        return {}
    return {"peak": f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB"}


# --- seeds, signals, refusals


@contextmanager
def seeded(seed: int, device: str | torch.device) -> Iterator[None]:
    """Seed torch's global generators, which initial weights and dropout read; restore them when the block ends.

    Of several GPUs only this process's own is touched: ``fork_rng`` alone would open them all.

    Example:
        >>> with seeded(0, "cpu"):
        ...     drawn = torch.rand(1)
        >>> with seeded(0, "cpu"):
        ...     bool(torch.rand(1) == drawn)
        True
    """
    here = own_device(str(device))
    with torch.random.fork_rng([here] if here.startswith("cuda") else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def until_terminated() -> Iterator[Callable[[], bool]]:
    """Delay SIGTERM until the block ends; yields a function that returns True once the signal has arrived.

    Clusters send SIGTERM some time before they take a machine away. When the block ends the signal is raised again
    under the handler that was there before, which by default ends the process. Python catches signals in the main
    thread only; in another thread nothing is delayed.

    Example:
        >>> with until_terminated() as terminated:
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


def stopped_by_request(folder: str | Path, step: int) -> str:
    """The line that a training prints when SIGTERM has ended it."""
    return f"{folder}: asked to stop; saved after step {step}, run it again to go on"


@contextmanager
def at_step(step: int, persons: Sequence[str]) -> Iterator[None]:
    """Complete an :class:`InputError` of the block: which step, whose batch, and what to do.

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
    """Refuse losses, or the norm of a gradient, that are infinite or NaN, before they reach the optimiser.

    Raises:
        InputError: names the last such term; the total comes first.
    """
    if wrong := [name for name, value in terms.items() if not bool(value.isfinite().all())]:
        raise InputError(f"the {wrong[-1]} is not finite")
