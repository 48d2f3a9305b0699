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
from v2f_core.data.packed import unpacked_folder
from v2f_core.data.voxceleb import LISTS, parts_of
from v2f_core.errors import InputError

FOR_GPUS = {"onnxruntime": "onnxruntime-gpu"}  # the same module under another name
# packages with compiled parts, which can be installed and still fail to load
FRAGILE = ("torch", "torchaudio", "torchvision", "onnxruntime", "cv2", "soundfile", "av")
# they fill one folder, cv2; the first needs no screen
OPENCVS = ("opencv-python-headless", "opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")
# the remedies name pyproject.toml's versions; of the torch packages only such threes belong together
MEND_TORCH = "pip install torch==2.11.0 torchaudio==2.11.0 torchvision==0.26.0 (with make: make clean setup)"
MEND_OPENCV = f"pip uninstall --yes {' '.join(OPENCVS[1:])}, "
MEND_OPENCV += f"then pip install --force-reinstall --no-deps {OPENCVS[0]}==5.0.0.93"


class Check(NamedTuple):
    """One line of the report."""

    name: str  # of the package, device or part
    found: str  # its version, size or place; "" if it is missing
    remedy: str = ""  # the command or change that helps; "" if nothing is wrong
    needed: bool = True  # whether the profile cannot work without it


def doctor(profile: str = "mini") -> int:
    """Print the report; returns 0 if the profile ("mini", "open" or "full") is usable, else 1."""
    unusable = 0
    sections = {"Python and packages": packages(), "Device": device(), f"The {profile} profile": parts(profile)}
    for section, checks in sections.items():
        print(f"\n{section}")
        for name, found, remedy, needed in checks:
            state = "OK" if not remedy else "damaged" if found else "missing" if needed else "optional"
            unusable += bool(remedy) and needed
            way_out = f"  -> {remedy}" if remedy else ""
            print(f"  {state:8} {name:24} {found}{way_out}".rstrip(), flush=True)
    verdict = f"not usable yet: {unusable} thing{'s' * (unusable > 1)} to mend"
    ready = "ready: try python -m v2f_core " + {"open": "own FOLDER"}.get(profile, "demo")
    print(f"\nThe {profile} profile is {verdict if unusable else ready}.")
    return 1 if unusable else 0


def packages() -> Iterator[Check]:
    """Whether every dependency is installed in a version that fits, and those with compiled parts load."""
    from packaging.requirements import Requirement

    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    running = ".".join(map(str, sys.version_info[:3]))
    yield Check("Python", running, "" if fits else "use Python 3.11, 3.12 or 3.13")
    try:
        wanted = [Requirement(line) for line in requires("v2f-core") or [] if "extra ==" not in line]
    except PackageNotFoundError:
        yield Check("v2f-core", "", "install it: make setup, or pip install -e .")
        return
    for requirement in wanted:
        here = installed(requirement.name) or installed(FOR_GPUS.get(requirement.name, requirement.name))
        suits = here and requirement.specifier.contains(here, prereleases=True)
        yield Check(requirement.name, here, "" if suits else f'pip install "{requirement}"')
    for name in FRAGILE:
        try:
            import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            remedy = MEND_TORCH if name.startswith("torch") else f"pip install --force-reinstall {name}"
            line = str(error).strip().split("\n")[0]
            yield Check(f"import {name}", f"fails: {line}", MEND_OPENCV if name == "cv2" else remedy)
    versions = {name: installed(name) for name in OPENCVS if installed(name)}
    if len(set(versions.values())) > 1:  # each has overwritten files of the other
        yield Check("OpenCV", " and ".join(map(" ".join, versions.items())), MEND_OPENCV)


def installed(name: str) -> str:
    """The version of a package; "" if it is not installed."""
    with suppress(PackageNotFoundError):
        return version(name)
    return ""


def device() -> Iterator[Check]:
    """The device that torch computes on, and whether ONNX Runtime can use it."""
    try:
        import onnxruntime
        import torch
    except (ImportError, OSError):
        return  # named above
    if torch.cuda.is_available():
        on_gpu = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        faces = "CUDA" if on_gpu else "the CPU: install onnxruntime-gpu in its place"
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        yield Check("GPU", f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB (ONNX Runtime uses {faces})")
    elif torch.backends.mps.is_available():
        yield Check("GPU", "Apple, through MPS")
    else:
        yield Check("CPU", f"{os.cpu_count()} cores (enough for mini; the full profile needs a GPU)")


def parts(name: str) -> Iterator[Check]:
    """The parts of a profile, compared with their hashes, its dataset, and the cache folder."""
    profile = load_profile(name)
    if name == "open":
        yield from (part(profile, needed) for needed in (profile.encoder, "faces"))  # the rest is the user's own
        yield Check("generator", "none: this profile draws no faces")
    elif name == "mini":
        yield from (part(profile, needed) for needed in PARTS)
        own = profile.with_encoder(profile.own_voices)  # people's own recordings go through these
        for needed in (own.encoder, "aligner", "posterior"):
            yield part(own, needed)._replace(name=getattr(own, needed).name)
    else:
        unneeded = {*OPTIONAL, "judge", *({"ast", "ecapa"} - {profile.encoder})}  # one speech encoder is enough
        yield from (part(profile, each, each not in unneeded) for each in (*PARTS, *OPTIONAL))
    if name != "open":
        yield dataset(profile)
    cache = cache_folder()
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    remedy = "" if os.access(existing, os.W_OK) else "no write permission; set V2F_CACHE to a folder of yours"
    yield Check("cache folder", str(cache), remedy)


def part(profile: Profile, name: str, needed: bool = True) -> Check:
    """Whether a part of a profile is there and undamaged."""
    folder: Path = getattr(profile, name)
    try:
        profile.part(name)
    except InputError as error:
        if folder.is_dir() and any(folder.iterdir()):
            return Check(name, str(folder), str(error), needed)  # the error names the file
        return Check(name, "", f"{folder}: {profile.remedy(name)}", needed)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Check(name, f"{size / 1e6:.1f} MB, {folder}", needed=needed)


def dataset(profile: Profile) -> Check:
    """Whether a profile's dataset is there; `scan` looks inside, which takes longer."""
    root = profile.dataset
    try:
        if profile.dataset_is_packed:
            target = unpacked_folder(packed=root)
            state = f"unpacked in {target}" if target.is_dir() else f"packed; first use unpacks it into {target}"
            return Check("dataset", f"MiniVox, {state}")
        lists = [name for name in LISTS if (root / name).is_file()][:1] or parts_of(root)
        return Check("dataset", f"{' and '.join(lists)} in {root}")
    except InputError as error:
        return Check("dataset", str(root) if root.is_dir() else "", f"{error}; see data_cards/hq_voxceleb.md")
