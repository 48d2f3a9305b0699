"""Reads a dataset that lies on disk as HQ-VoxCeleb's faces and VoxCeleb's audio do, MiniVox as well.

vox1/origin_faces/<Name>/*.jpg     (or masked_faces)
vox1/wav/<id>/<video>/*.wav        (vox2/aac/<id>/<video>/*.m4a, and the other places in SOUND_FOLDERS)
vox1_meta.csv                      (see `v2f_core.data.metadata`)
split.csv                          (optional: name,split)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from v2f_core.artefacts.profiles import Profile
from v2f_core.data.manifest import COLUMNS, VALUES, Manifest, from_csv, from_parquet
from v2f_core.data.metadata import METADATA, composed, read_speakers, read_table, sf2f_split
from v2f_core.data.packed import unpack
from v2f_core.data.pairs import from_pairs
from v2f_core.errors import InputError

if TYPE_CHECKING:
    from tqdm import tqdm

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
RECORDINGS = frozenset({".wav", ".ogg", ".flac", ".m4a", ".mp3"})
FACE_FOLDERS = ("origin_faces", "masked_faces")
# as VoxCeleb1 and VoxCeleb2 unpack, side by side or into one folder, and as SF2F's scripts want them
SOUND_FOLDERS = (
    "{part}/wav",
    "{part}/aac",
    *("{part}/" + f"{half}/{kind}" for half in ("dev", "test") for kind in ("wav", "aac")),
    *("{part}/dev", "{part}/test", "raw_wav/{part}/dev", "raw_wav/{part}/test"),
)
ALSO_IN = "also in"
LISTS = {"manifest.parquet": from_parquet, "manifest.csv": from_csv, "pairs.csv": from_pairs}


def read_layout(root: str | Path, face_folder: str | None = None, max_bad: float = 0.05) -> Manifest:
    """The manifest of a dataset in HQ-VoxCeleb's and VoxCeleb's layout.

    Only persons with both a face and a voice are taken; everybody and everything else is listed, with why, in
    ``left_out``.
    The split is split.csv's, else SF2F's rule (see `sf2f_split`), for vox1 and vox2 apart. A name that stands in both
    is taken once, from vox1, so that nobody is in two splits.

    Args:
        root: folder that holds vox1 or vox2 or both.
        face_folder: "origin_faces" or "masked_faces"; None takes the first of them that is there.
        max_bad: the share of unusable files (empty, of a wrong kind) above which reading stops.

    Raises:
        InputError: the root or its metadata is missing or malformed; nobody has both a face and a voice; too many files
            are unusable.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> for file in ("vox1/origin_faces/Ada/0.png", "vox1/wav/id10001/v000/0.wav"):
        ...     (root / file).parent.mkdir(parents=True)
        ...     _ = (root / file).write_bytes(b"not looked into here")
        >>> _ = (root / "vox1_meta.csv").write_text("VoxCeleb1 ID\\tVGGFace1 ID\\tGender\\nid10001\\tAda\\tf\\n")
        >>> read_layout(root).table[["person", "split", "kind"]].values.tolist()
        [['Ada', 'train', 'face'], ['Ada', 'train', 'voice']]
    """
    import pandas as pd
    from tqdm import tqdm

    root = Path(root)
    parts = parts_of(root)
    with tqdm(desc=f"files of {root.name}", unit="file", delay=2.0) as bar:
        found = _Found(bar)
        for part in parts:
            _read_part(root, part, face_folder, found)
    bad, used = found.unusable, len(found.rows)
    if not used:
        stranger = _stranger(found)
        raise InputError(f"{root}: nobody in it has both a face and a voice{stranger}; check folders and metadata")
    if len(bad) > max_bad * (used + len(bad)):
        first = f"{bad[0][0]}: {bad[0][1]}"
        way_out = "mend them, or allow more (scan --max-bad)"
        raise InputError(f"{root}: {len(bad)} of {used + len(bad)} files unusable ({first}); {way_out}")
    left_out = pd.DataFrame(sorted(found.unpaired + bad), columns=["item", "why"])
    return Manifest(root, pd.DataFrame(found.rows, columns=list(COLUMNS)), left_out)


def parts_of(root: Path) -> list[str]:
    """Which of "vox1" and "vox2" lie in a dataset's root.

    Raises:
        InputError: neither does; if they lie one level off, the message says where.

    Example:
        >>> parts_of(Path("nowhere"))
        Traceback (most recent call last):
        v2f_core.errors.InputError: nowhere: no such folder; give the root of HQ-VoxCeleb's layout, with vox1 or vox2 …
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the root of HQ-VoxCeleb's layout, with vox1 or vox2 in it")
    parts = [part for part in METADATA if (root / part).is_dir()]
    if not parts:
        raise InputError(f"{root}: no vox1 or vox2 folder in it; give the root of HQ-VoxCeleb's layout{_nearby(root)}")
    return parts


def open_dataset(profile: Profile) -> Manifest:
    """The manifest of a profile's dataset, unpacked first where the profile carries it packed.

    What a dataset holds may stand in manifest.parquet (written by `v2f_core.data.scan`), manifest.csv or pairs.csv (see
    `from_csv` and `from_pairs`); the first that is there is read, else the folders, in HQ-VoxCeleb's layout.

    Raises:
        InputError: the dataset is missing, damaged or cannot be unpacked.

    Example:
        >>> from v2f_core.artefacts.profiles import load_profile
        >>> open_dataset(load_profile("mini")).persons("test").sex.value_counts().to_dict()  # doctest: +SKIP
        {'f': 100, 'm': 100}
    """
    if profile.dataset_is_packed:
        return read_layout(unpack(packed=profile.dataset))
    if not profile.dataset.is_dir():
        raise InputError(f"{profile.dataset}: the {profile.name} profile's dataset is missing; put or link it there")
    for name, read in LISTS.items():
        if (profile.dataset / name).is_file():
            return read(profile.dataset / name)
    return read_layout(profile.dataset)


