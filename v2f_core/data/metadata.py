"""VoxCeleb's tables of persons, as published: ids, names, sexes, nationalities; and SF2F's split, made by their rows.

vox1_meta.csv            VoxCeleb's own, tab-separated: VoxCeleb1 ID, VGGFace1 ID (the name), Gender, Nationality, Set
full_vox2_meta.csv       HQ-VoxCeleb's, comma-separated: …, Name, …, Gender_x, VoxCeleb2ID, …, Gender_y, Set
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from v2f_core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

METADATA = {"vox1": "vox1_meta.csv", "vox2": "full_vox2_meta.csv"}
PUBLISHED = {"train": 2890, "val": 370, "test": 378}  # identities of HQ-VoxCeleb (SF2F, Table 1)
# our field: the tables' headings, which differ in blanks from copy to copy; Gender_y is VoxCeleb2's opinion
_HEADINGS = {
    "name": ("VGGFace1 ID", "Name"),
    "identifier": ("VoxCeleb1 ID", "VoxCeleb2 ID"),
    "sex": ("Gender", "Gender_y"),
    "nationality": ("Nationality",),
}


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
    path = _find(Path(root), part)
    table = read_table(path)
    table.columns = ["".join(column.split()) for column in table.columns]
    columns = {}
    for field, headings in _HEADINGS.items():
        there = [heading.replace(" ", "") for heading in headings if heading.replace(" ", "") in table]
        if not there and field != "nationality":
            raise InputError(f"{path}: no column {' or '.join(headings)}; expected VoxCeleb's own metadata")
        columns[field] = table[there[0]].str.strip().tolist() if there else [""] * len(table)
    columns["name"] = [composed(name) for name in columns["name"]]
    return [Speaker(*row) for row in zip(*columns.values(), strict=True)]


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


def _find(root: Path, part: str) -> Path:
    for path in (root / METADATA[part], root / part / METADATA[part]):
        if path.is_file():
            return path
    source = {"vox1": "VoxCeleb", "vox2": "HQ-VoxCeleb's meta_info folder"}[part]
    raise InputError(f"{root / METADATA[part]}: no such file; it maps ids to names and comes with {source}")
