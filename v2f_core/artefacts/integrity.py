"""Whether a part's files are what they were: compared with the hashes kept beside its folder."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

from v2f_core.artefacts.files import HASHES, atomic_write, sha256
from v2f_core.errors import InputError


def is_listed(folder: Path) -> bool:
    """Whether the hashes kept beside a folder list files of it; true where none are kept.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> is_listed(root / "judge")
        True
        >>> _ = (root / HASHES).write_text("{}")
        >>> is_listed(root / "judge")
        False
    """
    table = folder.parent / HASHES
    return not table.is_file() or any(file.startswith(f"{folder.name}/") for file in read_hashes(table))


def read_hashes(table: Path) -> dict[str, str]:
    """What SHA256.json says, relative path → SHA-256; nothing where there is none.

    Raises:
        InputError: it is no such table any more: lines may be deleted by hand, and a comma is soon forgotten.

    Example:
        >>> read_hashes(Path("nowhere") / HASHES)
        {}
    """
    if not table.is_file():
        return {}
    try:
        return dict(json.loads(table.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{table}: cannot be read as JSON ({error}); mend it, or delete it to have every file's hash taken anew"
        ) from error


@cache
def damaged_assets(folder: Path) -> tuple[Path, ...]:
    """The files below an assets folder that are missing or differ from the hashes kept beside it; once a process.

    A folder without such hashes (full-size weights) has none to differ from.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> (root / "judge").mkdir()
        >>> _ = (root / HASHES).write_text(json.dumps({"judge/model.safetensors": "0" * 64}))
        >>> [path.name for path in damaged_assets(root / "judge")]
        ['model.safetensors']
    """
    table = folder.parent / HASHES
    if not table.is_file():
        return ()
    expected = {folder.parent / name: digest for name, digest in read_hashes(table).items()}
    ours = {path: digest for path, digest in expected.items() if path.is_relative_to(folder)}
    return tuple(path for path, digest in ours.items() if not path.is_file() or sha256(path) != digest)


def pin(folder: str | Path, name: str | None = None) -> None:
    """Write the SHA-256 of a folder's files into SHA256.json beside it, unless they stand there already.

    Where nothing can be written nothing is pinned.

    Args:
        name: the folder's name in the table, if it is to be another.
    Raises:
        InputError: a file differs from what stands there, or the table cannot be read.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "ast"
        >>> folder.mkdir()
        >>> _ = (folder / "config.json").write_text("{}")
        >>> pin(folder)
        >>> list(json.loads((folder.parent / HASHES).read_text()))
        ['ast/config.json']
    """
    folder = Path(folder)
    table = folder.parent / HASHES
    known = read_hashes(table)
    seen = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        entry = f"{name or folder.name}/{path.relative_to(folder).as_posix()}"
        seen[entry] = sha256(path)
        if known.get(entry, seen[entry]) != seen[entry]:
            raise InputError(
                f"{path}: not what it was at its first use ({table} says so); delete it and fetch it again, or, if you "
                "trust the change, delete its line there"
            )
    if seen.keys() <= known.keys() or not os.access(folder.parent, os.W_OK):
        return
    with atomic_write(table) as temporary:
        temporary.write_text(json.dumps({**known, **seen}, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@cache
def pin_once(folder: Path) -> None:
    """Compare a folder of published weights with the hashes of its first use; once a process, it takes seconds.

    Raises:
        InputError: see :func:`pin`.
    """
    pin(folder)
