"""HQ-VoxCeleb's faces and VoxCeleb's audio as they lie on disk, SF2F's split of them, and the same for your own pairs.

vox1/origin_faces/<Name>/*.jpg     (or masked_faces)
vox1/wav/<id>/<video>/*.wav        (vox2/aac/<id>/<video>/*.m4a, and the other places in SOUND_FOLDERS)
vox1_meta.csv                      VoxCeleb's own, tab-separated: VoxCeleb1 ID, VGGFace1 ID (the name), Gender, …
full_vox2_meta.csv                 HQ-VoxCeleb's, comma-separated: …, Name, …, VoxCeleb2ID, …, Gender_y, Set
split.csv                          (optional: name,split)

MiniVox is unpacked into the same layout. A scan writes ``manifest.parquet`` into the root, which later steps read in
place of the folders.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from v2f_core.artefacts.files import sha256
from v2f_core.artefacts.profiles import Profile
from v2f_core.data.manifest import COLUMNS, VALUES, Manifest, from_csv, from_parquet, named
from v2f_core.data.packed import unpack
from v2f_core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
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
METADATA = {"vox1": "vox1_meta.csv", "vox2": "full_vox2_meta.csv"}
PUBLISHED = {"train": 2890, "val": 370, "test": 378}  # identities of HQ-VoxCeleb (SF2F, Table 1)
# our field: the tables' headings, which differ in blanks from copy to copy; Gender_y is VoxCeleb2's opinion
HEADINGS = {
    "name": ("VGGFace1 ID", "Name"),
    "identifier": ("VoxCeleb1 ID", "VoxCeleb2 ID"),
    "sex": ("Gender", "Gender_y"),
    "nationality": ("Nationality",),
}
ALSO_IN = "also in"
AT_ONCE, QUEUE = 8, 1024  # files hashed side by side, and waiting for it


def open_dataset(profile: Profile) -> Manifest:
    """The manifest of a profile's dataset, unpacked first where the profile carries it packed.

    The first of manifest.parquet (written by :func:`scan`), manifest.csv (see :func:`~v2f_core.data.manifest.from_csv`)
    and pairs.csv (see :func:`from_pairs`) is read; without them the folders, in HQ-VoxCeleb's layout.

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


# --- the folders


