"""One table of a dataset's files: the person, kind and split of each."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from v2f_core.artefacts.files import is_plain_name
from v2f_core.artefacts.loading import refusing
from v2f_core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("person", "sex", "split", "kind", "session", "path")
VALUES = {"sex": ("f", "m", "u"), "split": ("train", "val", "test"), "kind": ("face", "voice")}


@dataclass(frozen=True)
class Manifest:
    """A dataset: its root, a table with one row a file, and a list of unused persons and files.

    The table has the columns person (a name), sex (f, m, u: unknown), split (train, val, test), kind (face, voice),
    session (of a voice, the video it was cut from; else empty) and path (POSIX form, relative to root), and is sorted.
    ``left_out`` has the columns item and why.

    Example:
        >>> import pandas as pd
        >>> rows = [("Ada", "f", "train", "face", "", "ada.png"), ("Ada", "f", "train", "voice", "v0", "ada.wav")]
        >>> manifest = Manifest(Path("data"), pd.DataFrame(rows, columns=COLUMNS))
        >>> manifest.persons("train").index.tolist(), manifest.voices("train").path.tolist()
        (['Ada'], ['ada.wav'])
        >>> manifest.absolute(manifest.faces())
        [PosixPath('data/ada.png')]
    """

    root: Path
    table: pd.DataFrame
    left_out: pd.DataFrame = field(default_factory=lambda: listed([]))

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", check(self.table))

    def faces(self, split: str | None = None) -> pd.DataFrame:
        """The rows of pictures, of one split or of all."""
        return self._rows("face", split)

    def voices(self, split: str | None = None) -> pd.DataFrame:
        """The rows of recordings, of one split or of all splits."""
        return self._rows("voice", split)

    def persons(self, split: str | None = None) -> pd.DataFrame:
        """One row a person: sex, split, number of faces and number of voices."""
        table = self.table if split is None else self.table[self.table.split == split]
        counts = table.groupby("person").kind.value_counts().unstack(fill_value=0)
        counts = counts.reindex(columns=["face", "voice"], fill_value=0)
        attributes = table.groupby("person")[["sex", "split"]].first()
        return attributes.join(counts.rename(columns={"face": "faces", "voice": "voices"}).rename_axis(columns=None))

    def absolute(self, rows: pd.DataFrame) -> list[Path]:
        """The paths of some rows, below the root."""
        return [self.root / path for path in rows.path]

    def _rows(self, kind: str, split: str | None) -> pd.DataFrame:
        if split is not None and split not in VALUES["split"]:
            raise InputError(f"{split}: no such split; choose {', '.join(VALUES['split'])}")
        mask = self.table.kind == kind
        return self.table[mask if split is None else mask & (self.table.split == split)].reset_index(drop=True)


def from_csv(path: str | Path) -> Manifest:
    """A dataset of your own: a CSV with the columns of `Manifest.table`, of which session may be left out.

    Paths are relative to the CSV's folder.
    """
    path = Path(path)
    table = read_table(path)
    if "path" in table:
        table["path"] = table.path.str.replace("\\", "/", regex=False)
    with refusing(path, "a table"):
        return Manifest(path.parent, table if "session" in table else table.assign(session=""))


def read_table(path: Path) -> pd.DataFrame:
    """A table separated by tabs, semicolons or commas, every cell as text."""
    import pandas as pd

    with refusing(path, "a table", "expected text in UTF-8, separated by tabs, semicolons or commas"):
        heading = path.read_text(encoding="utf-8-sig").partition("\n")[0]
        separator = next((sign for sign in "\t;" if sign in heading), ",")
        return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")


def listed(items: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """Unused items, and why each is not used, as a table."""
    import pandas as pd

    return pd.DataFrame(sorted(items), columns=["item", "why"], dtype=str)


def check(table: pd.DataFrame) -> pd.DataFrame:
    """A table with its columns in order and its rows sorted; an ``InputError`` if splits leak or paths lead out."""
    if missing := [column for column in COLUMNS if column not in table]:
        raise InputError(f"no column {missing[0]!r}; expected {', '.join(COLUMNS)}")
    table = table[list(COLUMNS)].astype(str)
    table["person"] = table.person.map(composed)
    for column, allowed in VALUES.items():
        for row in table[~table[column].isin(allowed)].to_dict("records"):
            raise InputError(f"{row['path']}: {column} is {row[column]!r}; expected {' or '.join(allowed)}")
    for person in table.person.unique():
        if not is_plain_name(person):
            raise InputError(f"{person!r}: no name of a person; expected letters and digits, without / and \\")
    for column in ("sex", "split"):
        kinds = table.groupby("person")[column].nunique()
        if (kinds > 1).any():
            raise InputError(f"{kinds.idxmax()}: in more than one {column}; a person's files must share one")
    for path in table.path:
        forms = PurePosixPath(path), PureWindowsPath(path)
        if not path or "\0" in path or any(form.anchor or ".." in form.parts for form in forms):
            raise InputError(f"{path!r}: not a path below the dataset's root; make it relative to it")
    table["path"] = table.path.map(plain_path)
    for path in table.path[table.path.duplicated()]:
        persons = sorted(set(table.person[table.path == path]))
        whose = " and ".join(persons if len(persons) < 3 else [persons[0], f"{len(persons) - 1} others"])
        raise InputError(f"{path}: listed twice, for {whose}; list each file once, for one person")
    return table.sort_values(["split", "person", "kind", "path"]).reset_index(drop=True)


def composed(name: str) -> str:
    """A name without blanks around it and with composed accents (NFC); some file systems store them decomposed."""
    return unicodedata.normalize("NFC", name.strip())


def plain_path(path: str) -> str:
    """A path spelt in one way, so that a file has one name: ./a//b.png is a/b.png."""
    return PurePosixPath(path).as_posix() if path else ""
