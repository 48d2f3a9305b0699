"""Looks a whole dataset through, once: who is in it, who is not and why, whether the split is as published, hashes.

The result is ``manifest.parquet`` in the dataset's root, which every later step reads in place of the folders. Hashing
a million files takes hours: each hash is written down as soon as it is known, and a stopped run goes on from there.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from v2f_core.artefacts.files import sha256
from v2f_core.data.layouts import ALSO_IN, read_layout
from v2f_core.data.manifest import Manifest
from v2f_core.data.metadata import METADATA, PUBLISHED, read_speakers
from v2f_core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from tqdm import tqdm

AT_ONCE, QUEUE = 8, 1024  # files hashed side by side, and waiting for it
Known = dict[tuple[str, int, int], str]  # path, bytes, time of the last change → SHA-256


def scan(root: str | Path, hashes: bool = True, max_bad: float = 0.05) -> Manifest:
    """Read a dataset in HQ-VoxCeleb's layout and write manifest.parquet, and left_out.csv, into its root.

    Args:
        root: folder that holds vox1 or vox2 or both.
        hashes: whether to compute the files' SHA-256; their sizes are taken anyway.
        max_bad: see `read_layout`.
    Raises:
        InputError: as `read_layout`; the root cannot be written to.
    """
    root = Path(root)
    manifest = read_layout(root, max_bad=max_bad)
    parts = [part for part in METADATA if (root / part).is_dir()]
    nations = {row.name: row.nationality for part in reversed(parts) for row in read_speakers(root, part)}
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
    """What a scan found, line by line: persons and files of each split, what was left out, how the split compares.

    Example:
        >>> import pandas as pd
        >>> from v2f_core.data.manifest import COLUMNS
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
    why = manifest.left_out.why.str.split(" (", regex=False).str[0]
    yield from (f"left out: {n} × {reason}" for reason, n in why.value_counts().items())
    yield from (f"{row.item.partition('/')[2]}: {row.why}" for row in _doubled(manifest).itertuples())
    if not (manifest.root / "split.csv").exists():
        yield compared(manifest)
    if manifest.table.path.str.endswith(".m4a").any() and find_spec("av") is None:
        yield "m4a recordings are here and PyAV is not: pip install av, or convert them to WAV with ffmpeg"


def rule_counts(manifest: Manifest) -> dict[str, int]:
    """Identities of each split as SF2F counts them: a name in both vox1 and vox2 counts in both.

    Example:
        >>> import pandas as pd
        >>> from v2f_core.data.manifest import COLUMNS
        >>> rows = [("Ada", "f", "train", "face", "", "a.png")]
        >>> twice = [("vox2/Ada", "also in vox1 (train there, val here); taken once")]
        >>> twice = pd.DataFrame(twice, columns=["item", "why"])
        >>> rule_counts(Manifest(Path("data"), pd.DataFrame(rows, columns=COLUMNS), twice))
        {'train': 1, 'val': 1, 'test': 0}
    """
    second = _doubled(manifest).why.str.extract(r"(\w+) here\)")[0].value_counts()
    return {split: len(manifest.persons(split)) + int(second.get(split, 0)) for split in PUBLISHED}


def compared(manifest: Manifest) -> str:
    """Whether the split is HQ-VoxCeleb's published one, which can only be said of the whole dataset."""
    counts, total = rule_counts(manifest), sum(PUBLISHED.values())
    ours, theirs = ("/".join(map(str, table.values())) for table in (counts, PUBLISHED))
    if sum(counts.values()) != total:
        return (
            f"SF2F's split: {ours} of {sum(counts.values())} identities; HQ-VoxCeleb has {theirs} of {total}: not whole"
        )
    if counts == PUBLISHED:
        return f"SF2F's split: {ours}, as published"
    return f"SF2F's split: {ours}, but {theirs} was published: the metadata's rows are not in their published order"


def _doubled(manifest: Manifest) -> pd.DataFrame:
    return manifest.left_out[manifest.left_out.why.str.startswith(ALSO_IN)]


def _hashes(root: Path, files: list[tuple[str, int, int]]) -> list[str]:
    """The files' SHA-256, those of an earlier run included where size and time of change are the same."""
    log = root / "manifest.hashes.csv"
    known = _read_log(log)
    todo = [file for file in files if file not in known]
    try:
        out = log.open("a", newline="", encoding="utf-8", buffering=1)  # a line at a time
    except OSError as error:
        raise InputError(f"{log}: cannot be written ({error.strerror}); make the dataset's root writable") from error
    with out, ThreadPoolExecutor(AT_ONCE) as pool, _bar(todo) as bar:
        out.write("\n" * bool(known))  # after a line that a kill cut short
        for start in range(0, len(todo), QUEUE):
            some = todo[start : start + QUEUE]
            for file, digest in zip(some, pool.map(lambda file: sha256(root / file[0]), some), strict=True):
                known[file] = digest
                csv.writer(out).writerow([*file, digest])
                bar.update(file[1])
    return [known[file] for file in files]


def _bar(todo: list[tuple[str, int, int]]) -> tqdm:
    from tqdm import tqdm

    return tqdm(total=sum(size for _, size, _ in todo), desc="hashes", unit="B", unit_scale=True, delay=2.0)


def _read_log(log: Path) -> Known:
    """What an earlier run wrote down; a line that a kill cut short does not count."""
    if not log.is_file():
        return {}
    known: Known = {}
    with log.open(newline="", encoding="utf-8") as lines:
        for row in csv.reader(lines):
            if len(row) == 4 and row[1].isdigit() and row[2].isdigit() and re.fullmatch("[0-9a-f]{64}", row[3]):
                known[row[0], int(row[1]), int(row[2])] = row[3]
    return known
