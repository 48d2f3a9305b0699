"""Opening other libraries' model folders: what is missing is named, code is refused, their chatter is silenced."""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from v2f_core.errors import InputError


def folder_with(folder: str | Path, files: tuple[str, ...], what: str) -> Path:
    """The folder, after a look that the files are in it.

    Raises:
        InputError: there is no such folder, or a file is missing.

    Example:
        >>> folder_with("models/none", ("config.json",), "an AST")
        Traceback (most recent call last):
        v2f_core.errors.InputError: models/none: no such folder; expected an AST folder with config.json
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected {what} folder with {', '.join(files)}")
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise InputError(f"{folder}: {what} folder lacks {', '.join(missing)}; copy the whole folder")
    return folder.resolve()


def refuse_code(folder: Path) -> None:
    """Look through a folder's checkpoints, whether they are used or not: they may hold tensors and numbers alone.

    Raises:
        InputError: one could run code when another program opens it, or is damaged.
    """
    for path in sorted(folder.glob("*.ckpt")):
        try:
            torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
            raise InputError(f"{path}: refused, it holds more than tensors or is damaged; get it again") from error


def one_line(error: Exception) -> str:
    """A library's message on one line, cut short.

    Example:
        >>> one_line(ValueError("a\\n  b"))
        'a b'
    """
    return " ".join(str(error).split())[:200]


@contextmanager
def quiet() -> Iterator[None]:
    """No logs, bars or deprecation warnings: what matters in a library's report of its loading is checked here."""
    from transformers.utils import logging as hf_logging

    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()
