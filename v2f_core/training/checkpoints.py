"""What a killed training goes on from: one file that is whole or absent, and that knows which training it is of."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from v2f_core.artefacts.files import atomic_write
from v2f_core.errors import InputError
from v2f_core.training.processes import own_device

CHECKPOINT_NAME = "checkpoint.pt"


def save_checkpoint(path: str | Path, state: Mapping[str, Any], made_from: Mapping[str, Any]) -> None:
    """Write tensors, numbers, strings and nestings of them, with what determines the training.

    Args:
        path: the file; an older one stays until the new one is whole.
        state: state dictionaries and the like.
        made_from: settings and hashes, as JSON can hold them; a training of others must not go on from this.
    Raises:
        InputError: the folder cannot be written to.
    """
    with atomic_write(path) as temporary:
        torch.save({"made_from": json.dumps(made_from), "state": dict(state)}, temporary)


def load_checkpoint(path: str | Path, made_from: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state that a checkpoint holds, on the CPU; None if there is no checkpoint. Nothing is unpickled but data.

    Raises:
        InputError: the file is damaged, or of a training with other settings or inputs.

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
    except Exception as error:  # torch raises whatever its readers raise
        raise InputError(f"{path}: damaged ({str(error).splitlines()[0]}); delete it to begin anew") from error
    before, now = _flat(before), _flat(json.loads(json.dumps(made_from)))
    if changed := sorted(name for name in before.keys() | now if before.get(name) != now.get(name)):
        raise InputError(
            f"{path}: of another training ({', '.join(changed)} differs); choose another folder, or delete it to "
            "begin anew"
        )
    return state


@runtime_checkable
class Part(Protocol):
    """What can be put aside and taken up again: a net, an optimiser, a table."""

    def state_dict(self) -> Any:
        """All that it holds, in tensors, numbers, strings and nestings of them."""

    def load_state_dict(self, state: Any) -> Any:
        """Put it back."""


def save_training(
    path: str | Path, step: int, parts: Mapping[str, Part], generator: torch.Generator, made_from: Mapping[str, Any]
) -> None:
    """Write the checkpoint of a training after a step: its parts by their names, and all randomness."""
    held = {name: part.state_dict() for name, part in parts.items()}
    save_checkpoint(path, {"step": step, **held, "randomness": randomness(generator)}, made_from)


def resume_training(
    path: str | Path, parts: Mapping[str, Part], generator: torch.Generator, made_from: Mapping[str, Any]
) -> int:
    """Load the checkpoint of :func:`save_training` if there is one; the step it was written after, else 0.

    Raises:
        InputError: see :func:`load_checkpoint`; or a part is of another size, as another model's is.

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
    restore_randomness(state["randomness"], generator)
    return int(state["step"])


def broken_off(path: Path, step: int, why: str, persons: Sequence[str]) -> InputError:
    """What is told when a step broke, and the checkpoint holds what was before it.

    Example:
        >>> print(broken_off(Path("checkpoint.pt"), 7, "the gradient is not finite", ["Ada", "Bea"]))
        checkpoint.pt: step 7: the gradient is not finite; saved as it was before that step. The batch was Ada, Bea; ...
    """
    return InputError(
        f"{path}: step {step}: {why}; saved as it was before that step. The batch was {', '.join(persons)}; check "
        "their files, or lower the learning rates"
    )


@contextmanager
def evaluation(step: int) -> Iterator[None]:
    """Within it, what cannot be evaluated is said to be what was trained: no checkpoint is made of it.

    Example:
        >>> with evaluation(7):
        ...     raise InputError("a vector is NaN")
        Traceback (most recent call last):
        v2f_core.errors.InputError: evaluation after step 7: a vector is NaN; an earlier checkpoint, if any, is kept; …
    """
    try:
        yield
    except InputError as error:
        raise InputError(
            f"evaluation after step {step}: {error}; an earlier checkpoint, if any, is kept; lower the learning rates"
        ) from error


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def randomness(generator: torch.Generator) -> dict[str, Tensor]:
    """The states of a generator and of torch's global ones, which dropout reads."""
    states = {"own": generator.get_state(), "cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def restore_randomness(states: Mapping[str, Tensor], generator: torch.Generator) -> None:
    """Put the states of `randomness` back.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> states = randomness(generator)
        >>> drawn = torch.rand(2, generator=generator), torch.rand(2)
        >>> restore_randomness(states, generator)
        >>> bool((torch.rand(2, generator=generator) == drawn[0]).all()), bool((torch.rand(2) == drawn[1]).all())
        (True, True)
    """
    generator.set_state(states["own"])
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


@contextmanager
def seeded(seed: int, device: str | torch.device) -> Iterator[None]:
    """Within it torch's global generators begin at a seed; afterwards they are as they were.

    Of several GPUs it touches the one that this process computes on: ``fork_rng`` alone would open them all.

    Example:
        >>> with seeded(0, "cpu"):
        ...     drawn = torch.rand(1)
        >>> with seeded(0, "cpu"):
        ...     bool(torch.rand(1) == drawn)
        True
    """
    here = own_device(str(device))
    with torch.random.fork_rng([here] if here.startswith("cuda") else []):
        torch.manual_seed(seed)  # initial weights and dropout read them
        yield
