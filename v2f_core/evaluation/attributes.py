"""Attributes of persons: labels of age and skin tone, groups, probes that read them from identities, and failures.

Probes are linear and are fitted on training persons' real photographs. They err on real test photographs too, so that
error is given beside the error on generated faces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped

from v2f_core.artefacts.loading import refusing
from v2f_core.errors import InputError
from v2f_core.evaluation.intervals import bootstrap

AGE, TONE = "age", "skin tone"
BANDS, TONES = ("under 30", "30 to 44", "45 to 59", "60 and over"), ("light", "medium", "dark")
WRONG = {AGE: 15.0, TONE: 0.2}  # years; of a tone from 0 (light) to 1 (dark)
COLLAPSED = 0.95  # quantile of real photographs' cosine with the mean face
EXAMPLES = 4


def read_labels(path: str | Path) -> pd.DataFrame:
    """Labels of your own: a CSV with a column person, and age (years), "skin tone" (0 light to 1 dark), or both.

    Raises:
        InputError: the file is missing, no CSV, or a value is not a number.

    Example:
        >>> import tempfile
        >>> mine = Path(tempfile.mkdtemp()) / "labels.csv"
        >>> _ = mine.write_text("person,age\\nAda,36\\nBea,\\n")
        >>> read_labels(mine)["age"].tolist()
        [36.0, nan]
    """
    with refusing(path, "a table of labels", "expected columns person, age, skin tone"):
        table = pd.read_csv(path, dtype={"person": str}).set_index("person")
        table = table[[name for name in (AGE, TONE) if name in table]].astype(float)
    if table.index.duplicated().any() or not len(table.columns):
        raise InputError(f"{path}: expected one line a person, and a column {AGE!r} or {TONE!r}")
    return table


def truth_of(labels: pd.DataFrame, persons: Sequence[str], name: str) -> Float[np.ndarray, " n"]:
    """A label of each person; NaN where it is not known."""
    if name not in labels:
        return np.full(len(persons), np.nan)
    return labels[name].reindex(list(persons)).to_numpy(np.float64)


def attributes(
    labels: pd.DataFrame, test: Sequence[str], sexes: Shaped[np.ndarray, " n"], training: Sequence[str]
) -> pd.DataFrame:
    """Sex, age band and third of skin tone of each test person; "" where it is not known.

    The thirds are those of the training persons.

    Example:
        >>> labels = pd.DataFrame({"age": [36.0, 70.0]}, index=["Ada", "Bo"])
        >>> attributes(labels, ["Ada", "Bo"], np.array(["f", "m"]), []).loc["Bo"].tolist()
        ['men', '60 and over']
    """
    sex = pd.Categorical(np.where(sexes == "f", "women", np.where(sexes == "m", "men", "")), ["women", "men", ""])
    columns = {"sex": sex}
    ages, tones, reference = truth_of(labels, test, AGE), truth_of(labels, test, TONE), truth_of(labels, training, TONE)
    if np.isfinite(ages).any():
        columns["age band"] = _cut(ages, np.array([30.0, 45.0, 60.0]), BANDS)
    if np.isfinite(tones).any() and np.isfinite(reference).any():
        # a value on an edge belongs to the third below it, as a quantile's definition has it
        columns[TONE] = _cut(tones, np.nanquantile(reference, [1 / 3, 2 / 3]), TONES, side="left")
    return pd.DataFrame(columns, index=list(test))


def _cut(
    values: Float[np.ndarray, " n"],
    edges: Float[np.ndarray, " edges"],
    names: Sequence[str],
    side: Literal["left", "right"] = "right",
) -> pd.Categorical:
    places = np.searchsorted(edges, values, side=side)
    return pd.Categorical(
        ["" if np.isnan(value) else names[i] for value, i in zip(values, places, strict=True)], [*names, ""]
    )


@dataclass(frozen=True)
class Probes:
    """Maps from identities to sex and age; see :func:`fit_probes`.

    Attributes:
        sex: identities → "f" or "m", and "" of an undetected face (a zero vector).
        age: identities → years (or another fitted number), and NaN of an undetected face.
    """

    sex: Callable[[Float[np.ndarray, "n dim"]], Shaped[np.ndarray, " n"]]
    age: Callable[[Float[np.ndarray, "n dim"]], Float[np.ndarray, " n"]]


def fit_probes(
    identity: Float[np.ndarray, "n dim"], sexes: Shaped[np.ndarray, " n"], ages: Float[np.ndarray, " n"] | None = None
) -> Probes:
    """Logistic regression for sex and ridge regression for age, from real identities of *training* persons.

    Args:
        identity: unit, one row a person (``Pairs.centroids``): the ridge's penalty is chosen by leaving rows out.
        sexes: "f" or "m".
        ages: years, NaN where not known; without them, or with fewer than ten, every age is read as NaN.
    Raises:
        InputError: one sex only, or an undetected face among the rows.

    Example:
        >>> z = np.random.default_rng(0).standard_normal((40, 4)); sexes = np.where(z[:, 0] > 0, "f", "m")
        >>> fit_probes(z, sexes).sex(np.array([[1.0, 0, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 0]])).tolist()
        ['f', 'm', '']
    """
    from sklearn.linear_model import LogisticRegression, RidgeCV

    if (lost := ~identity.any(axis=1)).any():
        raise InputError(f"row {lost.argmax()} is an undetected face: leave it out of the probes' training")
    if len(set(sexes.tolist())) != 2:
        raise InputError(f"sexes {sorted(set(sexes.tolist()))}: expected persons of both to tell them apart")
    logistic = LogisticRegression(C=100.0, max_iter=1000).fit(identity, sexes)
    years = np.full(len(identity), np.nan) if ages is None else ages
    known = np.isfinite(years)
    ridge = RidgeCV(np.logspace(-3, 3, 13)).fit(identity[known], years[known]) if known.sum() >= 10 else None

    def read_sex(z: Float[np.ndarray, "n dim"]) -> Shaped[np.ndarray, " n"]:
        return np.where(z.any(axis=1), logistic.predict(z), "")

    def read_age(z: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, " n"]:
        return np.where(z.any(axis=1), np.nan if ridge is None else ridge.predict(z), np.nan)

    return Probes(read_sex, read_age)


def failures(
    faces: Float[np.ndarray, "n dim"],
    real: Float[np.ndarray, "n dim"],
    mean_face: Float[np.ndarray, " dim"],
    probed: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    answered: Bool[np.ndarray, " n"] | None = None,
) -> list[dict[str, Any]]:
    """Kinds of failures of drawn faces, their frequency, and their frequency among real photographs (probes err too).

    Args:
        faces: f_arc of one drawn face a person; zero if none was detected.
        real: f_arc of one real photograph a person.
        mean_face: of the training persons; a face is collapsed if its cosine with it exceeds that of 95 % of real ones.
        probed: "sex", "age" (years), "skin tone" (0 to 1) → truth, and the probe's answers for drawn and real faces.
        answered: the persons to count; None means all.
    Returns:
        kind, n judged, count, share with its interval, the share among real photographs, and the worst examples.
    """
    kept = np.ones(len(faces), bool) if answered is None else answered
    seen = faces.any(axis=1)
    limit = float(np.quantile(real @ mean_face, COLLAPSED))
    # excess over the allowed value (above 0 is a failure) of drawn and of real faces, and the persons judged
    kinds = {
        "no face found": (1.0 - seen, 1.0 - real.any(axis=1), kept),
        "collapse to the mean face": (faces @ mean_face - limit, real @ mean_face - limit, kept & seen),
    }
    for name, (truth, *read) in probed.items():
        if name == "sex":
            beyond, known = [(side != truth).astype(float) for side in read], truth != ""
        else:
            beyond = [np.nan_to_num(np.abs(side - truth) - WRONG[name], nan=-1) for side in read]
            known = np.isfinite(truth)
        kinds[f"wrong {name}"] = (beyond[0], beyond[1], kept & seen & known)
    table = []
    for kind, (badness, real_badness, judged) in kinds.items():
        wrong = (badness > 0) & judged
        shares = (badness > 0)[judged].astype(float)
        value, low, high = bootstrap(shares) if len(shares) > 1 else (np.nan, np.nan, np.nan)
        worst = np.argsort(-np.where(wrong, badness, -np.inf), kind="stable")[: min(EXAMPLES, int(wrong.sum()))]
        share = {"value": value, "low": low, "high": high}
        row = {"kind": kind, "n": int(judged.sum()), "count": int(wrong.sum()), "share": share}
        row["real share"] = float((real_badness > 0)[judged].mean()) if judged.any() else float("nan")
        table.append(row | {"examples": worst.tolist()})
    return table
