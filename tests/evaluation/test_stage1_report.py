"""The Stage I table: its baselines are what they say, its skills are 0 and 1 where they must be."""

import numpy as np
import pandas as pd
import pytest
import torch

from v2f_core.evaluation import stage1_report
from v2f_core.evaluation.stage1_report import ALL, WITHIN, Ceiling
from v2f_core.identity.sphere import normalise
from v2f_core.training.pairs import Pairs

SEXES = np.array(["f", "m"] * 20)


def unit(x):
    return normalise(torch.from_numpy(x)).numpy().astype(np.float32)


@pytest.fixture(scope="module")
def truth():
    """40 persons around their sex's mean, both around a common one."""
    g = np.random.default_rng(0)
    common, sex = 2 * g.normal(size=16), g.normal(size=16)
    return unit(common + np.where(SEXES == "f", 1, -1)[:, None] * sex + g.normal(size=(40, 16)))


@pytest.fixture(scope="module")
def table(truth):
    women = (SEXES == "f")[:, None]
    means = np.where(women, truth[women[:, 0]].mean(0), truth[~women[:, 0]].mean(0))
    systems = {
        "mean face": unit(np.tile(truth.mean(0), (40, 1))),
        "same-sex mean face": unit(means),
        "perfect": truth,
    }
    ceilings = {ALL: Ceiling(1.0, 1.0, 1.0), WITHIN: Ceiling(1.0, 1.0, 1.0)}
    return stage1_report.report(systems, truth, SEXES, ceilings, resamples=300).set_index(["gallery", "system"])


def test_a_perfect_prediction_has_skill_1_and_no_doubt(table):
    for gallery in (ALL, WITHIN):
        row = table.loc[gallery, "perfect"]
        for measure in ("cosine", "R@1", "R@10", "1:2 matching", "skill, cosine", "skill, R@10"):
            assert row[measure] == pytest.approx(1, abs=1e-6)
        assert row["R@10 low"] == row["R@10 high"] == 1


def test_the_mean_face_has_no_skill_and_is_retrieved_never(table):
    assert table.loc[ALL, "mean face"]["skill, cosine"] == pytest.approx(0, abs=1e-9)
    assert table.loc[WITHIN, "same-sex mean face"]["skill, cosine"] == pytest.approx(0, abs=1e-9)
    assert table.loc[WITHIN, "mean face"]["skill, cosine"] < 0
    assert table.loc[ALL, "mean face"]["R@1"] <= 0.05


def test_hearing_sex_alone_helps_over_all_and_not_within_sex(table):
    assert table.loc[ALL, "same-sex mean face"]["1:2 matching"] > 0.6
    assert table.loc[WITHIN, "same-sex mean face"]["1:2 matching"] == pytest.approx(0.5, abs=0.06)


def test_what_ranks_without_an_identity_has_no_cosine_and_the_same_recall(truth, table):
    means = dict.fromkeys(("mean face", "same-sex mean face"), truth)
    found = stage1_report.report(means, truth, SEXES, resamples=50, ranked={"by scores": truth @ truth.T})
    row = found.set_index(["gallery", "system"]).loc[WITHIN, "by scores"]
    assert row["R@1"] == row["R@10"] == row["1:2 matching"] == 1
    assert np.isnan(row["cosine"])


def test_chance_and_gallery_sizes_stand_beside(table):
    assert table.loc[ALL, "chance"]["R@10"] == 10 / 40
    assert table.loc[WITHIN, "chance"]["R@10"] == 10 / 20
    assert table.loc[WITHIN, "ceiling"]["R@10"] == 1
    assert table.loc[ALL, "perfect"]["gallery size"] == 40
    assert table.loc[WITHIN, "perfect"]["gallery size"] == 20


def test_the_baselines_are_what_they_are_called(truth):
    pairs = Pairs(
        persons=[f"P{i}" for i in range(40)],
        sexes=SEXES.tolist(),
        voice=torch.arange(40.0)[:, None].expand(-1, 16).clone(),
        voice_start=torch.arange(41),
        face=torch.from_numpy(truth),
        face_start=torch.arange(41),
    )

    def aligner(voice):  # says which voice it heard
        return torch.from_numpy(truth)[voice[:, 0].long()]

    systems = stage1_report.predictions(pairs, pairs, aligner)
    np.testing.assert_array_equal(systems["full"], truth)
    assert not (systems["shuffled voice"] == truth).all(axis=1).any()
    assert sorted(map(tuple, systems["shuffled voice"])) == sorted(map(tuple, truth))
    assert len(np.unique(systems["mean face"], axis=0)) == 1
    np.testing.assert_allclose(systems["same-sex mean face"][1], unit(truth[SEXES == "m"].mean(0)[None])[0], atol=1e-6)


@pytest.mark.parametrize("n", [2, 3, 50])
def test_a_derangement_leaves_nobody_in_place_and_is_repeatable(n):
    order = stage1_report.derangement(n, seed=1)
    assert sorted(order) == list(range(n))
    assert not (order == np.arange(n)).any()
    assert (order == stage1_report.derangement(n, seed=1)).all()


def test_the_saved_table_reads_back(table, tmp_path):
    stage1_report.save(table.reset_index(), tmp_path)
    back = pd.read_csv(tmp_path / "stage1.csv").set_index(["gallery", "system"])
    assert back.loc[ALL, "perfect"]["R@10"] == 1
    text = (tmp_path / "stage1.md").read_text()
    assert "Gallery: within sex (20 faces)" in text
    assert "| perfect | 1.000 [1.000, 1.000] |" in text
