"""Unpack MiniVox, which this package carries as archives, into HQ-VoxCeleb's and VoxCeleb's layout."""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from v2f_core.artefacts.files import HASHES, check_hashes, read_hashes
from v2f_core.artefacts.profiles import MINI_ASSETS, RESTORE, cache_folder
from v2f_core.errors import InputError

# archive → the files of the unpacked folder in it
ARCHIVES = {"faces.tar": "vox1/origin_faces/**/*", "voices.tar": "vox1/wav/**/*", "tables.tar": "*.csv"}


def unpack(cache: str | Path | None = None, packed: str | Path = MINI_ASSETS / "minivox") -> Path:
    """Unpack MiniVox into the cache, unless it is there already, and return the folder.

    The folder's name is a hash of the archives, so that versions never mix. It appears whole or not at all, also when
    two processes unpack at once. SHA256.json in the parent of ``packed`` has the hashes of the archives.
    """
    from tqdm import tqdm

    packed, target = Path(packed), unpacked_folder(cache, packed)
    if not target.is_dir():
        check_hashes(packed, RESTORE)
        with appearing(target) as whole:
            for name in tqdm(ARCHIVES, desc="unpacking MiniVox", unit="archive"):
                with tarfile.open(packed / name, "r:") as archive:
                    try:
                        archive.extractall(whole, filter="data")
                    except tarfile.FilterError as error:
                        message = f"{packed / name}: holds no plain files below it ({error}); {RESTORE}"
                        raise InputError(message) from error
    return target


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """Yield a temporary folder, which becomes ``target`` if the block ends without an error."""
    cache = target.parent
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".minivox-", dir=cache, ignore_cleanup_errors=True) as temporary:
            whole = Path(temporary) / "whole"
            whole.mkdir()
            yield whole
            try:
                whole.rename(target)
            except OSError:
                if not target.is_dir():  # otherwise another process has just unpacked the same content
                    raise
    except OSError as error:
        way_out = "set V2F_CACHE to a folder with 100 MB of room"
        raise InputError(f"{cache}: cannot be written to ({error.strerror}); {way_out}") from error


def unpacked_folder(cache: str | Path | None = None, packed: str | Path = MINI_ASSETS / "minivox") -> Path:
    """The folder that `unpack` returns, whether it exists yet or not."""
    packed = Path(packed)
    table = packed.parent / HASHES
    known, names = read_hashes(table), [f"{packed.name}/{name}" for name in ARCHIVES]
    for name in names:
        if name not in known or not (packed.parent / name).is_file():
            raise InputError(f"{packed.parent / name}: missing, or not in {table}; {RESTORE}")
    version = hashlib.sha256("".join(known[name] for name in names).encode()).hexdigest()[:12]
    return Path(cache or cache_folder()) / f"minivox-{version}"
