"""Reads a dataset that lies on disk as HQ-VoxCeleb's faces and VoxCeleb's audio do, MiniVox as well.

vox1/origin_faces/<Name>/*.jpg     (or masked_faces)
vox1/wav/<id>/<video>/*.wav
vox1_meta.csv                      (tab-separated: VoxCeleb1 ID, VGGFace1 ID, Gender, …)
split.csv                          (optional: name,split)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from v2f_core.data.manifest import COLUMNS, VALUES, Manifest
from v2f_core.data.minivox import unpack
from v2f_core.errors import InputError
from v2f_core.profiles import Profile

if TYPE_CHECKING:
    import pandas as pd

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
RECORDINGS = frozenset({".wav", ".ogg", ".flac", ".m4a", ".mp3"})
FACE_FOLDERS = ("origin_faces", "masked_faces")
METADATA = {"vox1": "vox1_meta.csv", "vox2": "full_vox2_meta.csv"}


class _Speaker(NamedTuple):
    name: str
    identifier: str
    sex: str


def read_layout(root: str | Path, face_folder: str | None = None, max_bad: float = 0.05) -> Manifest:
    """The manifest of a dataset in HQ-VoxCeleb's and VoxCeleb's layout.

    Only persons with both a face and a voice are taken; everybody and everything else is listed, with why, in
    ``left_out``.
    The split is split.csv's, else SF2F's rule (see `sf2f_split`), for vox1 and vox2 apart.

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

    root = Path(root)
    parts = [part for part in METADATA if (root / part).is_dir()]
    if not parts:
        raise InputError(f"{root}: no vox1 or vox2 folder in it; give the root of HQ-VoxCeleb's layout")
    found = _Found()
    for part in parts:
        _read_part(root, part, face_folder, found)
    bad, used = found.unusable, len(found.rows)
    if not used:
        raise InputError(f"{root}: nobody in it has both a face and a voice; check the folders' names and the metadata")
    if len(bad) > max_bad * (used + len(bad)):
        first = f"{bad[0][0]}: {bad[0][1]}"
        raise InputError(f"{root}: {len(bad)} of {used + len(bad)} files unusable ({first}); mend it or raise max_bad")
    left_out = pd.DataFrame(sorted(found.unpaired + bad), columns=["item", "why"])
    return Manifest(root, pd.DataFrame(found.rows, columns=list(COLUMNS)), left_out)


def open_dataset(profile: Profile) -> Manifest:
    """The manifest of a profile's dataset, unpacked first where the profile carries it packed.

    Raises:
        InputError: the dataset is missing, damaged or cannot be unpacked.

    Example:
        >>> from v2f_core.profiles import load_profile
        >>> open_dataset(load_profile("mini")).persons("test").sex.value_counts().to_dict()  # doctest: +SKIP
        {'f': 100, 'm': 100}
    """
    if profile.dataset_is_packed:
        return read_layout(unpack(packed=profile.dataset))
    if not profile.dataset.is_dir():
        raise InputError(f"{profile.dataset}: the {profile.name} profile's dataset is missing; put or link it there")
    return read_layout(profile.dataset)


def sf2f_split(names: Iterable[str]) -> dict[str, str]:
    """SF2F's rule: of the sorted names, every tenth from index 8 is for test, from index 9 for validation.

    Example:
        >>> list(sf2f_split([f"{i:02d}" for i in range(12)]).values())[7:]
        ['train', 'test', 'val', 'train', 'train']
    """
    return {name: {8: "test", 9: "val"}.get(i % 10, "train") for i, name in enumerate(sorted(names))}


@dataclass
class _Found:
    rows: list[tuple[str, ...]] = field(default_factory=list)
    unpaired: list[tuple[str, str]] = field(default_factory=list)
    unusable: list[tuple[str, str]] = field(default_factory=list)
    names: set[str] = field(default_factory=set)


def _read_part(root: Path, part: str, face_folder: str | None, found: _Found) -> None:
    speakers = _read_metadata(_find_metadata(root, part))
    faces = _files(root, root / part / _face_folder(root / part, face_folder), PICTURES, found)
    voices = _files(root, root / part / "wav", RECORDINGS, found)
    split = _read_split(root / "split.csv") or sf2f_split(faces)

    for name in faces.keys() - {speaker.name for speaker in speakers}:
        found.unpaired.append((f"{part}/{name}", f"a face, but not in {METADATA[part]}"))
    for identifier in voices.keys() - {speaker.identifier for speaker in speakers}:
        found.unpaired.append((f"{part}/{identifier}", f"a voice, but not in {METADATA[part]}"))
    for speaker in speakers:
        name, identifier, sex = speaker
        if name not in faces:
            why = "a voice, but no face" if identifier in voices else "neither face nor voice"
        elif identifier not in voices:
            why = f"a face, but no voice ({identifier})"
        elif name not in split:
            why = "not in split.csv"
        elif name in found.names:
            why = "already in vox1; taken once, so that nobody is in two splits"
        else:
            found.names.add(name)
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


def _files(root: Path, folder: Path, suffixes: frozenset[str], found: _Found) -> dict[str, list[str]]:
    """The usable files of each person (the folder's first level), relative to the root."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one folder a person in it")
    files: dict[str, list[str]] = {}
    for path in _walk(folder):
        name = path.relative_to(root).as_posix()
        if path.suffix.lower() not in suffixes:
            found.unusable.append((name, f"not one of {' '.join(sorted(suffixes))}"))
        elif path.stat().st_size == 0:
            found.unusable.append((name, "empty"))
        else:
            files.setdefault(path.relative_to(folder).parts[0], []).append(name)
    return files


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):  # what file managers leave behind
            continue
        if path.is_dir():
            yield from _walk(path)
        else:
            yield path


def _find_metadata(root: Path, part: str) -> Path:
    for path in (root / METADATA[part], root / part / METADATA[part]):
        if path.is_file():
            return path
    raise InputError(f"{root / METADATA[part]}: no such file; it maps VoxCeleb's ids to names and comes with VoxCeleb")


def _read_metadata(path: Path) -> list[_Speaker]:
    table = _read_table(path)
    table.columns = [column.strip() for column in table.columns]
    wanted = {"name": ("VGGFace1 ID", "Name"), "identifier": ("VoxCeleb1 ID", "VoxCeleb2 ID"), "sex": ("Gender",)}
    columns = []
    for names in wanted.values():
        found = [name for name in names if name in table]
        if not found:
            raise InputError(f"{path}: no column {' or '.join(names)}; expected VoxCeleb's own metadata")
        columns.append(table[found[0]].str.strip())
    return sorted(_Speaker(*row) for row in zip(*columns, strict=True))


def _read_split(path: Path) -> dict[str, str] | None:
    if not path.is_file():
        return None
    table = _read_table(path)
    if not {"name", "split"} <= set(table):
        raise InputError(f"{path}: no columns name and split; give both, or remove the file for SF2F's rule")
    unknown = set(table["split"]) - set(VALUES["split"])
    if unknown:
        raise InputError(f"{path}: split is {min(unknown)!r}; expected {' or '.join(VALUES['split'])}")
    return dict(zip(table["name"], table["split"], strict=True))


def _read_table(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        text = path.read_text(encoding="utf-8")
        separator = "\t" if "\t" in text.partition("\n")[0] else ","
        return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8")
    except (OSError, UnicodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(
            f"{path}: cannot be read as a table ({error}); expected tab- or comma-separated text"
        ) from error
