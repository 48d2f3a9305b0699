"""Folders of models as other libraries write them: checked before they are opened, refused in one line."""

from __future__ import annotations

from pathlib import Path

from v2f_core.errors import InputError


def checked_folder(folder: str | Path, files: tuple[str, ...], kind: str) -> Path:
    """The folder's full path, after a look that its files are there.

    Raises:
        InputError: there is no such folder, or it lacks a file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected {kind} folder with {', '.join(files)}")
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise InputError(f"{folder}: {kind} folder lacks {', '.join(missing)}; copy the whole folder")
    return folder.resolve()


def one_line(error: Exception) -> str:
    """A library's message on one line, cut short.

    Example:
        >>> one_line(ValueError("a\\n  b"))
        'a b'
    """
    return " ".join(str(error).split())[:200]
