"""MiniVox as a dataset: where it lies once unpacked, and the true factors that each person was made from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from v2f_core.data.packed import pack, unpack, unpacked_folder
from v2f_core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["factors", "pack", "unpack", "unpacked_folder"]


def factors(root: str | Path) -> pd.DataFrame:
    """Every person's true factors: what their face and voice were made from, one row a person.

    Raises:
        InputError: the folder holds no factors.csv, so it is not MiniVox.

    Example:
        >>> factors(unpack()).loc["Mini_0000", "sex"]  # doctest: +SKIP
        'f'
    """
    import pandas as pd

    path = Path(root) / "factors.csv"
    if not path.is_file():
        raise InputError(f"{path}: no such file; true factors exist for MiniVox only (minivox.dataset.unpack)")
    table = pd.read_csv(path).rename(columns={"name": "person", "person": "id"})  # named as in the manifest
    return table.set_index("person")