def read_layout(root: str | Path, face_folder: str | None = None, max_bad: float = 0.05) -> Manifest:
    """The manifest of a dataset in HQ-VoxCeleb's and VoxCeleb's layout.

    Only persons with both a face and a voice are taken; all other persons and files are listed, with the reason, in
    ``left_out``. The split is split.csv's, else SF2F's rule (:func:`sf2f_split`), for vox1 and vox2 apart. A name that
    stands in both is taken once, from vox1, so that nobody is in two splits.

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
    rows: list[tuple[str, ...]] = []
    unpaired: list[tuple[str, str]] = []
    unusable: list[tuple[str, str]] = []
    taken: dict[str, tuple[str, str]] = {}  # name → part and split
    with tqdm(desc=f"files of {root.name}", unit="file", delay=2.0) as bar:
        for part in parts_of(root):
            speakers = read_speakers(root, part)
            pictures, sounds = _face_folder(root / part, face_folder), _sound_folders(root, part)
            faces = _files(root, [pictures], PICTURES, unusable, bar)
            voices = _files(root, sounds, RECORDINGS, unusable, bar)
            split = _read_split(root / "split.csv") or sf2f_split(speaker.name for speaker in speakers)
            known = {speaker.name for speaker in speakers}, {speaker.identifier for speaker in speakers}
            unpaired += [(f"{part}/{name}", f"a face, but not in {METADATA[part]}") for name in faces.keys() - known[0]]
            unpaired += [(f"{part}/{id_}", f"a voice, but not in {METADATA[part]}") for id_ in voices.keys() - known[1]]
            for name, identifier, sex, _ in speakers:
                if why := _why_not(name, identifier, faces, voices, split, taken):
                    unpaired.append((f"{part}/{name}", why))
                    continue
                taken[name] = part, split[name]
                person = (name, sex, split[name])
                rows += [(*person, "face", "", path) for path in faces[name]]
                rows += [(*person, "voice", Path(path).parent.name, path) for path in voices[identifier]]
    if not rows:
        # one who stands in no table: such as "wav", where the ids' folders lie one level too deep
        strangers = (f": {item} is {why}" for item, why in unpaired if ", but not in" in why)
        expected = " (expected <Name>/ in the folders of faces and <id>/ in those of voices)"
        stranger = next((f"{stranger}{expected}" for stranger in strangers), "")
        raise InputError(f"{root}: nobody in it has both a face and a voice{stranger}; check folders and metadata")
    total = len(rows) + len(unusable)
    if len(unusable) > max_bad * total:
        first = f"{unusable[0][0]}: {unusable[0][1]}"
        way_out = "mend them, or allow more (scan --max-bad)"
        raise InputError(f"{root}: {len(unusable)} of {total} files unusable ({first}); {way_out}")
    left_out = pd.DataFrame(sorted(unpaired + unusable), columns=["item", "why"])
    return Manifest(root, pd.DataFrame(rows, columns=list(COLUMNS)), left_out)


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
    if parts := [part for part in METADATA if (root / part).is_dir()]:
        return parts
    folders = (root.absolute().parent, *sorted(path for path in root.iterdir() if path.is_dir()))
    nearby = (f": perhaps {folder}" for folder in folders if any((folder / part).is_dir() for part in METADATA))
    raise InputError(f"{root}: no vox1 or vox2 folder in it; give the root of HQ-VoxCeleb's layout{next(nearby, '')}")


def _why_not(
    name: str,
    identifier: str,
    faces: dict[str, list[str]],
    voices: dict[str, list[str]],
    split: dict[str, str],
    taken: dict[str, tuple[str, str]],
) -> str:
    """Why a speaker cannot be taken; "" for those who can."""
    if name not in faces:
        return "a voice, but no face" if identifier in voices else "neither face nor voice"
    if identifier not in voices:
        return f"a face, but no voice ({identifier})"
    if name not in split:
        return "not in split.csv"
    if name in taken:
        return f"{ALSO_IN} {taken[name][0]} ({taken[name][1]} there, {split[name]} here); taken once"
    return ""


def _face_folder(part: Path, wanted: str | None) -> Path:
    for name in [wanted] if wanted else FACE_FOLDERS:
        if (part / name).is_dir():
            return part / name
    raise InputError(f"{part}: no folder {wanted or ' or '.join(FACE_FOLDERS)} in it; put the faces there")


def _sound_folders(root: Path, part: str) -> list[Path]:
    def holds_ids(folder: Path) -> bool:
        return any(re.fullmatch(r"id\d+", path.name) for path in folder.iterdir())

    folders = [root / form.format(part=part) for form in SOUND_FOLDERS]
    # dev/ holds ids in SF2F's form, and wav/ or aac/ with the ids in them in VoxCeleb's
    existing = [path for path in folders if path.is_dir() and (path.name in ("wav", "aac") or holds_ids(path))]
    if not existing:
        raise InputError(f"{folders[0]}: no such folder; expected one folder a person in it, named by VoxCeleb's id")
    return existing


def _files(
    root: Path, folders: list[Path], suffixes: frozenset[str], unusable: list[tuple[str, str]], bar: tqdm
) -> dict[str, list[str]]:
    """The usable files of each person (a folder's first level), relative to the root."""
    files: dict[str, list[str]] = {}
    for folder in folders:
        for path in _walk(folder):
            bar.update()
            name = path.relative_to(root).as_posix()
            if path.suffix.lower() not in suffixes:
                unusable.append((name, f"not one of {' '.join(sorted(suffixes))}"))
            elif path.stat().st_size == 0:
                unusable.append((name, "empty"))
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


# --- the tables of persons, and the split


class Speaker(NamedTuple):
    """A row of a table; nationality is "" where the table has none."""

    name: str
    identifier: str
    sex: str
    nationality: str = ""


def read_speakers(root: str | Path, part: str) -> list[Speaker]:
    """The rows of vox1's or vox2's table, in the table's order, which SF2F's split depends on.

    Args:
        root: the dataset; the table lies in it or in its folder of the part.
        part: "vox1" or "vox2".
    Raises:
        InputError: the table is missing, cannot be read, or lacks a column.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> _ = (root / "vox1_meta.csv").write_text("VoxCeleb1 ID\\tVGGFace1 ID\\tGender\\nid10001\\tAda\\tf\\n")
        >>> read_speakers(root, "vox1")
        [Speaker(name='Ada', identifier='id10001', sex='f', nationality='')]
    """
    path, inside = Path(root) / METADATA[part], Path(root) / part / METADATA[part]
    if not path.is_file() and not inside.is_file():
        source = {"vox1": "VoxCeleb", "vox2": "HQ-VoxCeleb's meta_info folder"}[part]
        raise InputError(f"{path}: no such file; it maps ids to names and comes with {source}")
    table = read_table(path if path.is_file() else inside)
    table.columns = ["".join(column.split()) for column in table.columns]
    columns = []
    for field, headings in HEADINGS.items():
        present = [name for heading in headings if (name := heading.replace(" ", "")) in table]
        if not present and field != "nationality":
            raise InputError(f"{path}: no column {' or '.join(headings)}; expected VoxCeleb's own metadata")
        columns.append(table[present[0]].str.strip().tolist() if present else [""] * len(table))
    return [Speaker(composed(name), *rest) for name, *rest in zip(*columns, strict=True)]


def sf2f_split(names: Iterable[str]) -> dict[str, str]:
    """SF2F's rule: of a table's rows, vox1's and vox2's apart, every tenth from 8 is for test, from 9 for validation.

    All rows count, whether there are faces and voices or not; that is why the published counts are 370 and 378, and not
    both a tenth of 3,638 to within one.

    Args:
        names: in the order of the metadata's rows.

    Example:
        >>> list(sf2f_split([f"{i:02d}" for i in range(12)]).values())[7:]
        ['train', 'test', 'val', 'train', 'train']
    """
    split: dict[str, str] = {}
    for i, name in enumerate(names):
        split.setdefault(name, {8: "test", 9: "val"}.get(i % 10, "train"))
    return split


def composed(name: str) -> str:
    """A name with its accents composed (NFC): some file systems take them apart, the tables do not.

    Example:
        >>> composed("Petrovic\\u0301") == "Petrovi\\u0107"
        True
    """
    return unicodedata.normalize("NFC", name)


def read_table(path: Path) -> pd.DataFrame:
    """A tab- or comma-separated table as text.

    Raises:
        InputError: it cannot be read as one.
    """
    import pandas as pd

    try:
        text = path.read_text(encoding="utf-8-sig")
        separator = "\t" if "\t" in text.partition("\n")[0] else ","
        return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, UnicodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(
            f"{path}: cannot be read as a table ({error}); expected tab- or comma-separated text"
        ) from error


def _read_split(path: Path) -> dict[str, str] | None:
    if not path.is_file():
        return None
    table = read_table(path)
    if not {"name", "split"} <= set(table):
        raise InputError(f"{path}: no columns name and split; give both, or remove the file for SF2F's rule")
    if unknown := set(table["split"]) - set(VALUES["split"]):
        raise InputError(f"{path}: split is {min(unknown)!r}; expected {' or '.join(VALUES['split'])}")
    return {composed(name): split for name, split in zip(table["name"], table["split"], strict=True)}


# --- your own pairs


def from_pairs(path: str | Path) -> Manifest:
    """A dataset from a CSV with the columns clip, face and person, and, if known, split, sex and session.

    Paths are relative to the CSV's folder. A file may stand in many rows; either of clip and face may be empty. Without
    a split the persons, sorted by name, are split as SF2F splits (every tenth for test, the one after for validation).
    Without a sex it is "u", unknown; what is measured within sex is then measured over all.

    Raises:
        InputError: the file is missing or no table; a column is missing; a row has no person, or neither clip nor face;
            the contents break a rule of :func:`~v2f_core.data.manifest.check`.

    Example:
        >>> import tempfile
        >>> mine = Path(tempfile.mkdtemp()) / "pairs.csv"
        >>> _ = mine.write_text("clip,face,person,split\\na1.wav,a.png,Ada,test\\na2.wav,a.png,Ada,test\\n")
        >>> from_pairs(mine).table[["sex", "kind", "path"]].values.tolist()
        [['u', 'face', 'a.png'], ['u', 'voice', 'a1.wav'], ['u', 'voice', 'a2.wav']]
    """
    import pandas as pd

    path = Path(path)
    table = read_table(path)
    if missing := [column for column in ("clip", "face", "person") if column not in table]:
        raise InputError(
            f"{path}: no column {missing[0]!r}; expected clip, face, person and, if known, split, sex, session"
        )
    table = table.apply(lambda column: column.str.strip())
    table["person"] = table.person.map(composed)
    empty = table[(table.person == "") | ((table["clip"] == "") & (table["face"] == ""))]
    if len(empty):
        raise InputError(
            f"{path}: row {empty.index[0] + 2} lacks a person, or both clip and face; fill it or remove it"
        )
    if "split" not in table:
        table["split"] = table.person.map(sf2f_split(sorted(set(table.person))))
    for column, default in (("sex", "u"), ("session", "")):
        if column not in table:
            table[column] = default
    faces = table[table["face"] != ""].assign(kind="face", session="", path=lambda rows: rows["face"])
    voices = table[table["clip"] != ""].assign(kind="voice", path=lambda rows: rows["clip"])
    with named(path):
        return Manifest(path.parent, pd.concat([faces, voices])[list(COLUMNS)].drop_duplicates())


LISTS = {"manifest.parquet": from_parquet, "manifest.csv": from_csv, "pairs.csv": from_pairs}


# --- a scan


def scan(root: str | Path, hashes: bool = True, max_bad: float = 0.05) -> Manifest:
    """Read a dataset in HQ-VoxCeleb's layout and write manifest.parquet, and left_out.csv, into its root.

    Hashing a million files takes hours: each hash is written down as soon as it is known, and a stopped run goes on.

    Args:
        root: folder that holds vox1 or vox2 or both.
        hashes: whether to compute the files' SHA-256; their sizes are taken anyway.
        max_bad: see :func:`read_layout`.
    Raises:
        InputError: as :func:`read_layout`; the root cannot be written to.
    """
    root = Path(root)
    manifest = read_layout(root, max_bad=max_bad)
    nations = {row.name: row.nationality for part in reversed(parts_of(root)) for row in read_speakers(root, part)}
    stats = [(root / path).stat() for path in manifest.table.path]
    table = manifest.table.assign(nationality=manifest.table.person.map(nations), bytes=[s.st_size for s in stats])
    if hashes:
        files = [(path, s.st_size, s.st_mtime_ns) for path, s in zip(table.path, stats, strict=True)]
        table["sha256"] = _hashes(root, files)
    scanned = Manifest(root, table, manifest.left_out)
    scanned.save(root / "manifest.parquet")
    scanned.left_out.to_csv(root / "left_out.csv", index=False, lineterminator="\n")
    return scanned


def summary(manifest: Manifest) -> Iterator[str]:
    """A scan in lines: persons and files of each split, what was left out, how the split compares with the published.

    Example:
        >>> import pandas as pd
        >>> rows = [("Ada", "f", "train", "face", "", "a.png"), ("Ada", "f", "train", "voice", "v", "a.wav")]
        >>> next(summary(Manifest(Path("data"), pd.DataFrame(rows, columns=COLUMNS))))
        'train: 1 persons (1 f), 1 faces, 1 recordings'
    """
    for split in PUBLISHED:
        persons = manifest.persons(split)
        if len(persons):
            sexes = ", ".join(f"{n} {sex}" for sex, n in persons.sex.value_counts().sort_index().items())
            counts = f"{persons.faces.sum()} faces, {persons.voices.sum()} recordings"
            yield f"{split}: {len(persons)} persons ({sexes}), {counts}"
    reasons = manifest.left_out.why.str.split(" (", regex=False).str[0]
    yield from (f"left out: {n} × {reason}" for reason, n in reasons.value_counts().items())
    doubled = manifest.left_out[manifest.left_out.why.str.startswith(ALSO_IN)]
    yield from (f"{row.item.partition('/')[2]}: {row.why}" for row in doubled.itertuples())
    if not (manifest.root / "split.csv").exists():
        # SF2F counts a name that stands in both vox1 and vox2 in both
        second = doubled.why.str.extract(r"(\w+) here\)")[0].value_counts()
        yield compared({split: len(manifest.persons(split)) + int(second.get(split, 0)) for split in PUBLISHED})
    if manifest.table.path.str.endswith(".m4a").any() and find_spec("av") is None:
        yield "m4a recordings are here and PyAV is not: pip install av, or convert them to WAV with ffmpeg"


def compared(counts: dict[str, int]) -> str:
    """Whether the split is HQ-VoxCeleb's published one, which can only be said of the whole dataset.

    Args:
        counts: identities of each split.

    Example:
        >>> compared(PUBLISHED)
        "SF2F's split: 2890/370/378, as published"
    """
    ours, theirs = ("/".join(str(table[split]) for split in PUBLISHED) for table in (counts, PUBLISHED))
    persons, total = sum(counts.values()), sum(PUBLISHED.values())
    if persons != total:
        return f"SF2F's split: {ours} of {persons} identities; HQ-VoxCeleb has {theirs} of {total}: not whole"
    if counts == PUBLISHED:
        return f"SF2F's split: {ours}, as published"
    return f"SF2F's split: {ours}, but {theirs} was published: the metadata's rows are not in their published order"


def _hashes(root: Path, files: list[tuple[str, int, int]]) -> list[str]:
    """The SHA-256 of (path, bytes, time of change); those of an earlier run hold where all three are the same."""
    from tqdm import tqdm

    log = root / "manifest.hashes.csv"
    known: dict[tuple[str, int, int], str] = {}
    if log.is_file():
        with log.open(newline="", encoding="utf-8") as lines:
            for row in csv.reader(lines):  # a line that a kill cut short does not count
                if len(row) == 4 and row[1].isdigit() and row[2].isdigit() and re.fullmatch("[0-9a-f]{64}", row[3]):
                    known[row[0], int(row[1]), int(row[2])] = row[3]
    todo = [file for file in files if file not in known]
    size = sum(file[1] for file in todo)
    try:
        out = log.open("a", newline="", encoding="utf-8", buffering=1)  # a line at a time
    except OSError as error:
        raise InputError(f"{log}: cannot be written ({error.strerror}); make the dataset's root writable") from error
    bar = tqdm(total=size, desc="hashes", unit="B", unit_scale=True, delay=2.0)
    with out, ThreadPoolExecutor(AT_ONCE) as pool, bar:
        out.write("\n" * bool(known))  # after a line that a kill cut short
        for start in range(0, len(todo), QUEUE):
            some = todo[start : start + QUEUE]
            for file, digest in zip(some, pool.map(lambda file: sha256(root / file[0]), some), strict=True):
                known[file] = digest
                csv.writer(out).writerow([*file, digest])
                bar.update(file[1])
    return [known[file] for file in files]
