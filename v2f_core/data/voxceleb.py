"""Readers of HQ-VoxCeleb's and VoxCeleb's folders, with SF2F's split, and of recordings and photographs of your own.

vox1/origin_faces/<Name>/*.jpg     (or masked_faces)
vox1/wav/<id>/<video>/*.wav        (vox2/aac/<id>/<video>/*.m4a, and the other places in SOUND_FOLDERS)
vox1_meta.csv                      VoxCeleb's, tab-separated: VoxCeleb1 ID, VGGFace1 ID (the name), Gender, …
full_vox2_meta.csv                 HQ-VoxCeleb's, comma-separated: …, Name, …, VoxCeleb2ID, …, Gender_y, Set
split.csv                          (optional: name,split)

MiniVox is unpacked into the same layout. A scan writes ``manifest.csv`` into the root; later steps read it instead of
the folders.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tqdm import tqdm

from v2f_core.artefacts.files import atomic_write, is_plain_name
from v2f_core.artefacts.loading import refusing
from v2f_core.artefacts.profiles import Profile
from v2f_core.data.manifest import COLUMNS, VALUES, Manifest, composed, from_csv, listed, plain_path, read_table
from v2f_core.data.packed import unpack
from v2f_core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
RECORDINGS = frozenset({".wav", ".ogg", ".flac", ".m4a", ".mp3"})
FACE_FOLDERS = ("origin_faces", "masked_faces")
# where VoxCeleb1 and VoxCeleb2 unpack to, side by side or in one folder, and where SF2F's scripts look
SOUND_FOLDERS = (
    "{part}/wav",
    "{part}/aac",
    *("{part}/" + f"{half}/{kind}" for half in ("dev", "test") for kind in ("wav", "aac")),
    *("{part}/dev", "{part}/test", "raw_wav/{part}/dev", "raw_wav/{part}/test"),
)
METADATA = {"vox1": "vox1_meta.csv", "vox2": "full_vox2_meta.csv"}
# of name, identifier and sex in the two tables (blanks in them differ between copies); Gender_y is VoxCeleb2's column
HEADINGS = (("VGGFace1 ID", "Name"), ("VoxCeleb1 ID", "VoxCeleb2 ID"), ("Gender", "Gender_y"))
SAME = "another name of"
FEW = 100  # persons below which your own pairs are split in fifths, so that a test has some

LeftOut = list[tuple[str, str]]  # items, and why
Known = dict[tuple[int, int], str]  # device and inode of files and folders → their first name


def open_dataset(profile: Profile) -> Manifest:
    """The manifest of a profile's dataset; a packed one is unpacked first.

    Read are manifest.csv (see :func:`~v2f_core.data.manifest.from_csv`), else pairs.csv (see :func:`from_pairs`), else
    the folders in HQ-VoxCeleb's layout, or one folder a person (see :func:`from_folders`).
    """
    root = profile.dataset
    if profile.dataset_is_packed:
        return read_layout(unpack(packed=root))
    if not root.is_dir():
        raise InputError(f"{root}: the {profile.name} profile's dataset is missing; link it there, or set V2F_DATASET")
    return read_own(root) or read_layout(root)


# --- the folders


def read_layout(root: str | Path, max_bad: float = 0.05) -> Manifest:
    """The manifest of a dataset in HQ-VoxCeleb's and VoxCeleb's layout.

    Persons with both a face and a voice are used; all other persons and files are listed with the reason in
    ``left_out``. The split is split.csv's or, without it, SF2F's rule (:func:`sf2f_split`) for each of vox1 and vox2. A
    name in both is used once, from vox1, so that nobody is in two splits. Faces are origin_faces' or, without that
    folder, masked_faces'. An ``InputError`` says what is missing or malformed, or that more than a share of ``max_bad``
    of the files is unusable.
    """
    import pandas as pd

    root = Path(root)
    rows: list[tuple[str, ...]] = []
    unpaired: LeftOut = []
    unusable: LeftOut = []
    taken: dict[str, tuple[str, str]] = {}  # name → part and split
    known: Known = {}
    for part in parts_of(root):
        speakers = read_speakers(root, part)
        if not (folders := [path for name in FACE_FOLDERS if (path := root / part / name).is_dir()]):
            raise InputError(f"{root / part}: no folder {' or '.join(FACE_FOLDERS)} in it; put the faces there")
        faces = _by_person(root, folders[:1], PICTURES, unusable, known)
        voices = _by_person(root, _sound_folders(root, part), RECORDINGS, unusable, known)
        split = _read_split(root / "split.csv") or sf2f_split(speaker.name for speaker in speakers)
        for kind, files, field in (("face", faces, "name"), ("voice", voices, "identifier")):
            unknown = files.keys() - {getattr(speaker, field) for speaker in speakers}
            unpaired += [(f"{part}/{name}", f"a {kind}, but not in {METADATA[part]}") for name in unknown]
        for name, identifier, sex in speakers:
            why = ""
            if name not in faces:
                why = "a voice, but no face" if identifier in voices else "neither face nor voice"
            elif identifier not in voices:
                why = f"a face, but no voice ({identifier})"
            elif name not in split:
                why = "not in split.csv"
            elif name in taken:
                why = f"also in {taken[name][0]} ({taken[name][1]} there, {split[name]} here); taken once"
            if why:
                unpaired.append((f"{part}/{name}", why))
                continue
            taken[name] = part, split[name]
            person = (name, sex, split[name])
            rows += [(*person, "face", "", path) for path in faces[name]]
            rows += [(*person, "voice", Path(path).parent.name, path) for path in voices[identifier]]
    if not rows:
        # a folder in no table shows the mistake: "wav", for example, if the ids' folders lie one level too deep
        strays = [f": {item} is {why} (expected <Name>/ or <id>/)" for item, why in unpaired if "but not in" in why]
        stray = strays[0] if strays else "; check folders and metadata"
        raise InputError(f"{root}: nobody in it has both a face and a voice{stray}")
    bad = [f"{item}: {why}" for item, why in unusable if not why.startswith(SAME)]
    if len(bad) > max_bad * (total := len(rows) + len(bad)):
        way_out = "mend them, or allow more (scan --max-bad)"
        raise InputError(f"{root}: {len(bad)} of {total} files unusable ({bad[0]}); {way_out}")
    return Manifest(root, pd.DataFrame(rows, columns=list(COLUMNS)), listed(unpaired + unusable))


def is_voxceleb(root: Path) -> bool:
    """Whether a root has a folder of VoxCeleb's layout."""
    return any((root / part).is_dir() for part in METADATA)


