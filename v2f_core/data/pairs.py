"""A dataset of your own, with the least that is needed: a table of clips and faces that belong together."""

from __future__ import annotations

from pathlib import Path

from v2f_core.data.manifest import COLUMNS, Manifest
from v2f_core.data.metadata import composed, read_table, sf2f_split
from v2f_core.errors import InputError

NEEDED, OPTIONAL = ("clip", "face", "person"), ("split", "sex", "session")


def from_pairs(path: str | Path) -> Manifest:
    """A dataset from a CSV with the columns clip, face and person, and, if known, split, sex and session.

    Paths are relative to the CSV's folder. A file may stand in many rows; either of clip and face may be empty. Without
    a split the persons, sorted by name, are split as SF2F splits (every tenth for test, the one after for validation).
    Without a sex it is "u", unknown; what is measured within sex is then measured over all.

    Raises:
        InputError: the file is missing or no table; a column is missing; a row has no person, or neither clip nor face;
            the contents break a rule of `v2f_core.data.manifest.check`.

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
    if missing := [column for column in NEEDED if column not in table]:
        raise InputError(f"{path}: no column {missing[0]!r}; expected {', '.join(NEEDED)} and, if known, {OPTIONAL}")
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
    rows = pd.concat([faces, voices])[list(COLUMNS)].drop_duplicates()
    try:
        return Manifest(path.parent, rows)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
