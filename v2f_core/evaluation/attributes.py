"""Does a face have the sex and the age of the voice's owner? Read off identities by probes, stratum by stratum.

The probes are linear, and are fitted on training persons' real photographs; they are then applied to what they have
not seen: predicted identities, or f_arc of generated faces. They err on real test photographs too: give the table of
these beside, since nothing generated can be read better. An identity pulled towards the mean face (a cautious ẑ) is
read as of middle age.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from v2f_core.errors import InputError
from v2f_core.evaluation.intervals import bootstrap

if TYPE_CHECKING:
    import pandas as pd

AGE_EDGES = (18.0, 30.0, 45.0, 60.0, 80.0)
ALL = "all"


@dataclass(frozen=True)
class Probes:
    """Readers of identities; see :func:`fit_probes`.

    Attributes:
        sex: identities → "f" or "m", and "" of an undetected face (a zero vector).
        age: identities → years, and NaN of an undetected face; None where no ages were known.
        mean_age: of the persons fitted on, which is what a reader without a face would say; NaN without ages.
    """

    sex: Callable[[Float[np.ndarray, "n dim"]], Shaped[np.ndarray, " n"]]
    age: Callable[[Float[np.ndarray, "n dim"]], Float[np.ndarray, " n"]] | None
    mean_age: float


def fit_probes(
    identity: Float[np.ndarray, "n dim"],
    sexes: Shaped[np.ndarray, " n"],
    ages: Float[np.ndarray, " n"] | None = None,
) -> Probes:
    """Logistic regression for sex and ridge regression for age, from real identities of *training* persons.

    Args:
        identity: unit, best one row a person (``Pairs.centroids``): the ridge's penalty is chosen by leaving rows out.
        sexes: "f" or "m".
        ages: years, NaN where not known.
    Raises:
        InputError: one sex only, an undetected face among the rows, or fewer than ten known ages.

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

    def read_sex(z: Float[np.ndarray, "n dim"]) -> Shaped[np.ndarray, " n"]:
        return np.where(z.any(axis=1), logistic.predict(z), "")

    if ages is None:
        return Probes(read_sex, None, float("nan"))
    known = np.isfinite(ages)
    if known.sum() < 10:
        raise InputError(f"{known.sum()} known ages: expected at least 10 to learn age from")
    ridge = RidgeCV(np.logspace(-3, 3, 13)).fit(identity[known], ages[known])

    def read_age(z: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, " n"]:
        return np.where(z.any(axis=1), ridge.predict(z), np.nan)

    return Probes(read_sex, read_age, float(ages[known].mean()))


def agreement(
    probes: Probes,
    identity: Float[np.ndarray, "n dim"],
    sexes: Shaped[np.ndarray, " n"],
    ages: Float[np.ndarray, " n"] | None = None,
    strata: Mapping[str, pd.Categorical] | None = None,
    resamples: int = 2000,
) -> pd.DataFrame:
    """How often sex agrees, and by how many years age is off: over all, and within each stratum.

    An undetected face agrees with no sex. It has no age, nor has a person of unknown age: both are left out of the age
    error and counted (``undetected``, ``age unknown``). Strata with nobody in them have their row, with n = 0.

    Args:
        probes: fitted on other persons.
        identity: predicted identities or f_arc of generated faces, a row a person; zero where no face was found.
        sexes, ages: the truth; an age may be NaN.
        strata: name → the stratum of each person (:func:`strata_of`), whose levels include the empty ones.
        resamples: of the bootstrap over persons.
    Returns:
        a row a stratum: by, level, n, undetected; "sex agreement" with low and high; "age error" (years, mean absolute)
        with low and high, n of it, and "age error, mean age" of always saying the training persons' mean age.

    Example:
        >>> z = np.random.default_rng(0).standard_normal((40, 4)); sexes = np.where(z[:, 0] > 0, "f", "m")
        >>> table = agreement(fit_probes(z, sexes), z, sexes, strata={"sex": strata_of(sexes, ["f", "m", "x"])})
        >>> table[["by", "level", "n", "sex agreement"]].values.tolist()
        [['all', 'all', 40, 1.0], ['sex', 'f', 19, 1.0], ['sex', 'm', 21, 1.0], ['sex', 'x', 0, nan]]
    """
    import pandas as pd

    n = len(identity)
    lengths = {len(sexes), n if ages is None else len(ages), *(len(column) for column in (strata or {}).values())}
    if lengths != {n}:
        raise InputError(f"{n} identities, but truth or strata of {sorted(lengths)}: expected one each")
    agrees = (probes.sex(identity) == sexes).astype(np.float64)
    off, baseline = np.full((2, n), np.nan)
    if ages is not None and probes.age is not None:
        off, baseline = np.abs(probes.age(identity) - ages), np.abs(probes.mean_age - ages)
    lost = np.linalg.norm(identity, axis=1) == 0
    unknown = np.full(n, True) if ages is None else ~np.isfinite(ages)

    parts: list[tuple[str, str, Bool[np.ndarray, " n"]]] = [(ALL, ALL, np.full(n, True))]
    for by, column in (strata or {}).items():
        parts += [(by, str(level), np.asarray(column == level)) for level in column.categories]
    rows = []
    for by, level, of in parts:
        row: dict[str, Any] = {"by": by, "level": level, "n": int(of.sum()), "undetected": int(lost[of].sum())}
        row |= {"age unknown": int(unknown[of].sum())}
        row |= _columns("sex agreement", agrees[of], resamples)
        row |= _columns("age error", off[of & np.isfinite(off)], resamples)
        row |= {"age error n": int((of & np.isfinite(off)).sum())}
        row |= {"age error, mean age": _mean(baseline[of & np.isfinite(off)])}
        rows.append(row)
    return pd.DataFrame(rows)


def strata_of(labels: Sequence[str] | Shaped[np.ndarray, " n"], levels: Sequence[str] | None = None) -> pd.Categorical:
    """Labels as strata, with all levels that there could be; a label that is none of them belongs to no stratum.

    Example:
        >>> strata_of(["f", "f"], ["f", "m"]).categories.tolist()
        ['f', 'm']
    """
    import pandas as pd

    values = [str(label) for label in labels]
    levels = sorted(set(values)) if levels is None else list(levels)
    return pd.Categorical([value if value in levels else None for value in values], levels)


def age_bands(ages: Float[np.ndarray, " n"], edges: Sequence[float] = AGE_EDGES) -> pd.Categorical:
    """Age bands as strata, lower edge included, upper not; ages outside, and NaN, belong to none.

    Example:
        >>> list(age_bands(np.array([18.0, 45.0, np.nan]))), age_bands(np.array([50.0])).categories.tolist()
        (['18-30', '45-60', nan], ['18-30', '30-45', '45-60', '60-80'])
    """
    import pandas as pd

    names = [f"{low:g}-{high:g}" for low, high in pairwise(edges)]
    return pd.cut(ages, list(edges), right=False, labels=names)


def _columns(name: str, values: Float[np.ndarray, " n"], resamples: int) -> dict[str, float]:
    if len(values) < 2:
        return {name: _mean(values), f"{name} low": np.nan, f"{name} high": np.nan}
    found = bootstrap(values, resamples=resamples)
    return {name: found.value, f"{name} low": found.low, f"{name} high": found.high}


def _mean(values: Float[np.ndarray, " n"]) -> float:
    return float(values.mean()) if len(values) else float("nan")
