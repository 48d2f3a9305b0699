"""Stage `pack`: MiniVox's archives, the models and everybody's hashes, into the package's assets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from v2f_core.data import minivox
from v2f_core.errors import InputError
from v2f_core.files import atomic_write, sha256
from v2f_core.profiles import HASHES, MINI_ASSETS, PARTS

MEGABYTE = 1_000_000
LIMITS = {"minivox": 30 * MEGABYTE, "models": 16 * MEGABYTE}


def run(work: Path, tiny: bool = False) -> None:
    """Put what the other stages made into the assets (of a tiny build: into ``work/pack/assets``).

    Every model stage leaves what ships in ``work/<stage>/assets/<part>/``.

    Raises:
        InputError: a part is missing, or data or models are larger than a clone should carry.
    """
    ready = work / "pack" / "assets"
    shutil.rmtree(ready, ignore_errors=True)
    minivox.pack(work / "minivox", ready / "minivox")
    for folder in sorted(work.glob("*/assets/*/")):
        if folder.name in PARTS and folder.parent != ready:
            shutil.copytree(folder, ready / folder.name, dirs_exist_ok=True)
    if missing := [part for part in PARTS if not (ready / part).is_dir()]:
        raise InputError(f"{work}: no stage has made {', '.join(missing)}; run the earlier stages first")
    write_hashes(ready)
    report(ready)
    if not tiny:
        install(ready, MINI_ASSETS)


def write_hashes(assets: Path) -> None:
    """Write SHA256.json: the hash of every other file of an assets folder by its relative path.

    Example:
        >>> import tempfile
        >>> assets = Path(tempfile.mkdtemp())
        >>> _ = (assets / "weights").write_bytes(b"")
        >>> write_hashes(assets)
        >>> [(name, digest[:8]) for name, digest in json.loads((assets / HASHES).read_text()).items()]
        [('weights', 'e3b0c442')]
    """
    files = sorted(path for path in assets.rglob("*") if path.is_file() and path != assets / HASHES)
    hashes = {path.relative_to(assets).as_posix(): sha256(path) for path in files}
    with atomic_write(assets / HASHES) as temporary:
        temporary.write_text(json.dumps(hashes, indent=1) + "\n")


def report(assets: Path) -> None:
    """Print the size of each part; refuse what is larger than its limit."""
    sizes = {folder.name: _size(folder) for folder in sorted(assets.iterdir()) if folder.is_dir()}
    for name, size in sizes.items():
        print(f"{name:10}{size / MEGABYTE:8.2f} MB")
    totals = {"minivox": sizes.get("minivox", 0), "models": sum(sizes.values()) - sizes.get("minivox", 0)}
    for name, limit in LIMITS.items():
        print(f"{name:10}{totals[name] / MEGABYTE:8.2f} MB of {limit / MEGABYTE:.0f} MB")
        if totals[name] > limit:
            raise InputError(
                f"{assets}: {name} take {totals[name] / MEGABYTE:.1f} MB, more than {limit / MEGABYTE:.0f} MB"
            )


def install(ready: Path, assets: Path) -> None:
    """Replace the assets by those that are ready; their hashes come last, so that a kill shows as damage."""
    for folder in sorted(path for path in ready.iterdir() if path.is_dir()):
        shutil.rmtree(assets / folder.name, ignore_errors=True)
        shutil.copytree(folder, assets / folder.name)
    shutil.copyfile(ready / HASHES, assets / HASHES)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