@dataclass
class _Found:
    bar: tqdm
    rows: list[tuple[str, ...]] = field(default_factory=list)
    unpaired: list[tuple[str, str]] = field(default_factory=list)
    unusable: list[tuple[str, str]] = field(default_factory=list)
    taken: dict[str, tuple[str, str]] = field(default_factory=dict)  # name → part and split


def _read_part(root: Path, part: str, face_folder: str | None, found: _Found) -> None:
    speakers = read_speakers(root, part)
    faces = _files(root, [root / part / _face_folder(root / part, face_folder)], PICTURES, found)
    voices = _files(root, _sound_folders(root, part), RECORDINGS, found)
    split = _read_split(root / "split.csv") or sf2f_split(speaker.name for speaker in speakers)

    for name in faces.keys() - {speaker.name for speaker in speakers}:
        found.unpaired.append((f"{part}/{name}", f"a face, but not in {METADATA[part]}"))
    for identifier in voices.keys() - {speaker.identifier for speaker in speakers}:
        found.unpaired.append((f"{part}/{identifier}", f"a voice, but not in {METADATA[part]}"))
    for name, identifier, sex, _ in speakers:
        if name not in faces:
            why = "a voice, but no face" if identifier in voices else "neither face nor voice"
        elif identifier not in voices:
            why = f"a face, but no voice ({identifier})"
        elif name not in split:
            why = "not in split.csv"
        elif name in found.taken:
            other, there = found.taken[name]
            why = f"{ALSO_IN} {other} ({there} there, {split[name]} here); taken once"
        else:
            found.taken[name] = part, split[name]
            who = (name, sex, split[name])
            found.rows += [(*who, "face", "", path) for path in faces[name]]
            found.rows += [(*who, "voice", Path(path).parent.name, path) for path in voices[identifier]]
            continue
        found.unpaired.append((f"{part}/{name}", why))


def _face_folder(part: Path, wanted: str | None) -> str:
    there = [name for name in ([wanted] if wanted else FACE_FOLDERS) if (part / name).is_dir()]
    if not there:
        raise InputError(f"{part}: no folder {wanted or ' or '.join(FACE_FOLDERS)} in it; put the faces there")
    return there[0]


def _sound_folders(root: Path, part: str) -> list[Path]:
    folders = [root / form.format(part=part) for form in SOUND_FOLDERS]
    there = [folder for folder in folders if folder.is_dir()]
    # dev/ holds ids in SF2F's form, and wav/ or aac/ with the ids in them in VoxCeleb's
    there = [folder for folder in there if folder.name in ("wav", "aac") or _holds_ids(folder)]
    if not there:
        raise InputError(f"{folders[0]}: no such folder; expected one folder a person in it, named by VoxCeleb's id")
    return there


def _holds_ids(folder: Path) -> bool:
    return any(re.fullmatch(r"id\d+", path.name) for path in folder.iterdir())


def _files(root: Path, folders: list[Path], suffixes: frozenset[str], found: _Found) -> dict[str, list[str]]:
    """The usable files of each person (a folder's first level), relative to the root."""
    files: dict[str, list[str]] = {}
    for folder in folders:
        for path in _walk(folder):
            found.bar.update()
            name = path.relative_to(root).as_posix()
            if path.suffix.lower() not in suffixes:
                found.unusable.append((name, f"not one of {' '.join(sorted(suffixes))}"))
            elif path.stat().st_size == 0:
                found.unusable.append((name, "empty"))
            else:
                files.setdefault(composed(path.relative_to(folder).parts[0]), []).append(name)
    return files


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):  # what file managers leave behind
            continue
        if path.is_dir():
            yield from _walk(path)
        else:
            yield path


def _stranger(found: _Found) -> str:
    """One who stands in no table: such as "wav", where the ids' folders lie one level too deep."""
    strangers = (f": {item} is {why}" for item, why in found.unpaired if ", but not in" in why)
    expected = "expected <Name>/ in the folders of faces and <id>/ in those of voices"
    return next((f"{stranger} ({expected})" for stranger in strangers), "")


def _nearby(root: Path) -> str:
    """Where it lies, if that is one level off."""
    with suppress(OSError):
        for folder in (root.absolute().parent, *sorted(path for path in root.iterdir() if path.is_dir())):
            if any((folder / part).is_dir() for part in METADATA):
                return f": perhaps {folder}"
    return ""


def _read_split(path: Path) -> dict[str, str] | None:
    if not path.is_file():
        return None
    table = read_table(path)
    if not {"name", "split"} <= set(table):
        raise InputError(f"{path}: no columns name and split; give both, or remove the file for SF2F's rule")
    unknown = set(table["split"]) - set(VALUES["split"])
    if unknown:
        raise InputError(f"{path}: split is {min(unknown)!r}; expected {' or '.join(VALUES['split'])}")
    return {composed(name): split for name, split in zip(table["name"], table["split"], strict=True)}
