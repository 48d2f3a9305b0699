"""Brings the full profile's weights to where it looks for them: from a local folder, the hub's cache, or a download.

A part appears whole or not at all: files gather in ``.NAME.partial`` beside it, which a stopped run leaves behind and
the next one goes on with. Nothing whose terms ask for consent is downloaded without it, nothing at all when
HF_HUB_OFFLINE is set. The SHA-256 of every file is written into SHA256.json at its first use and compared ever after.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from v2f_core.artefacts.download import download, from_hub
from v2f_core.artefacts.files import atomic_write
from v2f_core.artefacts.integrity import pin
from v2f_core.artefacts.origins import ORIGINS, VGGFACE2_JUDGE, Origin, Published
from v2f_core.artefacts.placing import named_disk_errors, put, unzip_one
from v2f_core.errors import InputError

Wanted = tuple[Origin, str, Published]  # who publishes it, its path in our folder, and theirs
SPARE = 200  # megabytes to leave free on the disk


def missing(part: str, folder: str | Path) -> list[Wanted]:
    """What a part's folder lacks of what is published for it.

    Example:
        >>> [target for _, target, _ in missing("ast", "nowhere")]
        ['config.json', 'preprocessor_config.json', 'model.safetensors']
    """
    folder = Path(folder)
    return [
        (origin, target, published)
        for origin in ORIGINS[part]
        for target, published in origin.files.items()
        if not (folder / target).is_file()
    ]


def how_to_get(part: str) -> str:
    """The command or form that brings a part, with size and licences: the end of a sentence.

    Example:
        >>> how_to_get("ast")
        'python -m v2f_core fetch ast (346 MB; BSD-3-Clause)'
        >>> how_to_get("judge")[:60]
        'get resnet50_ft_weight.pkl (164 MB; licence not stated) from'
    """
    first, command = ORIGINS[part][0], f"python -m v2f_core fetch {part}"
    size = sum(origin.megabytes for origin in ORIGINS[part])
    licences = ", ".join(dict.fromkeys(origin.licence for origin in ORIGINS[part]))
    if first.form:
        return (
            f"get {first.name} ({size:.0f} MB; licence {licences}) from {first.form}, then {command} --local ITS_FOLDER"
        )
    return f"{command} ({size:.0f} MB; {licences})"


def fetch(
    part: str,
    folder: str | Path,
    agree: Callable[[Origin], bool],
    local: str | Path | None = None,
    online: bool = True,
) -> list[str]:
    """Complete a part's folder; a stopped run is taken up where it was.

    Args:
        part: a name in `v2f_core.artefacts.origins.ORIGINS`.
        folder: where the part belongs; its parent holds SHA256.json.
        agree: asked once for each publisher with terms before anything of theirs is downloaded.
        local: a folder that holds published files, under their publisher's name, as unpacked or as downloaded.
        online: whether what is not at hand may be downloaded.
    Returns:
        One line for each file: where it came from.
    Raises:
        InputError: no such part; ``local`` is no folder; a file is given out by hand, damaged, not what it was at its
            first use, or cannot be had offline; consent was not given; access is restricted; the disk is full or cannot
            be written to.

    Example:
        >>> fetch("ast", "nowhere/ast", lambda origin: False, online=False)
        Traceback (most recent call last):
        v2f_core.errors.InputError: ast: config.json of MIT/ast-finetuned-audioset-10-10-0.4593 is not here, and …
    """
    if part not in ORIGINS:
        raise InputError(f"{part}: nothing is published under this name; choose {', '.join(ORIGINS)}")
    if local is not None and not Path(local).expanduser().is_dir():
        raise InputError(f"{local}: no such folder; give --local one that holds files as their publishers name them")
    folder = Path(folder)
    place = folder if folder.is_dir() and any(folder.iterdir()) else folder.with_name(f".{folder.name}.partial")
    report, away = [], []
    for origin, target, published in missing(part, place):
        if source := _at_hand(origin, published, local, place.parent):
            with named_disk_errors(place / target):
                put(source, place / target, published)
            report.append(f"{target}: from {source}")
        else:
            away.append((origin, target, published))
    _may_download(part, away, place, agree, online)
    for origin, target, published in away:
        with named_disk_errors(place / target):
            source = _downloaded(origin, published, place.parent)
            put(source, place / target, published)
        report.append(f"{target}: from {origin.page}")
    if part == "judge" and not (place / "config.json").exists():
        with atomic_write(place / "config.json") as temporary:
            temporary.write_text(json.dumps(VGGFACE2_JUDGE, indent=2) + "\n", encoding="utf-8")
    pin(place, folder.name)
    if place != folder:
        shutil.rmtree(folder, ignore_errors=True)  # an empty one
        place.rename(folder)
    shutil.rmtree(folder.parent / ".downloads", ignore_errors=True)
    return report


def from_caches(part: str, folder: str | Path) -> None:
    """Fill a part's folder, if there is none yet, where the hub's and insightface's caches hold all of it.

    Raises:
        InputError: the folder is there, but not whole. What else lies in it must not stand in for what is missing:
            antelopev2's own ArcFace is not the one that Arc2Face knows.
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        if lacking := [target for _, target, _ in missing(part, folder)]:
            raise InputError(f"{folder}: lacks {', '.join(lacking)} of what is published for it; {how_to_get(part)}")
        return
    if all(_at_hand(origin, file) for origin in ORIGINS[part] for file in origin.files.values()):
        fetch(part, folder, agree=lambda _: False, online=False)


