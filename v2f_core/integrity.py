"""Whether a part's files are what they were: compared with the hashes kept beside its folder, once a process."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from v2f_core.errors import InputError
from v2f_core.files import HASHES, sha256


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


@cache
def pin_once(folder: Path) -> None:
    """Compare a folder of published weights with the hashes of its first use; once a process, it takes seconds.

    Raises:
        InputError: see :func:`v2f_core.weights.pin`.
    """
    from v2f_core.weights import pin

    pin(folder)
