"""What is common to all runs of an ablation's table, where each run lies, and what its folder is claimed for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from v2f_core.artefacts.files import atomic_write
from v2f_core.artefacts.provenance import folder_hash
from v2f_core.errors import InputError

if TYPE_CHECKING:
    from v2f_core.artefacts.profiles import Profile


@dataclass(frozen=True)
class Plan:
    """What is common to all runs of a table.

    Attributes:
        profile: parts, dataset and settings.
        folder: of all runs; tables share the systems that they have in common.
        steps: of Stage II; None: the profile's.
        persons: so many persons at most are drawn, women and men alike.
        drawn_steps: of the sampler.
        varied: of so many persons a second face is drawn, for diversity.
        split: who is drawn: "test", or "val" while systems are still being chosen.
        device: where to train and draw.
    """

    profile: Profile
    folder: Path
    steps: int | None = None
    persons: int = 1000
    drawn_steps: int = 10
    varied: int = 100
    split: str = "test"
    device: str = "cpu"

    def run(self, system: str, seed: int) -> Path:
        """The folder in which a system is trained with a seed."""
        return self.folder / f"{slug(system)}-{seed}"

    @property
    def drawn(self) -> str:
        """The name of the folder, in a run's, of what was measured on these persons."""
        return f"{self.split}-{self.persons}"


def claim(folder: Path, wanted: Mapping[str, object]) -> None:
    """Write down what a folder is for, in plan.json.

    Raises:
        InputError: it is for something else.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "teacher-0"
        >>> claim(folder, {"seed": 0})
        >>> claim(folder, {"seed": 1})
        Traceback (most recent call last):
        v2f_core.errors.InputError: …/teacher-0: holds a run with other settings; choose another folder …
    """
    told, text = folder / "plan.json", json.dumps(wanted, indent=2, ensure_ascii=False) + "\n"
    if told.exists() and told.read_text(encoding="utf-8") != text:
        raise InputError(f"{folder}: holds a run with other settings; choose another folder with --out, or delete it")
    with atomic_write(told) as temporary:
        temporary.write_text(text, encoding="utf-8")


@cache
def hashes(*folders: Path) -> tuple[str, ...]:
    """The hash of each folder of weights, read once in a process."""
    return tuple(map(folder_hash, folders))


def made_of(profile: Profile) -> dict[str, object]:
    """What of a profile decides a run: weights by their hashes, wherever they lie."""
    parts = (profile.encoder, "prior", "faces", "judge")
    weights = dict(zip(parts, hashes(*map(profile.part, parts)), strict=True))
    heard = [profile.clip_seconds, profile.ast_frames, profile.ast_positions]
    stages = {"stage1": dict(profile.stage1), "stage2": dict(profile.stage2)}
    return {"dataset": str(profile.dataset), "heard": heard, **weights, **stages}


def slug(name: str) -> str:
    """A name as a folder's.

    Example:
        >>> slug("teacher, z_t other")
        'teacher-z_t-other'
    """
    kept: Iterable[str] = (letter if letter.isalnum() or letter == "_" else "-" for letter in name.replace("w/o", "no"))
    return "-".join(part for part in "".join(kept).split("-") if part)