def parts_of(root: Path) -> list[str]:
    """The folders of "vox1" and "vox2" that exist in a dataset's root, of which there must be one."""
    if parts := [part for part in METADATA if (root / part).is_dir()]:
        return parts
    wrong = "no vox1 or vox2 folder in it" if root.is_dir() else "no such folder"
    raise InputError(f"{root}: {wrong}; give the root of HQ-VoxCeleb's layout, with vox1 or vox2 in it")


def _sound_folders(root: Path, part: str) -> list[Path]:
    def holds_ids(folder: Path) -> bool:
        return any(re.fullmatch(r"id\d+", path.name) for path in folder.iterdir())

    folders = [root / form.format(part=part) for form in SOUND_FOLDERS]
    # in SF2F's layout dev/ holds the ids; in VoxCeleb's it holds wav/ or aac/ with the ids in them
    existing = [path for path in folders if path.is_dir() and (path.name in ("wav", "aac") or holds_ids(path))]
    if existing:
        return existing
    raise InputError(f"{folders[0]}: no such folder; expected one folder a person in it, named by VoxCeleb's id")


def _by_person(
    root: Path, folders: Iterable[Path], suffixes: frozenset[str], left_out: LeftOut, known: Known
) -> dict[str, list[str]]:
    """The usable files below some folders, as paths relative to the root, grouped by the first name below their folder.

    A file or folder with several names, by links, is used under its first: it shows one person, and is in one split.
    ``known`` maps the device and inode of each to that name.
    """
    files: dict[str, list[str]] = {}

    def closed(error: OSError) -> None:
        left_out.append((_named(Path(error.filename), root), f"cannot be opened ({error.strerror})"))

    for folder in folders:
        _know_above(folder, known)
        walk = os.walk(folder, onerror=closed, followlinks=True)
        for place, below, _ in tqdm(walk, folder.name, unit="folder", delay=2.0):
            # names that begin with a dot are file managers'
            faults = {path: _fault(path, root, known) for path in sorted(Path(place).glob("[!.]*"))}
            below[:] = sorted(name for name in below if faults.get(Path(place, name)) == "")
            for path, why in faults.items():
                if not why and path.is_dir():
                    continue
                kind = "" if path.suffix.lower() in suffixes else f"not one of {' '.join(sorted(suffixes))}"
                if why := why or kind or ("" if path.stat().st_size else "empty"):
                    left_out.append((_named(path, root), why))
                else:
                    person = composed(path.relative_to(folder).parts[0])
                    files.setdefault(person, []).append(path.relative_to(root).as_posix())
    return files


