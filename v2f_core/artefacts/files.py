"""Files that are whole or absent: atomic writes, and hashes for provenance."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from v2f_core.errors import InputError

HASHES = "SHA256.json"  # beside folders of weights: relative path -> SHA-256
DISK_FULL = re.compile(rf"(?:errno|os error) {errno.ENOSPC}\b", re.I)  # as Python, Arrow and Rust (safetensors) put it


# what Windows, and some network drives, do not take in a file's name
NO_FILE_NAME = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.I)
LONGEST_NAME = 100  # bytes; file systems take 255, of which endings and temporary names need some


def is_plain_name(text: str) -> bool:
    """Whether a name is only a name: no part of a path, and nothing that no terminal or file system can show.

    Example:
        >>> is_plain_name("id10001"), is_plain_name("Zoë O'Neil"), is_plain_name("../x"), is_plain_name("a\\nb")
        (True, True, False, False)
    """
    return text.strip() not in ("", ".", "..") and not any(
        sign in "/\\" or unicodedata.category(sign) in ("Cc", "Cs") for sign in text
    )


def safe_name(text: str) -> str:
    """Any text as the beginning of a file's name: within its folder, on every system, and not another text's.

    What is safe stays as it is; anything else gets eight digits of its SHA-256, so that two names never become one.

    Example:
        >>> safe_name("id10001"), safe_name("../x"), safe_name("10:30")
        ('id10001', '_x-d6b96a97', '10_30-b90e3a3d')
    """
    name = "".join(c if is_plain_name(c + "x") and c not in '<>:"|?*' else "_" for c in text).strip(" .")
    name = name.encode("utf-8")[:LONGEST_NAME].decode("utf-8", "ignore")
    if name == text and name and not NO_FILE_NAME.match(name):
        return name
    return f"{name or 'unnamed'}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; rename it to ``path`` when the block ends well.

    A block that raises, or a process that is killed, leaves the old file (or none), never half of a new one.

    Raises:
        InputError: the folder cannot be written to, or the disk is full.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "deep" / "note.txt"
        >>> with atomic_write(target) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> target.read_text()
        'whole'
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # the suffix stays: many writers choose the format by it
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


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits.

    Example:
        >>> import tempfile
        >>> empty = Path(tempfile.mkdtemp()) / "empty"
        >>> empty.touch()
        >>> sha256(empty)[:8]
        'e3b0c442'
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
