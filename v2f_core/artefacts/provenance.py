"""Where an artefact comes from: the versions that made it, and a hash that names a folder of weights."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from v2f_core.artefacts.files import sha256
from v2f_core.errors import InputError

SYNTHETIC = (
    "Synthetic: drawn by a model from a voice. No likeness of any person: a voice does not determine a face. "
    "Not for identification."
)
BESIDE_WEIGHTS = frozenset({"checkpoint.pt", "tensorboard"})  # what a training leaves in the folder of its weights


def versions(*packages: str) -> dict[str, str]:
    """The installed version of each package; "source" where the package runs from its source tree, not installed.

    Example:
        >>> sorted(versions("torch", "v2f-core"))
        ['torch', 'v2f-core']
    """
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "source"
    return found


def folder_hash(folder: str | Path) -> str:
    """One SHA-256 for all files of a folder: of their sorted relative names and contents.

    It names a set of weights whatever folder it lies in; a training's checkpoint and curves beside them, which hold the
    hour, do not count.

    Raises:
        InputError: the folder is missing.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "weights").write_bytes(b"1")
        >>> one = folder_hash(folder)
        >>> _ = (folder / "weights").write_bytes(b"2")
        >>> one == folder_hash(folder)
        False
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected a folder of weights")
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if BESIDE_WEIGHTS & set(path.relative_to(folder).parts):
            continue
        digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256(path)}\n".encode())
    return digest.hexdigest()
