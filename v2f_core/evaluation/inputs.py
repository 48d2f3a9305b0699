"""What an evaluation reads beside stored embeddings: photographs in the persons' order, labels, whom scorers know."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Shaped

from v2f_core.errors import InputError
from v2f_core.evaluation.exhibits import bands, thirds
from v2f_core.evaluation.leaks import contamination
from v2f_core.evaluation.protocols import check_disjoint, check_scorer

if TYPE_CHECKING:
    import pandas as pd

    from v2f_core.data.manifest import Manifest
    from v2f_core.training.embeddings import Embeddings
    from v2f_core.training.pairs import Pairs

AGE, TONE = "age", "skin tone"
TONES = ("light", "medium", "dark")
KNOWN = "training_persons.txt"  # in a part's folder: whom it was trained on, a name a line


def first_of_each_sex(sexes: Sequence[str], count: int) -> list[int]:
    """The places of the first persons, as many of each sex as there are, ``count`` in all; in order.

    Raises:
        InputError: not even four of a sex: nothing could be told from so few.

    Example:
        >>> first_of_each_sex(list("ffffffmmmm"), 8)
        [0, 1, 2, 3, 6, 7, 8, 9]
    """
    kinds = sorted(set(sexes))
    share = {sex: count // len(kinds) + (number < count % len(kinds)) for number, sex in enumerate(kinds)}
    if count < 4 * len(kinds):
        raise InputError(f"limit {count}: expected at least {4 * len(kinds)} persons, four of each sex")
    return sorted(i for sex in kinds for i in [i for i, s in enumerate(sexes) if s == sex][: share[sex]])


def photographs(manifest: Manifest, faces: Embeddings, pairs: Pairs, split: str = "test") -> list[list[Path]]:
    """The usable photographs of each person of a split, in the order of their identities in ``pairs``."""
    owner = dict(zip(manifest.table.path, manifest.table.person, strict=True))
    found: dict[str, list[Path]] = {person: [] for person in pairs.persons}
    for item in faces.of(manifest.faces(split).path)[1]:
        if owner[item] in found:
            found[owner[item]].append(manifest.root / item)
    return [found[person] for person in pairs.persons]


def read_labels(path: str | Path) -> pd.DataFrame:
    """Labels of your own: a CSV with a column person, and age (years), "skin tone" (0 light to 1 dark), or both.

    Raises:
        InputError: the file is missing, no CSV, or a value is no number.

    Example:
        >>> import tempfile
        >>> mine = Path(tempfile.mkdtemp()) / "labels.csv"
        >>> _ = mine.write_text("person,age\\nAda,36\\nBea,\\n")
        >>> read_labels(mine)["age"].tolist()
        [36.0, nan]
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype={"person": str}).set_index("person")
        table = table[[name for name in (AGE, TONE) if name in table]].astype(float)
    except (OSError, ValueError, KeyError, UnicodeError) as error:
        raise InputError(
            f"{path}: cannot be read as labels ({error}); expected columns person, age, skin tone"
        ) from error
    if table.index.duplicated().any() or not len(table.columns):
        raise InputError(f"{path}: expected one line a person, and a column {AGE!r} or {TONE!r}")
    return table


def truth_of(labels: pd.DataFrame, persons: Sequence[str], name: str) -> Float[np.ndarray, " n"]:
    """A label of some persons; NaN where it is not known."""
    if name not in labels:
        return np.full(len(persons), np.nan)
    return labels[name].reindex(list(persons)).to_numpy(np.float64)


def attributes(
    labels: pd.DataFrame, test: Sequence[str], sexes: Shaped[np.ndarray, " n"], training: Sequence[str]
) -> pd.DataFrame:
    """Sex, age band and third of skin tone (thirds of the training persons) of each test person; "" where unknown."""
    import pandas as pd

    table = pd.DataFrame({"sex": pd.Categorical(np.where(sexes == "f", "women", "men"), ["women", "men"])})
    ages, tones = (truth_of(labels, test, name) for name in (AGE, TONE))
    if np.isfinite(ages).any():
        order = bands(np.array([20.0, 40.0, 50.0, 70.0]))
        table["age band"] = pd.Categorical(bands(ages), [*order, ""])
    reference = truth_of(labels, training, TONE)
    if np.isfinite(tones).any() and np.isfinite(reference).any():
        table[TONE] = pd.Categorical(thirds(tones, reference, TONES), [*TONES, ""])
    return table


def check_splits(training: Pairs, test: Pairs, scorers: Mapping[str, Path], all_known: bool = False) -> list[str]:
    """Refuse a test with persons of the training; warn of persons whom a scorer was trained on.

    Args:
        scorers: name → folder; a file ``training_persons.txt`` in it lists whom the scorer knows.
        all_known: no scorer knows anybody of the dataset (so it is with MiniVox, by construction).
    Returns:
        the warnings, which are also given as such.
    Raises:
        InputError: a person, photograph or recording is in both splits, or one photograph is two test persons'.
    """
    check_disjoint({"train": training.persons, "test": test.persons})
    if leaks := contamination(training, test):
        told = "; ".join(f"{one} and {other}: {why}" for one, other, why in leaks[:3])
        raise InputError(f"split contamination, {len(leaks)} in all: {told}; take them out of one split")
    notes = []
    for name, folder in scorers.items():
        path = folder / KNOWN
        known = path.read_text(encoding="utf-8").split("\n") if path.is_file() else [] if all_known else None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            check_scorer(name, known, test.persons)
        notes += [str(warning.message) for warning in caught]
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return notes
