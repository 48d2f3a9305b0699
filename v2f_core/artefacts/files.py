"""Safe file names, files written whole or not at all, provenance in pictures, and hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v2f_core.artefacts.loading import read_json
from v2f_core.errors import InputError

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngInfo

HASHES = "SHA256.json"  # beside folders of weights: relative path → SHA-256
DISK_FULL = re.compile(rf"(?:errno|os error) {errno.ENOSPC}\b", re.I)  # in messages of Python, Arrow and safetensors
NO_FILE_NAME = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.I)  # names that Windows reserves
LONGEST_NAME = 100  # bytes; file systems take 255, of which endings and temporary names need some
BESIDE_WEIGHTS = frozenset({"checkpoint.pt", "tensorboard"})  # other files of a training; the second of version 0.1
SYNTHETIC = (
    "Synthetic: drawn by a model from a voice. No likeness of any person: a voice does not determine a face. "
    "Not for identification."
)


# --- names


def is_plain_name(text: str) -> bool:
    """Whether a text is a single name: no part of a path, and no character that cannot be printed."""
    signs = any(sign in "/\\" or unicodedata.category(sign) in ("Cc", "Cs") for sign in text)
    return text.strip() not in ("", ".", "..") and not signs


def safe_name(text: str) -> str:
    """Turn any text into the start of a file name that is valid on every system and differs for every text.

    Text that is no safe name gets eight digits of its SHA-256.

    Example:
        >>> safe_name("id10001"), safe_name("../x"), safe_name("10:30")
        ('id10001', '_x-d6b96a97', '10_30-b90e3a3d')
    """
    name = "".join(c if is_plain_name(c + "x") and c not in '<>:"|?*' else "_" for c in text).strip(" .")
    name = name.encode("utf-8")[:LONGEST_NAME].decode("utf-8", "ignore")
    if name == text and name and not NO_FILE_NAME.match(name):
        return name
    return f"{name or 'unnamed'}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def printable(text: str | Path) -> str:
    """A name as one line that any terminal and any JSON file can hold."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


# --- writing


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` if the block ends without an error.

    After an error or a kill the old file is still there (or none), never half of a new one. An ``InputError`` says that
    the folder cannot be written to, or that the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # many writers choose the format by the suffix, so it stays
        handle, name = tempfile.mkstemp(prefix=".part-", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose a folder you may write to") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except Exception as error:
        if DISK_FULL.search(str(error)):
            raise InputError(f"{path}: the disk is full, nothing was written; free room and run it again") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write JSON, indented and in UTF-8, by :func:`atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder; move its files into ``folder`` if the block ends without an error, else delete them."""
    existed = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as name:
            yield Path(name)
            for path in sorted(Path(name).iterdir()):
                path.replace(folder / path.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error.strerror}); choose another with --out") from error
    finally:
        if not existed and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def check_writable(folder: Path) -> None:
    """Raise an ``InputError`` if a folder cannot be created or written to; it is not created."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise InputError(f"{existing}: a file, not a folder; choose another folder with --out")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{existing}: no permission to write here; choose another folder with --out")


# --- provenance


def versions(*packages: str) -> dict[str, str]:
    """The installed version of each package; "source" where it runs from its source tree, not installed."""
    installed = dict.fromkeys(packages, "source")
    for package in packages:
        with suppress(PackageNotFoundError):
            installed[package] = version(package)
    return installed


def png_text(provenance: dict[str, Any]) -> PngInfo:
    """What a generated picture says of itself, for ``Image.save(..., pnginfo=…)``: synthetic, and its provenance."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Description", SYNTHETIC)
    info.add_text("Software", f"v2f-core {versions('v2f-core')['v2f-core']}")
    info.add_text("Source", "a generative model (Vox2Face)")
    info.add_text("v2f_core", json.dumps({"synthetic": True, **provenance}))
    return info


# --- hashes


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_hash(folder: str | Path) -> str:
    """One SHA-256 for all files of a folder: of their sorted relative names and contents.

    A training's checkpoint beside the weights does not count: it contains the time of the run.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected a folder of weights")
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not BESIDE_WEIGHTS & set(path.relative_to(folder).parts):
            digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256(path)}\n".encode())
    return digest.hexdigest()


def read_hashes(table: Path) -> dict[str, str]:
    """SHA256.json as relative path → SHA-256; empty if there is no such file."""
    remedy = "mend it, or delete it to have every file's hash taken anew"
    return read_json(table, remedy) if table.is_file() else {}


def check_hashes(folder: Path, remedy: str, add: bool = False) -> None:
    """Compare a folder's files with the hashes in SHA256.json beside it; ``add`` writes those of new files into it."""
    table = folder.parent / HASHES
    known = read_hashes(table)
    for name, digest in known.items():
        path = folder.parent / name
        if path.is_relative_to(folder) and (not path.is_file() or sha256(path) != digest):
            raise InputError(f"{path}: missing, or differs from its hash in {table}; {remedy}")
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")] if add else []
    new = [path for path in paths if path.relative_to(folder.parent).as_posix() not in known]
    if new and os.access(folder.parent, os.W_OK):
        hashes = {path.relative_to(folder.parent).as_posix(): sha256(path) for path in new}
        write_json(table, dict(sorted({**known, **hashes}.items())))


check_hashes_once = cache(check_hashes)  # in a process: hashing gigabytes takes seconds
