"""What is here, what is missing, and what to do about it: packages, device, the miniature, full-size weights.

Nothing is imported at the top that a broken installation could keep from loading.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

from v2f_core.artefacts.profiles import OPTIONAL, PARTS, Profile, cache_folder, load_profile
from v2f_core.artefacts.weights import ORIGINS, how_to_get, missing
from v2f_core.data.packed import unpacked_folder
from v2f_core.data.voxceleb import LISTS, parts_of
from v2f_core.errors import InputError

FOR_GPUS = {"onnxruntime": "onnxruntime-gpu"}  # the same module under another name
# Packages with compiled parts that can be installed and yet fail to load.
FRAGILE = ("torch", "torchaudio", "torchvision", "onnxruntime", "cv2", "soundfile")
# torch 2.N, torchaudio 2.N and torchvision 0.(N + 15) are made for each other; N of the ranges in pyproject.toml
OLDEST_TORCH, NEWEST_TORCH = 8, 11


class Check(NamedTuple):
    """One line of the report.

    Attributes:
        section: heading it stands under.
        name: of the thing that was looked at.
        found: what is there; "" for nothing.
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
    running = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Check("Python and packages", "Python", running, "" if fits else "use Python 3.11, 3.12 or 3.13")
    yield from packages("Python and packages")
    yield device("Device")
    for section, checks, needed in (
        ("The mini profile", mini, profile == "mini"),
        ("The full profile", full, profile == "full"),
    ):
        yield from (check._replace(needed=check.needed and needed) for check in checks(section))


def doctor(profile: str = "mini") -> int:
    """Print the report; 0 if the profile that was asked for is usable, else 1.

    Example:
        >>> doctor() in (0, 1)  # doctest: +SKIP
        True
    """
    section, unusable, optional = "", 0, 0
    for check in examine(profile):
        if check.section != section:
            section = check.section
            print(f"\n{section}")
        state = "OK" if not check.remedy else "damaged" if check.found else "missing" if check.needed else "optional"
        remedy = f"  -> {check.remedy}" if check.remedy else ""
        print(f"  {state:8} {check.name:24} {check.found}{remedy}".rstrip(), flush=True)
        unusable += bool(check.remedy and check.needed)
        optional += bool(check.remedy and not check.needed)
    verdict = f"not usable yet: {unusable} thing{'s' * (unusable > 1)} to mend"
    print(f"\nThe {profile} profile is {verdict if unusable else 'ready: try python -m v2f_core demo'}.")
    if optional:
        print("What is optional is not used by default, or needed only for the other profile (--profile).")
    return 1 if unusable else 0


def packages(section: str) -> Iterator[Check]:
    """Whether every dependency is there in a version that fits, and those with compiled parts can be loaded."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in requires("v2f-core") or [] if "extra ==" not in line]
    except PackageNotFoundError:
        yield Check(section, "v2f-core", "", "install it: make setup, or pip install -e .")
        return
    for requirement in wanted:
        here = installed(requirement.name) or installed(FOR_GPUS.get(requirement.name, requirement.name))
        fits = here and requirement.specifier.contains(here, prereleases=True)
        yield Check(section, requirement.name, here, "" if fits else f'pip install "{requirement}"')
    for name in FRAGILE:
        try:
            import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            line = str(error).strip().split("\n")[0]
            yield Check(section, f"import {name}", f"fails: {line}", mend_import(name))


def mend_import(name: str) -> str:
    """What to type where a package is installed and cannot be imported."""
    if name == "cv2":
        return "pip uninstall opencv-python, then pip install opencv-python-headless, which needs no screen"
    if not name.startswith("torch"):
        return f"pip install --force-reinstall {name}"
    release = installed("torch").split(".")[:2]
    minor = int(release[1]) if release[0] == "2" and release[1].isdigit() else NEWEST_TORCH
    minor = min(max(minor, OLDEST_TORCH), NEWEST_TORCH)
    trio = f'"torch==2.{minor}.*" "torchaudio==2.{minor}.*" "torchvision==0.{minor + 15}.*"'
    return f"they must be made for each other: pip install {trio} (with make: make clean setup)"


def installed(name: str) -> str:
    """The version of a package; "" where it is not installed."""
    with suppress(PackageNotFoundError):
        return version(name)
    return ""


def device(section: str) -> Check:
    """The device that torch computes on, and whether ONNX Runtime can use it."""
    try:
        import torch
    except (ImportError, OSError):
        return Check(section, "torch", "", "see above")
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        providers: list[str] = []
        with suppress(ImportError, OSError):
            import onnxruntime

            providers = onnxruntime.get_available_providers()
        faces = "CUDA" if "CUDAExecutionProvider" in providers else "the CPU: install onnxruntime-gpu in its place"
        return Check(section, "GPU", f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB (ONNX Runtime uses {faces})")
    if torch.backends.mps.is_available():
        return Check(section, "GPU", "Apple, through MPS")
    return Check(section, "CPU", f"{os.cpu_count()} cores (enough for mini; the full profile wants a GPU)")


def mini(section: str) -> Iterator[Check]:
    """The miniature's parts, its dataset, and the cache folder."""
    profile = load_profile("mini")
    for name in PARTS:
        yield part(section, profile, name, needed=profile.ships(name))
    try:
        target = unpacked_folder(packed=profile.dataset)
    except InputError as error:
        yield Check(section, "MiniVox", "", str(error))
    else:
        state = f"unpacked in {target}" if target.is_dir() else f"packed; first use unpacks it into {target}"
        yield Check(section, "MiniVox", state)
    cache = cache_folder()
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    remedy = "" if os.access(existing, os.W_OK) else "no write permission; set V2F_CACHE to a folder of yours"
    yield Check(section, "cache folder", str(cache), remedy)


def full(section: str) -> Iterator[Check]:
    """The full profile's parts, whole as published, and its dataset."""
    profile = load_profile("full")
    spare = {"ast", "ecapa"} - {profile.encoder}  # one speech encoder is enough
    for name in (*PARTS, *OPTIONAL):
        check = part(section, profile, name, needed=name not in {*spare, *OPTIONAL, "judge"})
        if check.found and name in ORIGINS:  # another net may be in its place, or half a download
            if lacking := ", ".join(target for _, target in missing(name, getattr(profile, name))):
                check = check._replace(remedy=f"lacks {lacking} of what is published; {how_to_get(name)}")
            elif not check.remedy:
                check = check._replace(found=f"{check.found}, as published (SHA-256 as at first use)")
        yield check
    root = profile.dataset
    if not root.is_dir():
        remedy = f"put or link HQ-VoxCeleb's faces and VoxCeleb's audio to {root}; see data_cards/hq_voxceleb.md"
        yield Check(section, "dataset", "", remedy)
        return
    try:  # what is in it `scan` says, which takes longer
        lists = [name for name in LISTS if (root / name).is_file()][:1] or parts_of(root)
        yield Check(section, "dataset", f"{' and '.join(lists)} in {root}")
    except InputError as error:
        yield Check(section, "dataset", str(root), str(error))


def part(section: str, profile: Profile, name: str, needed: bool = True) -> Check:
    """Whether a part of a profile is there and undamaged."""
    folder: Path = getattr(profile, name)
    try:
        profile.part(name)
    except InputError as error:
        if folder.is_dir() and any(folder.iterdir()):
            return Check(section, name, str(folder), str(error), needed)  # which names the file
        return Check(section, name, "", f"{folder}: {profile.remedy(name)}", needed)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Check(section, name, f"{size / 1e6:.1f} MB, {folder}", needed=needed)
