"""What a killed training goes on from: the states of its parts and the next step, in one file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from v2f_core.artefacts.files import atomic_write


class Checkpoint:
    """Loads the parts' states from a file if it is there, and writes them every ``seconds``.

    Attributes:
        start: the step to go on from.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "state.pt"
        >>> net, other = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
        >>> Checkpoint(path, {"net": net}).save_if_due(6, last=True)  # after the seventh step
        True
        >>> Checkpoint(path, {"net": other}).start, bool((other.weight == net.weight).all())
        (7, True)
    """

    def __init__(self, path: Path, parts: Mapping[str, Any], seconds: float = 60.0) -> None:
        self.path, self.parts, self.seconds, self.start = path, parts, seconds, 0
        if path.exists():
            saved = torch.load(path, weights_only=True)
            for name, part in parts.items():
                part.load_state_dict(saved[name])
            self.start = int(saved["step"])
        self._saved_at = time.monotonic()

    def save_if_due(self, step: int, last: bool) -> bool:
        """Write the file after ``step`` if it is time, or the last one; whether it was written."""
        if not last and time.monotonic() - self._saved_at < self.seconds:
            return False
        states = {name: part.state_dict() for name, part in self.parts.items()}
        with atomic_write(self.path) as temporary:
            torch.save(states | {"step": step + 1}, temporary)
        self._saved_at = time.monotonic()
        return True