def _at_hand(
    origin: Origin, published: Published, local: str | Path | None = None, root: Path | None = None
) -> Path | None:
    """A published file in a local folder or a cache, whatever it was unpacked into."""
    name = Path(published.path).name
    folders = [Path("~/.insightface/models").expanduser() / origin.name] if origin.archive else []
    if local is not None:
        base = Path(local).expanduser()
        folders = [base / origin.name, base / origin.name.rpartition("/")[2], base, *folders]
        if origin.archive and root and (base / f"{origin.name}.zip").is_file():
            return unzip_one(base / f"{origin.name}.zip", name, root / ".downloads" / origin.name)
    for folder in folders:
        nested = (folder / origin.name / name,) if origin.archive else ()  # as antelopev2.zip unpacks
        for candidate in (folder / published.path, *nested):
            if candidate.is_file():
                return candidate
    if origin.archive or origin.form:
        return None
    from huggingface_hub import constants, try_to_load_from_cache

    cached = try_to_load_from_cache(origin.name, published.path, cache_dir=constants.HF_HUB_CACHE)
    return Path(cached) if isinstance(cached, str) else None


def _may_download(part: str, away: list[Wanted], place: Path, agree: Callable[[Origin], bool], online: bool) -> None:
    """Refuse what cannot or must not be downloaded, before the first byte."""
    from huggingface_hub import is_offline_mode

    if not away:
        return
    for origin, _, published in away:
        if origin.form:
            raise InputError(f"{part}: {published.path} is given out by hand; {how_to_get(part)}")
        if not online or is_offline_mode():
            raise InputError(
                f"{part}: {published.path} of {origin.name} is not here, and nothing may be downloaded "
                f"(HF_HUB_OFFLINE); copy it into a folder and give that as --local, or go online: {how_to_get(part)}"
            )
    origins = list({origin.name: origin for origin, _, _ in away}.values())
    needed = sum(published.megabytes for _, _, published in away) + sum(o.archive_megabytes for o in origins) + SPARE
    there = next(folder for folder in place.absolute().parents if folder.exists())
    free = shutil.disk_usage(there).free / 1e6
    if free < needed:
        raise InputError(
            f"{there}: {free:.0f} MB free, {part} takes {needed:.0f} MB; free some, or set V2F_FULL elsewhere"
        )
    for origin in origins:
        if origin.consent and not agree(origin):
            raise InputError(f"{part}: {origin.name} is not downloaded without consent to its terms: {origin.consent}")


def _downloaded(origin: Origin, published: Published, root: Path) -> Path:
    if not origin.archive:
        return from_hub(origin.name, published.path)
    archive = root / ".downloads" / f"{origin.name}.zip"
    if not archive.is_file():
        download(origin.archive, archive)
    return unzip_one(archive, Path(published.path).name, root / ".downloads" / origin.name)
