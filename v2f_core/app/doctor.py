"""``python -m v2f_core doctor``: a line for each package, device, part and dataset, with a remedy where one is needed.

Packages that a broken installation may fail to load are imported inside the checks.
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
# packages with compiled parts, which can be installed and still fail to load
FRAGILE = ("torch", "torchaudio", "torchvision", "onnxruntime", "cv2", "soundfile", "av")
# torch 2.N, torchaudio 2.N and torchvision 0.(N + 15) belong together; N of the ranges in pyproject.toml
OLDEST_TORCH, NEWEST_TORCH = 8, 11


class Check(NamedTuple):
    """One line of the report.

    Attributes:
        section: the heading above it.
        name: of the package, device or part.
        found: its version, size or place; "" if it is missing.
        remedy: the command or change that helps; "" if nothing is wrong.
        needed: whether the chosen profile cannot work without it.
    """

    section: str
    name: str
    found: str
    remedy: str = ""
    needed: bool = True


def doctor(profile: str = "mini") -> int:
    """Print the report; returns 0 if the profile ("mini", "open" or "full") is usable, else 1.

    Example:
        >>> doctor() in (0, 1)  # doctest: +SKIP
        True
    """
    section, checks = "", []
    for check in examine(profile):
        checks.append(check)
        if check.section != section:
            section = check.section
            print(f"\n{section}")
        state = "OK" if not check.remedy else "damaged" if check.found else "missing" if check.needed else "optional"
        remedy = f"  -> {check.remedy}" if check.remedy else ""
        print(f"  {state:8} {check.name:24} {check.found}{remedy}".rstrip(), flush=True)
    wrong = [check.needed for check in checks if check.remedy]
    unusable = sum(wrong)
    verdict = f"not usable yet: {unusable} thing{'s' * (unusable > 1)} to mend"
    ready = "ready: try python -m v2f_core " + {"open": "own FOLDER"}.get(profile, "demo")
    print(f"\nThe {profile} profile is {verdict if unusable else ready}.")
    if len(wrong) > unusable:
        print("Optional parts are not used by default, or needed only for another profile (--profile).")
    return 1 if unusable else 0


def examine(profile: str = "mini") -> Iterator[Check]:
    """All checks, one after the other; only the parts of the given profile are needed.

    Example:
        >>> next(examine()).name
        'Python'
    """
    running = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Check("Python and packages", "Python", running, "" if fits else "use Python 3.11, 3.12 or 3.13")
    yield from packages("Python and packages")
    yield device("Device")
    for name, checks in (("mini", mini), ("open", free), ("full", full)):
        yield from (c._replace(needed=c.needed and name == profile) for c in checks(f"The {name} profile"))


def packages(section: str) -> Iterator[Check]:
    """Whether every dependency is installed in a version that fits, and those with compiled parts load."""
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
    """The command for a package that is installed and cannot be imported."""
    if name == "cv2":
        return "pip uninstall opencv-python, then pip install opencv-python-headless, which needs no screen"
    if not name.startswith("torch"):
        return f"pip install --force-reinstall {name}"
    release = installed("torch").split(".")[:2]
    minor = int(release[1]) if release[0] == "2" and release[1].isdigit() else NEWEST_TORCH
    minor = min(max(minor, OLDEST_TORCH), NEWEST_TORCH)
    trio = f'"torch==2.{minor}.*" "torchaudio==2.{minor}.*" "torchvision==0.{minor + 15}.*"'
    return f"their versions must belong together: pip install {trio} (with make: make clean setup)"


def installed(name: str) -> str:
    """The version of a package; "" if it is not installed."""
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
    return Check(section, "CPU", f"{os.cpu_count()} cores (enough for mini; the full profile needs a GPU)")


def mini(section: str) -> Iterator[Check]:
    """The miniature's parts, those that people's own recordings go through, its dataset, and the cache folder."""
    profile = load_profile("mini")
    for name in PARTS:
        yield part(section, profile, name, needed=profile.ships(name))
    own = profile.with_encoder(profile.own_voices)
    for name in () if own is profile else (own.encoder, "aligner", "posterior"):
        yield part(section, own, name, needed=own.ships(name))._replace(name=getattr(own, name).name)
    try:
        target = unpacked_folder(packed=profile.dataset)
        state = f"unpacked in {target}" if target.is_dir() else f"packed; first use unpacks it into {target}"
        yield Check(section, "MiniVox", state)
    except InputError as error:
        yield Check(section, "MiniVox", "", str(error))
    cache = cache_folder()
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    remedy = "" if os.access(existing, os.W_OK) else "no write permission; set V2F_CACHE to a folder of yours"
    yield Check(section, "cache folder", str(cache), remedy)


def free(section: str) -> Iterator[Check]:
    """The open profile's encoders; aligner, posterior and dataset are the user's own."""
    profile = load_profile("open")
    for name in (profile.encoder, "faces"):
        yield part(section, profile, name)
    yield Check(section, "generator", "none: this profile draws no faces")


def full(section: str) -> Iterator[Check]:
    """The full profile's parts, compared with the published files, and its dataset."""
    profile = load_profile("full")
    unneeded = {*OPTIONAL, "judge", *({"ast", "ecapa"} - {profile.encoder})}  # one speech encoder is enough
    for name in (*PARTS, *OPTIONAL):
        check = part(section, profile, name, needed=name not in unneeded)
        if check.found and name in ORIGINS:  # a part of one's own, or an unfinished download
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
    try:  # `scan` looks inside, which takes longer
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
            return Check(section, name, str(folder), str(error), needed)  # the error names the file
        return Check(section, name, "", f"{folder}: {profile.remedy(name)}", needed)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Check(section, name, f"{size / 1e6:.1f} MB, {folder}", needed=needed)
