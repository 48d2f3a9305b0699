"""Labels, groups, probes on identities that hold sex and age by construction, and failures counted by hand."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from v2f_core.errors import InputError
from v2f_core.evaluation.attributes import AGE, TONE, attributes, failures, fit_probes, read_labels, truth_of


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def world(n, seed=0, noise=0.3):
    """Unit identities of 12 numbers: the first tells sex, the second age, the rest is the person."""
    g = np.random.default_rng(seed)
    women, ages = g.random(n) < 0.5, g.uniform(18, 80, n)
    z = np.hstack([np.where(women, 1, -1)[:, None], (ages[:, None] - 49) / 18, noise * g.standard_normal((n, 10))])
    return unit(z), np.where(women, "f", "m"), ages


# --- labels and groups


def test_labels_that_are_not_there_are_unknown_and_not_guessed(tmp_path):
    (tmp_path / "l.csv").write_text("person,age,skin tone\nAda,25,0.1\nBea,50,\nCoe,70,0.9\n")
    labels = read_labels(tmp_path / "l.csv")
    np.testing.assert_array_equal(truth_of(labels, ["Bea", "Nobody", "Ada"], AGE), [50, np.nan, 25])
    np.testing.assert_array_equal(truth_of(pd.DataFrame(), ["Ada"], AGE), [np.nan])
    table = attributes(labels, ["Ada", "Bea", "Dee"], np.array(["f", "f", "m"]), ["Ada", "Coe"])
    assert table["sex"].tolist() == ["women", "women", "men"]
    assert table["age band"].tolist() == ["under 30", "45 to 59", ""]
    assert table[TONE].tolist() == ["light", "", ""]
    assert attributes(pd.DataFrame(), ["Ada"], np.array([""]), ["Coe"]).sex.tolist() == [""]


@pytest.mark.parametrize(
    "text", ["age\n3\n", "person,age\nAda,old\n", "person,height\nAda,3\n", "person,age\nA,1\nA,2\n"]
)
def test_labels_that_make_no_sense_are_refused(text, tmp_path):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(InputError, match=r"l\.csv"):
        read_labels(tmp_path / "l.csv")


# --- probes


def test_probes_are_scikit_learns_and_read_other_persons():
    z, sexes, ages = world(200, seed=1)
    train, train_sexes, train_ages = world(400)
    probes = fit_probes(train, train_sexes, train_ages)
    assert (probes.sex(z) == sexes).mean() > 0.98
    assert (probes.sex(z) == LogisticRegression(C=100.0, max_iter=1000).fit(train, train_sexes).predict(z)).all()
    off = np.abs(probes.age(z) - ages).mean()
    assert off == pytest.approx(np.abs(Ridge(0.1).fit(train, train_ages).predict(z) - ages).mean(), rel=0.1)
    assert off < 0.5 * np.abs(ages - train_ages.mean()).mean()


def test_sex_cannot_be_learned_from_one_sex_or_from_no_face():
    z, sexes, _ = world(20)
    with pytest.raises(InputError, match="row 4 is an undetected face"):
        fit_probes(np.where(np.arange(20)[:, None] == 4, 0, z), sexes)
    with pytest.raises(InputError, match=r"\['f'\]: expected persons of both"):
        fit_probes(z, np.full(20, "f"))


# --- failures


def test_failures_are_counted_against_real_photographs():
    g = np.random.default_rng(0)
    mean = unit(g.normal(size=(1, 16)))[0]
    real = unit(g.normal(size=(40, 16)) + mean)
    drawn = real.copy()
    drawn[0] = 0  # no face
    drawn[1] = drawn[2] = mean  # collapsed
    sex = np.array(["f", "m"] * 20)
    heard = sex.copy()
    heard[[0, 5, 6]] = ["m", "f", "m"]  # the first has no face to judge
    age = np.full(40, 40.0)
    age[39] = np.nan
    probed = {"sex": (sex, heard, sex), "age": (age, age + np.where(np.arange(40) == 7, 30, 1), age + 1)}
    kinds = {kind["kind"]: kind for kind in failures(drawn, real, mean, probed)}
    assert kinds["no face found"]["examples"] == [0]
    assert (kinds["wrong sex"]["count"], kinds["wrong sex"]["n"], kinds["wrong sex"]["real share"]) == (2, 39, 0)
    assert (kinds["wrong age"]["examples"], kinds["wrong age"]["n"]) == ([7], 38)
    assert {1, 2} <= set(kinds["collapse to the mean face"]["examples"])
    assert kinds["collapse to the mean face"]["real share"] == pytest.approx(2 / 39, abs=0.03)
    share = kinds["wrong sex"]["share"]
    assert share["low"] < share["value"] < share["high"]
    assert share["value"] == pytest.approx(2 / 39)


def test_a_tone_on_an_edge_belongs_to_the_third_below():
    tones = [0.0, 1.0, 2.0, 3.0]  # of the training persons; their thirds end at 1 and 2
    labels = pd.DataFrame({TONE: [*tones, 1.0, 2.0]}, index=["a", "b", "c", "d", "Ada", "Bo"])
    groups = attributes(labels, ["Ada", "Bo"], np.array(["f", "m"]), ["a", "b", "c", "d"])
    assert groups[TONE].tolist() == ["light", "medium"]
