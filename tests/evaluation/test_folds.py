"""Folds of persons: everybody is tested, by an aligner that never met them; ridge regression stands beside it."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from v2f_core.errors import InputError
from v2f_core.evaluation.folds import RATIO, RIDGE, deal, fold_count, folds_table, leave_out, ridge_rows
from v2f_core.evaluation.metrics import matching
from v2f_core.evaluation.tables import MATCHING
from v2f_core.training.pairs import Pairs
from v2f_core.training.stage1 import Stage1Settings

SETTINGS = Stage1Settings(steps=1, hidden_width=8, weight_am=0.0, temperature=0.2, linear_start=True)


def world(persons, sexes="fm", told=1.0, width=8):
    """Voices that tell a share of a face of 6 numbers, around a common mean."""
    g = torch.Generator().manual_seed(0)
    voices = torch.randn(persons, width, generator=g)
    faces = told * voices[:, :6] + torch.randn(persons, 6, generator=g) + 3
    start = torch.arange(persons + 1)
    sex = [sexes[i % len(sexes)] for i in range(persons)]
    return Pairs([f"P{i:02d}" for i in range(persons)], sex, voices, start, normalize(faces, dim=1), start)


@pytest.mark.parametrize(("sexes", "folds"), [("fm", 2), ("fffm", 5), ("u", 3)])
def test_persons_are_dealt_evenly_within_each_sex(sexes, folds):
    kinds = [sexes[i % len(sexes)] for i in range(23)]
    fold = deal(kinds, folds, seed=1)
    for sex in (set(kinds), *({sex} for sex in kinds)):
        sizes = np.bincount(fold[[kind in sex for kind in kinds]], minlength=folds)
        assert sizes.max() - sizes.min() <= 1
    assert not np.array_equal(fold, deal(kinds, folds, seed=2))


def test_everybody_is_tested_and_nobody_by_an_aligner_that_met_them():
    """Long voices that tell nothing: whom an aligner has met it recognises, and others it does not."""
    pairs = world(12, told=0.0, width=64)
    met = ridge_rows(pairs, pairs)[RATIO] @ pairs.gallery().numpy().T
    assert matching(met).mean() > 0.9
    tidy = leave_out(pairs, SETTINGS, deals=2)
    tested = tidy[(tidy.system == "full") & (tidy.metric == MATCHING) & (tidy.gallery == "all")]
    assert tested.groupby("draw").person.apply(sorted).tolist() == [pairs.persons] * 2
    assert 0.2 < tested.value.mean() < 0.8
    table = folds_table(tidy).set_index(["system", "gallery"])
    assert (table.loc["full", f"{MATCHING} gain"] == 0).all()  # so few persons keep the ridge regression of the others
    chance = table.loc["chance"]
    assert chance["R@1"].to_dict() == pytest.approx({"all": 1 / 4, "within sex": 1 / 2})
    assert chance[["R@1 low", "R@1 gain"]].isna().all(axis=None)


def test_what_is_told_is_found():
    table = folds_table(leave_out(world(16, told=3.0), SETTINGS, deals=1)).set_index(["gallery", "system"]).loc["all"]
    assert table.loc[["full", RATIO], MATCHING].min() > 0.75
    assert table.loc["shuffled voice", MATCHING] == pytest.approx(0.5, abs=0.2)
    assert table.loc[RIDGE, "n"] == 16


def test_sexes_that_are_not_known_and_one_man_among_women():
    table = folds_table(leave_out(world(10, "u"), SETTINGS, deals=1))
    parts = [part.drop(columns="gallery").reset_index(drop=True) for _, part in table.groupby("gallery")]
    assert len(parts) == 2
    assert parts[0].equals(parts[1])  # within the sex is among all
    pairs = world(9)
    pairs.sexes[:] = ["m", *["f"] * 8]
    tidy = leave_out(pairs, SETTINGS, deals=1)
    assert set(tidy[tidy.gallery == "within sex"].person) == set(pairs.persons[1:])


@pytest.mark.parametrize(("persons", "message"), [(1, "1 person with"), (7, "7 persons with")])
def test_too_few_are_named(persons, message):
    with pytest.raises(InputError, match=message):
        fold_count(persons)
