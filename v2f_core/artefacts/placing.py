"""Puts a published file in its place: out of a zip, linked or copied, rewritten if it is a pickle, and checked."""

from __future__ import annotations

import errno
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from v2f_core.artefacts.files import atomic_write, sha256
from v2f_core.artefacts.origins import Published
from v2f_core.artefacts.unpickle import bin_to_safetensors, vggface2_to_safetensors
from v2f_core.errors import InputError


def unzip_one(archive: Path, name: str, folder: Path) -> Path:
    """One file of a zip, wherever in it: antelopev2.zip holds a folder.

    Raises:
        InputError: the zip is damaged or does not hold it.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.namelist() if Path(member).name == name]
            if not members:
                raise InputError(f"{archive}: holds no {name}; expected {archive.stem} as its publisher packed it")
            with (
                opened.open(members[0]) as source,
                atomic_write(folder / name) as temporary,
                temporary.open("wb") as file,
            ):
                shutil.copyfileobj(source, file)
    except (zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{archive}: damaged or cut off; delete it and fetch it again") from error
    return folder / name


def put(source: Path, target: Path, published: Published) -> None:
    """Put a file in its place: read safely and rewritten, or linked, or copied.

    Raises:
        InputError: it is damaged, half a file, or holds more than numbers.
    """
    real = source.resolve()
    # the hub's cache names large files by their SHA-256
    if re.fullmatch("[0-9a-f]{64}", real.name) and sha256(real) != real.name:
        raise InputError(f"{real}: damaged (its SHA-256 is not its name); delete it and fetch it again")
    if published.convert == "bin":
        return bin_to_safetensors(real, target)
    if published.convert == "vggface2":
        return vggface2_to_safetensors(real, target)
    _check_whole(real, target.suffix)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as temporary:
        temporary.unlink()
        try:
            os.link(real, temporary)
        except OSError:  # another disk, or one without links
            shutil.copyfile(real, temporary)


def _check_whole(path: Path, suffix: str) -> None:
    """Refuse half a file before its hash is taken for good."""
    try:
        if suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, "np"):
                pass
        elif suffix == ".onnx":
            import onnx

            onnx.load(str(path), load_external_data=False)
        elif suffix == ".ckpt":
            import torch

            torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each library has its own
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: half a file, or not of its kind ({reason}); delete it and fetch it again") from error


@contextmanager
def named_disk_errors(target: Path) -> Iterator[None]:
    """Say which file a full disk or missing rights concern.

    Raises:
        InputError: in place of any ``OSError`` within the block.
    """
    try:
        yield
    except OSError as error:
        why = "the disk is full; free some room and run it again, it goes on from here"
        if error.errno != errno.ENOSPC:
            why = f"cannot be written ({error.strerror or error}); check the folder's rights"
        raise InputError(f"{target}: {why}") from error
