"""Stage I measured on few persons: each person is tested by an aligner that was trained on other persons.

Persons are dealt into folds, within each sex. Those of a fold are the gallery, the others train and validate; then all
is dealt anew. A person's value is the mean over the deals, and the interval resamples persons. It leaves out that the
aligners share training persons: with few of them the truth is somewhat wider.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
from jaxtyping import Int
from torch.nn.functional import normalize
from tqdm import tqdm

from v2f_core.errors import InputError
from v2f_core.evaluation import controls, protocols, tables
from v2f_core.evaluation.systems import Faces, System
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.ridge import fit_ridge
from v2f_core.training.pairs import Pairs
from v2f_core.training.stage1 import Stage1Settings, train_stage1

FOLDS, SMALLEST = 5, 4  # how many folds, if each then has so many persons
RIDGE, RATIO = "ridge regression", "ridge, likelihood ratio"


def deal(sexes: Sequence[str], folds: int, seed: int) -> Int[np.ndarray, " persons"]:
    """The number of each person's fold: sizes differ by one at most, within each sex too."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(sexes))
    order = order[np.argsort(np.array(sexes)[order], kind="stable")]
    fold = np.empty(len(sexes), int)
    fold[order] = np.arange(len(sexes)) % folds
    return fold


def fold_count(persons: int) -> int:
    """How many folds so many persons are dealt into; too few for two are refused."""
    if persons < 2 * SMALLEST:
        few = f"{persons} person{'s' * (persons != 1)} with a usable voice and face: expected at least {2 * SMALLEST}"
        raise InputError(f"{few}; a fold compares persons with each other, and others train")
    return min(FOLDS, persons // SMALLEST)


def leave_out(pairs: Pairs, settings: Stage1Settings, deals: int = 4) -> pd.DataFrame:
    """The values of each person under Stage I, ridge regression, the controls and chance, as a tidy frame.

    The persons are dealt into folds ``deals`` times, the first time by Stage I's seed; fewer than eight are refused.
    """
    count, frames = fold_count(len(pairs.persons)), []
    for number, part in tqdm([*product(range(deals), range(count))], desc="folds", unit="fold"):
        here = deal(pairs.sexes, count, settings.seed + number) == part
        test, others = (pairs.only(np.flatnonzero(mask).tolist()) for mask in (here, ~here))
        aligner = _aligner_of(others, settings, number)
        galleries, gallery = protocols.galleries(test.sexes), Faces.of(test.gallery().numpy())
        predicted = controls.predictions(test, others, aligner, number) | ridge_rows(others, test)
        systems = [System(name, z) for name, z in predicted.items()]
        values = [tables.likeness(systems, gallery, test.persons, galleries), *_chance(test.persons, galleries)]
        frames += [frame.assign(draw=number) for frame in values]
    return pd.concat(frames, ignore_index=True)


def _aligner_of(persons: Pairs, settings: Stage1Settings, number: int) -> Aligner:
    """An aligner trained on some persons, of whom a part validates.

    Where the ridge regression that it started from was kept, it is fitted again to all of them: its λ needs no others.
    """
    part = deal(persons.sexes, min(FOLDS, len(persons.persons) // 2), number)
    training, validation = (persons.only(np.flatnonzero(mask).tolist()) for mask in (part > 0, part == 0))
    with tempfile.TemporaryDirectory() as scratch:
        aligner = train_stage1(training, validation, replace(settings, seed=settings.seed + number), scratch, {})
    if settings.linear_start and aligner.provenance.get("step") == 0:
        aligner.start_from(fit_ridge(persons.pooled_voices(), persons.centroids()).ratio)
    return aligner


def ridge_rows(training: Pairs, test: Pairs) -> dict[str, np.ndarray]:
    """What ridge regression predicts for other persons: the mean face, and what ranks as the likelihood ratio does."""
    ridge, voices = fit_ridge(training.pooled_voices(), training.centroids()), test.pooled_voices()
    return {name: normalize(line(voices), dim=1).numpy() for name, line in ((RIDGE, ridge.mean), (RATIO, ridge.ratio))}


def folds_table(tidy: pd.DataFrame) -> pd.DataFrame:
    """The wide table of :func:`leave_out`, each row against ridge regression by likelihood ratio."""
    rows = tidy[(tidy.metric != tables.RANK) & (tidy.by == tables.BY_Z)]
    table = tables.wide(tables.summarise(rows, against=RATIO)).drop(columns="by")
    ends = table.columns[table.columns.str.contains(" low| high| gain")]
    table.loc[table.system == "chance", ends] = np.nan
    return table


def _chance(persons: Sequence[str], galleries: Mapping[str, np.ndarray]) -> Iterator[pd.DataFrame]:
    for where, labels in galleries.items():
        size = (labels[:, None] == labels).sum(axis=1)
        values = {tables.MATCHING: 0 * size + 0.5} | {f"R@{k}": np.minimum(1, k / size) for k in tables.KS}
        yield tables.tidy_rows({"gallery": where, "by": tables.BY_Z, "system": "chance"}, values, persons, labels)
