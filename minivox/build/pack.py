"""Stage `pack`: MiniVox's archives, the models and everybody's hashes, into the package's assets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from minivox import dataset as minivox
from v2f_core.artefacts.files import atomic_write, sha256
from v2f_core.artefacts.profiles import ENCODERS, HASHES, MINI_ASSETS
from v2f_core.errors import InputError

MEGABYTE = 1_000_000
LIMITS = {"data": 36 * MEGABYTE, "models": 28 * MEGABYTE}
# part -> the folder below the scratch folder that it comes from, and the files of it that ship
SHIPPED = {
    "ast": ("speech_models/assets/ast", ("*",)),
    "ecapa": ("speech_models/assets/ecapa", ("*",)),
    "ge2e": ("ge2e/assets", ("*",)),
    "faces": ("detector/pack", ("*.onnx",)),
    "prior": ("prior/assets/prior", ("**/*",)),
    "judge": ("judge", ("config.json", "model.safetensors")),
    "aligner": ("aligner/assets/aligner", ("*",)),
    "minivox_large": ("large_embeddings/assets/minivox_large", ("*",)),
    "posterior": ("posterior/assets/posterior", ("*",)),
    **{
        f"{part}_{encoder}": (f"other_ears/{encoder}/assets/{part}_{encoder}", ("*",))
        for encoder in ENCODERS[1:]
        for part in ("aligner", "posterior")
    },
}


def run(work: Path, tiny: bool = False) -> None:
    """Put together in ``work/pack/assets`` what the other stages made; unless ``tiny``, replace the package's assets.

    Raises:
        InputError: a part is missing, or data or models are larger than a clone should carry.
    """
    ready = work / "pack" / "assets"
    shutil.rmtree(ready, ignore_errors=True)
    minivox.pack(work / "minivox", ready / "minivox")
    for part, (source, patterns) in SHIPPED.items():
        copy(work / source, patterns, ready / part)
    write_hashes(ready)
    report(ready)
    if not tiny:
        install(ready, MINI_ASSETS)


def copy(source: Path, patterns: tuple[str, ...], target: Path) -> None:
    """Copy the files of a folder that match a pattern; each pattern must match some.

    Raises:
        InputError: a pattern matches nothing.

    Example:
        >>> copy(Path("nowhere"), ("*.onnx",), Path("out"))
        Traceback (most recent call last):
        v2f_core.errors.InputError: nowhere: no *.onnx in it; run the stage that makes it first
    """
    for pattern in patterns:
        files = [path for path in sorted(source.glob(pattern)) if path.is_file()]
        if not files:
            raise InputError(f"{source}: no {pattern} in it; run the stage that makes it first")
        for path in files:
            to = target / path.relative_to(source)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to)


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
    """Print the size of each part.

    Raises:
        InputError: the data or the models are larger than their limit.
    """
    sizes = {folder.name: _size(folder) for folder in sorted(assets.iterdir()) if folder.is_dir()}
    for name, size in sizes.items():
        print(f"{name:10}{size / MEGABYTE:8.2f} MB")
    data = sizes.pop("minivox", 0) + sizes.pop("minivox_large", 0)
    for name, size in {"data": data, "models": sum(sizes.values())}.items():
        print(f"{name:10}{size / MEGABYTE:8.2f} MB of {LIMITS[name] / MEGABYTE:.0f} MB")
        if size > LIMITS[name]:
            raise InputError(
                f"{assets}: {name} take {size / MEGABYTE:.1f} MB, expected at most {LIMITS[name] / MEGABYTE:.0f} MB; "
                "make them smaller"
            )


def install(ready: Path, assets: Path) -> None:
    """Replace the assets by those that are ready; their hashes come last, so that a kill shows as damage."""
    for folder in sorted(path for path in ready.iterdir() if path.is_dir()):
        shutil.rmtree(assets / folder.name, ignore_errors=True)
        shutil.copytree(folder, assets / folder.name)
    shutil.copyfile(ready / HASHES, assets / HASHES)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
