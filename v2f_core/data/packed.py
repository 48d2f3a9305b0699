"""MiniVox travels packed inside this package and is unpacked once, into HQ-VoxCeleb's and VoxCeleb's layout."""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import tempfile
from pathlib import Path

from v2f_core.artefacts.files import HASHES, atomic_write, read_hashes, sha256
from v2f_core.artefacts.profiles import MINI_ASSETS, RESTORE, cache_folder
from v2f_core.errors import InputError

# which files of the unpacked folder each archive holds
ARCHIVES = {"faces.tar": "vox1/origin_faces/**/*", "voices.tar": "vox1/wav/**/*", "tables.tar": "*.csv"}


def unpack(cache: str | Path | None = None, packed: str | Path = MINI_ASSETS / "minivox") -> Path:
    """Unpack MiniVox into the cache, unless it is there already, and give the folder.

    The folder is named after the archives' hashes: another version never mixes with it, and it appears whole or not at
    all, even if two processes unpack at once.

    Args:
        cache: where to unpack; by default `v2f_core.artefacts.profiles.cache_folder`.
        packed: the folder of the archives; their hashes stand in the SHA256.json of its parent.

    Raises:
        InputError: archives or hashes are missing or damaged; the cache cannot be written to.

    Example:
        >>> root = unpack()  # doctest: +SKIP
        >>> sorted(path.name for path in root.iterdir())  # doctest: +SKIP
        ['factors.csv', 'split.csv', 'vox1', 'vox1_meta.csv']
    """
    packed, target = Path(packed), unpacked_folder(cache, packed)
    if target.is_dir():
        return target
    for name, digest in _expected(packed).items():
        if sha256(packed / name) != digest:
            raise InputError(f"{packed / name}: damaged (its SHA-256 differs from {HASHES}); {RESTORE}")
    cache = target.parent
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".minivox-", dir=cache, ignore_cleanup_errors=True) as temporary:
            whole = Path(temporary) / "whole"
            whole.mkdir()
            _extract([packed / name for name in ARCHIVES], whole)
            try:
                whole.rename(target)
            except OSError:
                if not target.is_dir():  # else another process was faster, with the same content
                    raise
    except OSError as error:
        raise InputError(
            f"{cache}: cannot be written to ({error.strerror}); set V2F_CACHE to a folder with 100 MB of room"
        ) from error
    return target


def unpacked_folder(cache: str | Path | None = None, packed: str | Path = MINI_ASSETS / "minivox") -> Path:
    """Where `unpack` puts MiniVox, whether or not it has done so yet.

    Raises:
        InputError: archives or their hashes are missing.
    """
    version = hashlib.sha256("".join(_expected(Path(packed)).values()).encode()).hexdigest()[:12]
    return Path(cache or cache_folder()) / f"minivox-{version}"


def pack(folder: str | Path, out: str | Path) -> dict[str, str]:
    """Pack an unpacked MiniVox into archives of the same bytes on every machine; gives each archive's SHA-256.

    Pictures and sounds are compressed already, so the archives are plain.

    Raises:
        InputError: an archive would be empty; the output folder cannot be written to.

    Example:
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


def _expected(packed: Path) -> dict[str, str]:
    table = packed.parent / HASHES
    for path in (table, *(packed / name for name in ARCHIVES)):
        if not path.is_file():
            raise InputError(f"{path}: missing; {RESTORE}")
    hashes = read_hashes(table)
    if missing := [name for name in ARCHIVES if f"{packed.name}/{name}" not in hashes]:
        raise InputError(f"{table}: no hash of {packed.name}/{missing[0]}; {RESTORE}")
    return {name: hashes[f"{packed.name}/{name}"] for name in ARCHIVES}


def _extract(archives: list[Path], target: Path) -> None:
    from tqdm import tqdm

    total = sum(path.stat().st_size for path in archives)
    with tqdm(total=total, desc="unpacking MiniVox", unit="B", unit_scale=True, file=sys.stderr) as bar:
        for path in archives:
            with tarfile.open(path, "r:") as archive:
                for entry in archive:
                    try:
                        if not entry.isreg():
                            raise tarfile.SpecialFileError(entry)
                        archive.extract(entry, target, filter="data")
                    except tarfile.FilterError as error:
                        message = f"{path}: holds {entry.name}, which is no plain file below it; {RESTORE}"
                        raise InputError(message) from error
                    bar.update(entry.size)
