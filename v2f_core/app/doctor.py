"""What is here, what is missing, and what to do about it: packages, device, the miniature, full-size weights."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

from minivox import dataset as minivox
from v2f_core.artefacts.origins import ORIGINS
from v2f_core.artefacts.profiles import OPTIONAL, PARTS, Profile, cache_folder, load_profile
from v2f_core.data import layouts
from v2f_core.errors import InputError

# the same module built for GPUs, under a name of its own
FOR_GPUS = {"onnxruntime": "onnxruntime-gpu"}
# Packages with compiled parts that can be installed and yet fail to load.
FRAGILE = ("torch", "torchaudio", "torchvision", "onnxruntime", "cv2", "soundfile")


class Check(NamedTuple):
    """One line of the report.

    Attributes:
        section: heading it stands under.
        name: what was looked at.
        found: what was found, "" if nothing.
        remedy: what to do about it; "" if all is well.
        needed: whether the profile that was asked for cannot do without it.
    """

    section: str
    name: str
    found: str
    remedy: str = ""
    needed: bool = True


def examine(profile: str = "mini") -> Iterator[Check]:
    """Look at everything, one check after the other.

    Args:
        profile: whose parts are needed, "mini" or "full".

    Example:
        >>> next(examine()).name
        'Python'
    """
    yield from _python()
    yield from _packages()
    yield _device()
    full = profile == "full"
    yield from (check._replace(needed=check.needed and not full) for check in _mini())
    yield from (check._replace(needed=check.needed and full) for check in _full())


def doctor(profile: str = "mini") -> int:
    """Print the report; 0 if the profile that was asked for is usable, else 1.

    Example:
        >>> doctor() in (0, 1)  # doctest: +SKIP
        True
    """
    section, ill, missing = "", 0, 0
    for check in examine(profile):
        if check.section != section:
            section = check.section
            print(f"\n{section}")
        state = "OK" if not check.remedy else "damaged" if check.found else "missing" if check.needed else "optional"
        remedy = f"  -> {check.remedy}" if check.remedy else ""
        print(f"  {state:8} {check.name:24} {check.found}{remedy}".rstrip(), flush=True)
        ill += bool(check.remedy and check.needed)
        missing += bool(check.remedy and not check.needed)
    verdict = f"not usable yet: {ill} thing{'s' * (ill > 1)} to mend" if ill else "ready: try python -m v2f_core demo"
    print(f"\nThe {profile} profile is {verdict}.")
    if missing:
        print("What is optional is not used by default, or needed only for the other profile (--profile).")
    return 1 if ill else 0


def _python() -> Iterator[Check]:
    running = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Check("Python and packages", "Python", running, "" if fits else "use Python 3.11, 3.12 or 3.13")


def _packages() -> Iterator[Check]:
    from packaging.requirements import Requirement

    section = "Python and packages"
    try:
        wanted = [Requirement(line) for line in requires("v2f-core") or [] if "extra ==" not in line]
    except PackageNotFoundError:
        yield Check(section, "v2f-core", "", "install it: make setup, or pip install -e .")
        return
    for requirement in wanted:
        found = _installed(requirement.name) or _installed(FOR_GPUS.get(requirement.name, ""))
        if not found:
            yield Check(section, requirement.name, "", f'pip install "{requirement}"')
            continue
        fits = requirement.specifier.contains(found, prereleases=True)
        yield Check(section, requirement.name, found, "" if fits else f'pip install "{requirement}"')
    for name in FRAGILE:
        try:
            import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            line = str(error).strip().split("\n")[0]
            remedy = (
                "torch, torchaudio and torchvision must be made for each other; make clean setup installs a set that is"
            )
            yield Check(section, f"import {name}", f"fails: {line}", remedy)


def _installed(name: str) -> str:
    try:
        return version(name) if name else ""
    except PackageNotFoundError:
        return ""


def _device() -> Check:
    try:
        import torch
    except (ImportError, OSError):
        return Check("Device", "torch", "", "see above")
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        faces = "CUDA" if "CUDAExecutionProvider" in _providers() else "the CPU: install onnxruntime-gpu in its place"
        return Check("Device", "GPU", f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB (ONNX Runtime uses {faces})")
    if torch.backends.mps.is_available():
        return Check("Device", "GPU", "Apple, through MPS")
    return Check("Device", "CPU", f"{os.cpu_count()} cores (enough for mini; the full profile wants a GPU)")


def _providers() -> list[str]:
    try:
        import onnxruntime
    except (ImportError, OSError):
        return []
    return list(onnxruntime.get_available_providers())


def _mini() -> Iterator[Check]:
    section, profile = "The mini profile", load_profile("mini")
    for name in PARTS:
        yield _part(section, profile, name, needed=profile.ships(name))
    try:
        target = minivox.unpacked_folder(packed=profile.dataset)
    except InputError as error:
        yield Check(section, "MiniVox", "", str(error))
    else:
        state = f"unpacked in {target}" if target.is_dir() else f"packed; first use unpacks it into {target}"
        yield Check(section, "MiniVox", state)
    cache = cache_folder()
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    remedy = "" if os.access(there, os.W_OK) else "no write permission; set V2F_CACHE to a folder of yours"
    yield Check(section, "cache folder", str(cache), remedy)


def _full() -> Iterator[Check]:
    section, profile = "The full profile", load_profile("full")
    spare = {"ast", "ecapa"} - {profile.encoder}  # one speech encoder is enough
    for name in (*PARTS, *OPTIONAL):
        needed = name not in {*spare, *OPTIONAL, "judge"}
        check = _part(section, profile, name, needed)
        yield _whole(check, name, getattr(profile, name)) if check.found and name in ORIGINS else check
    yield _dataset(section, profile.dataset)


def _dataset(section: str, root: Path) -> Check:
    """Whether a dataset seems to be there; what is in it `scan` says, which takes longer."""
    if not root.is_dir():
        remedy = f"put or link HQ-VoxCeleb's faces and VoxCeleb's audio to {root}; see data_cards/hq_voxceleb.md"
        return Check(section, "dataset", "", remedy)
    try:
        found = [name for name in layouts.LISTS if (root / name).is_file()][:1] or layouts.parts_of(root)
    except InputError as error:
        return Check(section, "dataset", str(root), str(error))
    return Check(section, "dataset", f"{' and '.join(found)} in {root}")


def _whole(check: Check, name: str, folder: Path) -> Check:
    """The same, unless a published file is not there: another net may be in its place, or half a download."""
    from v2f_core.artefacts.weights import how_to_get, missing

    lacking = [target for _, target, _ in missing(name, folder)]
    if lacking:
        return check._replace(remedy=f"lacks {', '.join(lacking)} of what is published; {how_to_get(name)}")
    return check if check.remedy else check._replace(found=f"{check.found}, as published (SHA-256 as at first use)")


def _part(section: str, profile: Profile, name: str, needed: bool = True) -> Check:
    folder: Path = getattr(profile, name)
    try:
        profile.part(name)
    except InputError as error:
        if folder.is_dir() and any(folder.iterdir()):
            return Check(section, name, str(folder), str(error), needed)  # which names the file
        return Check(section, name, "", f"{folder}: {profile.remedy(name)}", needed)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Check(section, name, f"{size / 1e6:.1f} MB, {folder}", needed=needed)
