"""MiniVox as a dataset: its archives, and the true factors that each person was made from."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

from v2f_core.artefacts.files import atomic_write, sha256
from v2f_core.artefacts.loading import refusing
from v2f_core.data.packed import ARCHIVES, unpack, unpacked_folder
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
    with refusing(path, "MiniVox's factors", "delete the folder, and it is unpacked again"):
        table = pd.read_csv(path).rename(columns={"name": "person", "person": "id"})  # named as in the manifest
        return table.set_index("person")


def pack(folder: str | Path, out: str | Path) -> dict[str, str]:
    """Pack an unpacked MiniVox into archives of the same bytes on every machine; returns each archive's SHA-256.

    Pictures and sounds are compressed already, so the archives are not.

    Raises:
        InputError: an archive would be empty; the output folder cannot be written to.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("vox1/origin_faces/Mini_0000/0.webp", "vox1/wav/id90000/v000/0.ogg", "split.csv"):
        ...     (folder / name).parent.mkdir(parents=True, exist_ok=True)
        ...     _ = (folder / name).write_text(name)
        >>> first, second = (pack(folder, tempfile.mkdtemp()) for _ in range(2))
        >>> sorted(first), first == second
        (['faces.tar', 'tables.tar', 'voices.tar'], True)
    """
    folder, out = Path(folder), Path(out)
    hashes = {}
    for name, pattern in ARCHIVES.items():
        files = sorted(path for path in folder.glob(pattern) if path.is_file())
        if not files:
            raise InputError(f"{folder}: no {pattern} in it; expected MiniVox's layout")
        with (
            atomic_write(out / name) as temporary,
            tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive,
        ):
            for path in files:
                content = path.read_bytes()
                entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
                entry.size = len(content)  # time, owner and mode keep TarInfo's constants
                archive.addfile(entry, io.BytesIO(content))
        hashes[name] = sha256(out / name)
    return hashes