def _fault(path: Path, root: Path, known: Known) -> str:
    """Why a file or folder cannot be used; "" if it can."""
    if not is_plain_name(path.name):
        return "its name is not UTF-8, or has signs that cannot be printed"
    if not path.is_file() and not path.is_dir():
        return "a link that leads nowhere" if path.is_symlink() else "no file: a pipe or device"
    status, name = path.stat(), _named(path, root)
    first = known.setdefault((status.st_dev, status.st_ino), name)
    return "" if first == name else f"{SAME} {first}"


def _know_above(folder: Path, known: Known) -> None:
    """A link to a folder that it is in would lead round and round."""
    for path in (folder.resolve(), *folder.resolve().parents):
        known.setdefault((path.stat().st_dev, path.stat().st_ino), "a folder that it is in")


def _named(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


# --- the tables of persons, and the split


class Speaker(NamedTuple):
    name: str
    identifier: str
    sex: str


def read_speakers(root: str | Path, part: str) -> list[Speaker]:
    """The rows of the table of a part ("vox1" or "vox2"), in their order: SF2F's split depends on it."""
    path, inside = Path(root) / METADATA[part], Path(root) / part / METADATA[part]
    if not path.is_file() and not inside.is_file():
        source = {"vox1": "VoxCeleb", "vox2": "HQ-VoxCeleb's meta_info folder"}[part]
        raise InputError(f"{path}: no such file; it maps ids to names and comes with {source}")
    table = read_table(path if path.is_file() else inside)
    table.columns = ["".join(column.split()) for column in table.columns]
    columns = []
    for headings in HEADINGS:
        present = [name for heading in headings if (name := heading.replace(" ", "")) in table]
        if not present:
            raise InputError(f"{path}: no column {' or '.join(headings)}; expected VoxCeleb's own metadata")
        columns.append(table[present[0]].str.strip())
    return [Speaker(composed(name), *rest) for name, *rest in zip(*columns, strict=True)]


def sf2f_split(names: Iterable[str]) -> dict[str, str]:
    """SF2F's rule: of the rows of one table, numbers 8, 18, 28, … are for test and 9, 19, 29, … for validation.

    Rows without faces or voices count too. That is why the published counts of 3,638 identities are 370 and 378, and
    not 364 each.

    Example:
        >>> list(sf2f_split([f"{i:02d}" for i in range(12)]).values())[7:]
        ['train', 'test', 'val', 'train', 'train']
    """
    split: dict[str, str] = {}
    for i, name in enumerate(names):
        split.setdefault(name, {8: "test", 9: "val"}.get(i % 10, "train"))
    return split


def _read_split(path: Path) -> dict[str, str] | None:
    if not path.is_file():
        return None
    table = read_table(path)
    table.columns = table.columns.str.strip()
    if not {"name", "split"} <= set(table):
        raise InputError(f"{path}: no columns name and split; give both, or remove the file for SF2F's rule")
    splits: dict[str, str] = {}
    for name, split in zip(table["name"].map(composed), table["split"].str.strip(), strict=True):
        if split not in VALUES["split"]:
            raise InputError(f"{path}: split is {split!r}; expected {' or '.join(VALUES['split'])}")
        if splits.setdefault(name, split) != split:
            raise InputError(f"{path}: {name}: in more than one split; list each person once")
    return splits


# --- your own pairs


def from_pairs(path: str | Path) -> Manifest:
    """A dataset from a CSV with the columns clip, face (or photo) and person, and, if known, split, sex and session.

    Paths are relative to the CSV's folder, / or \\ between their parts. A file may be in many rows; clip or face may be
    empty. Without a split, the persons sorted by name are split by SF2F's rule (:func:`sf2f_split`), fewer than
    `FEW` by :func:`small_split`. Without a sex it is "u", unknown, and measures within sex become measures over all.
    A row that is there twice, and a person without a clip or without a face, is in ``left_out``.
    """
    import pandas as pd

    path = Path(path)
    table = read_table(path)
    table.columns = table.columns.str.strip().str.lower()
    if "face" not in table:
        table = table.rename(columns={"photo": "face"})
    if missing := [column for column in ("clip", "face", "person") if column not in table]:
        wanted = "clip, face or photo, person and, if known, split, sex, session"
        raise InputError(f"{path}: no column {missing[0]!r}; expected {wanted}")
    table = table.fillna("").apply(lambda column: column.str.strip())
    table = table[(table != "").any(axis=1)]  # spreadsheets write rows of empty cells
    if table.empty:
        raise InputError(f"{path}: no row below the heading; expected one for each clip and photo")
    table["person"] = table.person.map(composed)
    for column in ("clip", "face"):
        table[column] = table[column].str.replace("\\", "/", regex=False).map(plain_path)
    for row in table.index[(table.person == "") | ((table["clip"] == "") & (table["face"] == ""))]:
        raise InputError(f"{path}: row {row + 2} lacks a person, or both clip and face; fill or remove it")
    table["sex"] = table.sex.str.lower().replace("", "u") if "sex" in table else "u"
    table["session"] = table.get("session", "")
    rows = [f"row {row + 2} of {path.name}" for row in table.index[table.duplicated()]]
    doubled = [(row, "the same as an earlier row") for row in rows]
    faces = table[table["face"] != ""].assign(kind="face", session="", path=lambda rows: rows["face"])
    voices = table[table["clip"] != ""].assign(kind="voice", path=lambda rows: rows["clip"])
    with refusing(path, "pairs"):
        return _own_manifest(path.parent, pd.concat([faces, voices]), doubled)


def _own_manifest(root: Path, files: pd.DataFrame, left_out: LeftOut) -> Manifest:
    """Files of your own as a dataset; persons are split if they are not, and who has faces or voices only is told."""
    if "split" not in files:
        sexes = dict(zip(files.person, files.sex, strict=True))
        split = small_split(sexes) if len(sexes) < FEW else sf2f_split(sorted(sexes))
        files = files.assign(split=files.person.map(split))
    kinds = files.groupby("person").kind.agg(set)
    alone = [(name, f"a {next(iter(has))} alone") for name, has in kinds.items() if len(has) == 1]
    return Manifest(root, files[list(COLUMNS)].drop_duplicates(), listed(left_out + alone))


def read_own(root: Path) -> Manifest | None:
    """Your own data: manifest.csv, pairs.csv, or a folder for each person; None if a root has none of them."""
    for name, read in LISTS.items():
        if (root / name).is_file():
            return read(root / name)
    return None if is_voxceleb(root) or not any(people_in(root)) else from_folders(root)


def from_folders(root: str | Path) -> Manifest:
    """A dataset from one folder a person, named as the person is called, with recordings and photographs in it.

    Sexes are unknown, and the split is that of :func:`from_pairs`. Files of another kind, empty ones, and persons
    without either are in ``left_out``.
    """
    import pandas as pd

    root, known = Path(root), Known()
    _know_above(root, known)
    faults = [(_named(path, root), _fault(path, root, known)) for path in sorted(root.glob("[!.]*"))]
    left_out: LeftOut = [(name, why) for name, why in faults if why]
    rows: list[tuple[str, str, str]] = []
    for folder in people_in(root):
        for paths in _by_person(root, [folder], PICTURES | RECORDINGS, left_out, known).values():
            kinds = ["face" if Path(path).suffix.lower() in PICTURES else "voice" for path in paths]
            rows += [(composed(folder.name), kind, path) for kind, path in zip(kinds, paths, strict=True)]
    if not rows:
        raise InputError(f"{root}: neither {' nor '.join(LISTS)}, nor persons' folders with photographs and recordings")
    with refusing(root, "a dataset"):
        table = pd.DataFrame(rows, columns=["person", "kind", "path"]).assign(sex="u", session="")
        return _own_manifest(root, table, left_out)


def people_in(root: Path) -> list[Path]:
    """The folders below a root that hold recordings or photographs themselves."""
    known = Known()
    _know_above(root, known)
    folders = [path for path in sorted(root.glob("[!.]*")) if not _fault(path, root, known) and path.is_dir()]
    return [path for path in folders if any(file.suffix.lower() in PICTURES | RECORDINGS for file in path.iterdir())]


def small_split(sexes: Mapping[str, str]) -> dict[str, str]:
    """Split few persons: of every five of one sex, in the order of names, three train, one validates, one tests."""
    seen = Counter[str]()  # persons of each sex so far
    split = {}
    for name in sorted(sexes):
        split[name] = {1: "val", 3: "test"}.get(seen[sexes[name]] % 5, "train")
        seen[sexes[name]] += 1
    return split


LISTS = {"manifest.csv": from_csv, "pairs.csv": from_pairs}


# --- a scan


def scan(root: str | Path, max_bad: float = 0.05) -> Manifest:
    """Read a dataset in HQ-VoxCeleb's layout and write manifest.csv and left_out.csv into its root.

    Of your own data nothing is written, and files that are not there are in ``left_out`` too.
    """
    root = Path(root)
    if root.is_dir() and not is_voxceleb(root) and (own := read_own(root)):
        lost = [(path, "no such file") for path in own.table.path if not (root / path).is_file()]
        return Manifest(root, own.table, listed([*own.left_out.itertuples(index=False, name=None), *lost]))
    manifest = read_layout(root, max_bad=max_bad)
    for name, table in (("manifest.csv", manifest.table), ("left_out.csv", manifest.left_out)):
        with atomic_write(root / name) as temporary:
            table.to_csv(temporary, index=False, lineterminator="\n")
    return manifest


def summary(manifest: Manifest) -> Iterator[str]:
    """A scan in lines: persons and files of each split, and what is unused; of VoxCeleb only how many, by reason."""
    for split in VALUES["split"]:
        persons = manifest.persons(split)
        if len(persons):
            sexes = ", ".join(f"{n} {sex}" for sex, n in persons.sex.value_counts().sort_index().items())
            counts = f"{persons.faces.sum()} faces, {persons.voices.sum()} recordings"
            yield f"{split}: {len(persons)} persons ({sexes}), {counts}"
    if is_voxceleb(manifest.root):
        reasons = manifest.left_out.why.str.replace(rf" \(.*|(?<={SAME}) .*", "", regex=True)
        yield from (f"left out: {n} × {reason}" for reason, n in reasons.value_counts().items())
    else:
        yield from (f"left out: {row.item}: {row.why}" for row in manifest.left_out.itertuples())
