"""Probes on identities that hold sex and age by construction; agreement counted by hand; nobody lost in the strata."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from v2f_core.errors import InputError
from v2f_core.evaluation.attributes import age_bands, agreement, fit_probes, strata_of


def world(n, seed=0, noise=0.3):
    """Unit identities of 12 numbers: the first tells sex, the second age, the rest is the person."""
    g = np.random.default_rng(seed)
    women, ages = g.random(n) < 0.5, g.uniform(18, 80, n)
    z = np.hstack([np.where(women, 1, -1)[:, None], (ages[:, None] - 49) / 18, noise * g.standard_normal((n, 10))])
    return z / np.linalg.norm(z, axis=1, keepdims=True), np.where(women, "f", "m"), ages


@pytest.fixture(scope="module")
def probes():
    return fit_probes(*world(400))


def test_probes_are_scikit_learns_and_read_other_persons(probes):
    z, sexes, ages = world(200, seed=1)
    train, train_sexes, train_ages = world(400)
    assert (probes.sex(z) == sexes).mean() > 0.98
    assert (probes.sex(z) == LogisticRegression(C=100.0, max_iter=1000).fit(train, train_sexes).predict(z)).all()
    off = np.abs(probes.age(z) - ages).mean()
    assert off == pytest.approx(np.abs(Ridge(0.1).fit(train, train_ages).predict(z) - ages).mean(), rel=0.1)
    assert off < 0.5 * np.abs(ages - probes.mean_age).mean()


def test_identities_that_tell_nothing_are_read_at_chance(probes):
    _, sexes, ages = world(600, seed=2)
    z = world(600, seed=3)[0]  # other persons
    table = agreement(probes, z, sexes, ages).iloc[0]
    assert table["sex agreement low"] < 0.5 < table["sex agreement high"]
    assert table["age error"] > table["age error, mean age"] > 12


def test_agreement_by_strata_is_counted_by_hand(probes):
    z, sexes, ages = world(60, seed=4)
    z[:3] = 0
    ages[3] = np.nan
    bands = age_bands(ages, (18.0, 50.0, 80.0, 100.0))
    table = agreement(probes, z, sexes, ages, {"sex": strata_of(sexes, ["f", "m"]), "age": bands}, resamples=50)
    assert table.level.tolist() == ["all", "f", "m", "18-50", "50-80", "80-100"]
    members = {
        "all": np.full(60, True),
        "f": sexes == "f",
        "m": sexes == "m",
        "18-50": (ages >= 18) & (ages < 50),
        "50-80": (ages >= 50) & (ages < 80),
        "80-100": np.full(60, False),
    }
    for row in table.to_dict("records"):
        of = members[row["level"]]
        hits = [probes.sex(z[i : i + 1])[0] == sexes[i] for i in np.flatnonzero(of)]
        years = [abs(probes.age(z[i : i + 1])[0] - ages[i]) for i in np.flatnonzero(of) if i > 3]
        guessed = [abs(probes.mean_age - ages[i]) for i in np.flatnonzero(of) if i > 3]
        assert (row["n"], row["undetected"], row["age unknown"]) == (of.sum(), of[:3].sum(), of[3])
        assert row["age error n"] == len(years)
        if of.any():
            assert row["sex agreement"] == pytest.approx(np.mean(hits))
            assert row["age error"] == pytest.approx(np.mean(years))
            assert row["age error, mean age"] == pytest.approx(np.mean(guessed))
            assert row["sex agreement low"] <= row["sex agreement"] <= row["sex agreement high"]
    assert table.n.iloc[-1] == 0
    assert np.isnan(table["sex agreement"].iloc[-1])


def test_an_undetected_face_has_no_sex_and_no_age(probes):
    lost = np.zeros((2, 12))
    assert probes.sex(lost).tolist() == ["", ""]
    assert np.isnan(probes.age(lost)).all()
    assert agreement(probes, lost, np.array(["f", "m"]))["sex agreement"].tolist() == [0]


def test_without_ages_there_is_no_age_error():
    z, sexes, _ = world(50)
    row = agreement(fit_probes(z, sexes), z, sexes, resamples=50).iloc[0]
    assert np.isnan(row["age error"])
    assert (row["age error n"], row["age unknown"]) == (0, 50)


def test_labels_outside_the_levels_belong_to_no_stratum():
    assert strata_of(["f", "", "m"], ["m", "f"]).codes.tolist() == [1, -1, 0]
    assert age_bands(np.array([17.9, 18.0, 30.0, 79.9, 80.0, np.nan])).codes.tolist() == [-1, 0, 1, 3, -1, -1]


def test_what_cannot_be_learned_is_refused(probes):
    z, sexes, _ = world(20)
    with pytest.raises(InputError, match="row 4 is an undetected face"):
        fit_probes(np.where(np.arange(20)[:, None] == 4, 0, z), sexes)
    with pytest.raises(InputError, match=r"\['f'\]: expected persons of both"):
        fit_probes(z, np.full(20, "f"))
    with pytest.raises(InputError, match="0 known ages"):
        fit_probes(z, sexes, np.full(20, np.nan))
    with pytest.raises(InputError, match="20 identities, but truth or strata of"):
        agreement(probes, z, sexes, strata={"sex": strata_of(["f"])})
