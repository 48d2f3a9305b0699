"""The tables over systems: each number against a loop; misses are counted; small galleries, empty groups not hidden."""

import numpy as np
import pandas as pd
import pytest

from minivox.ceilings import rank_curve
from v2f_core.errors import InputError
from v2f_core.evaluation import exhibits, metrics, person_values, tables
from v2f_core.evaluation.scorer import Faces
from v2f_core.evaluation.stage1_report import ALL, WITHIN, Ceiling
from v2f_core.evaluation.systems import System

N = 24
SEXES = np.array(["f", "m"] * (N // 2))
PERSONS = [f"P{i:02d}" for i in range(N)]


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def faces(identities, seed=0, judged=True):
    g, n = np.random.default_rng(seed), len(identities)
    posteriors = g.dirichlet(np.ones(6), n).astype(np.float32) if judged else np.zeros((n, 0), np.float32)
    features = unit(g.normal(size=(n, 9)) + 3) if judged else np.zeros((n, 0), np.float32)
    return Faces(identities, posteriors, features, [None] * n)


@pytest.fixture(scope="module")
def gallery():
    return faces(unit(np.random.default_rng(0).normal(size=(N, 512))))


@pytest.fixture(scope="module")
def systems(gallery):
    truth, g = gallery.identities, np.random.default_rng(1)
    noisy = [faces(unit(truth + 0.1 * g.normal(size=truth.shape)), seed) for seed in (1, 2)]
    lost = noisy[0].identities.copy()
    lost[:3] = 0
    asked = np.arange(N) >= 4
    mean = np.repeat(unit(truth.mean(0)[None]), N, axis=0)
    return {
        "mean face": System("mean face", "", mean),
        "noisy": System("noisy", "", noisy[0].identities, tuple(noisy)),
        "lossy": System("lossy", "", None, (faces(lost, 3),)),
        "some": System("some", "", None, (noisy[0],), asked),
        "shuffled": System("shuffled", "", truth, shuffles=np.stack([np.roll(np.arange(N), k) for k in (1, 2, 3)])),
    }


@pytest.fixture(scope="module")
def table(systems, gallery):
    reference = {ALL: systems["mean face"], WITHIN: systems["mean face"]}
    best = {ALL: Ceiling(1.0, 1.0, 1.0), WITHIN: Ceiling(1.0, 1.0, 1.0)}
    found = tables.likeness(systems.values(), gallery, person_values.protocols(PERSONS, SEXES), reference, best, 200)
    return found.set_index(["gallery", "by", "system"])


def test_draws_are_averaged_before_persons(table, systems, gallery):
    expected = [metrics.cosine(draw.identities, gallery.identities).mean() for draw in systems["noisy"].faces]
    row = table.loc[ALL, "face", "noisy"]
    assert row["cosine"] == pytest.approx(np.mean(expected))
    assert row["draws"] == 2
    assert row["cosine low"] < row["cosine"] < row["cosine high"]


def test_an_undetected_face_is_a_miss_that_counts(table, systems, gallery):
    row = table.loc[ALL, "face", "lossy"]
    kept = metrics.cosine(systems["noisy"].faces[0].identities, gallery.identities)[3:]
    assert row["cosine"] == pytest.approx(kept.sum() / N)
    assert row["n"] == N
    assert row["R@1"] <= 1 - 3 / N


def test_persons_who_are_not_asked_are_queries_no_more_but_stay_in_the_gallery(table, systems, gallery):
    row = table.loc[ALL, "face", "some"]
    values = metrics.cosine(systems["noisy"].faces[0].identities, gallery.identities)
    assert row["n"] == N - 4
    assert row["cosine"] == pytest.approx(values[4:].mean())
    assert row["gallery size"] == N


def test_within_sex_is_a_loop_over_two_galleries(table, systems, gallery):
    scores = metrics.score_matrix(systems["noisy"].predicted, gallery.identities)
    parts = [metrics.matching(scores[np.ix_(s == SEXES, s == SEXES)]).mean() for s in "fm"]
    assert table.loc[WITHIN, "ẑ", "noisy"]["1:2 matching"] == pytest.approx(np.mean(parts))
    assert table.loc[WITHIN, "ẑ", "noisy"]["gallery size"] == N // 2


def test_shuffles_are_averaged(table, systems, gallery):
    truth = gallery.identities
    scores = metrics.score_matrix(truth, truth)
    expected = np.mean([metrics.recall(scores[order], 5).mean() for order in systems["shuffled"].shuffles])
    assert table.loc[ALL, "ẑ", "shuffled"]["R@5"] == pytest.approx(expected)


def test_skill_is_0_for_the_reference_and_near_1_for_the_best(table):
    assert table.loc[ALL, "ẑ", "mean face"]["skill, cosine"] == pytest.approx(0, abs=1e-6)
    assert table.loc[ALL, "ẑ", "noisy"]["skill, R@10"] == pytest.approx(1)


def test_the_second_scorer_ranks_but_shows_no_cosine(table):
    row = table.loc[ALL, "second scorer", "noisy"]
    assert np.isnan(row["cosine"])
    assert 0 <= row["1:2 matching"] <= 1


def test_measures_that_a_gallery_is_too_small_for_are_left_out(gallery):
    few = Faces(gallery.identities[:8], gallery.posteriors[:8], gallery.features[:8], [None] * 8)
    system = System("x", "", few.identities)
    found = tables.likeness([system], few, person_values.protocols(PERSONS[:8], SEXES[:8]), {}, resamples=50)
    assert "R@5" in found.columns
    assert "R@10" not in found.columns
    assert np.isnan(found.set_index("gallery").loc[WITHIN, "R@5"])
    with pytest.raises(InputError):
        person_values.protocols(PERSONS[:1], SEXES[:1])


def test_300_persons_bring_sf2f_s_galleries():
    persons = [f"P{i:03d}" for i in range(310)]
    found = person_values.protocols(persons, np.array(["f", "m"] * 155))
    assert [protocol.name for protocol in found] == [ALL, WITHIN, "SF2F 3x100"]
    truth = unit(np.random.default_rng(0).normal(size=(310, 8)))
    values = person_values.person_values([truth], truth, found[2])["R@1"]
    assert np.isnan(values[300:]).all()
    assert (values[:300] == 1).all()


def test_sets_have_their_size_and_their_misses_beside_them(systems, gallery):
    found = tables.sets(systems.values(), gallery).set_index("system")
    assert "shuffled" not in found.index
    assert found.loc["lossy", "undetected"] == 3
    assert found.loc["noisy", "images"] == 2 * N
    assert found.loc["noisy", "VFS images"] == 2 * N // 5
    posteriors = np.concatenate([draw.posteriors for draw in systems["noisy"].faces])
    assert found.loc["noisy", "VFS"] == pytest.approx(metrics.vfs(posteriors).value)
    assert found.loc["some", "images"] == N - 4
    assert np.isfinite(found.loc["noisy", ["kernel distance", "Fréchet distance", "diversity"]].astype(float)).all()
    blind = System("x", "", None, (faces(gallery.identities, judged=False),))
    assert "VFS" not in tables.sets([blind], gallery).columns


def test_groups_are_those_of_the_labels_with_empty_and_small_ones_shown(systems, gallery):
    ages = pd.Categorical(["young"] * 20 + ["old"] * 3 + [""], ["young", "middle", "old", ""])
    found = tables.fairness([systems["noisy"]], gallery, pd.DataFrame({"age": ages}), 100)
    by_face = found[found.by == "face"].set_index("group")
    assert by_face.n.to_dict() == {"young": 20, "middle": 0, "old": 3}
    assert by_face.few.to_dict() == {"young": False, "middle": True, "old": True}
    draws = [metrics.cosine(draw.identities, gallery.identities)[:20] for draw in systems["noisy"].faces]
    assert by_face.loc["young", "cosine"] == pytest.approx(np.mean(draws))
    assert np.isnan(by_face.loc["middle", "cosine"])
    assert np.isnan(by_face.loc["old", "VFS"])
    assert by_face.loc["young", "VFS images"] == 20


def test_a_rank_curve_ends_at_1_and_meets_the_recalls(systems, gallery):
    all_of_them = person_values.protocols(PERSONS, SEXES)[0]
    curve = exhibits.rank_curve([systems["noisy"].predicted], gallery.identities, all_of_them)
    scores = metrics.score_matrix(systems["noisy"].predicted, gallery.identities)
    assert curve[-1] == 1
    assert curve[4] == pytest.approx(metrics.recall(scores, 5).mean(), abs=1e-5)


def test_the_ceiling_s_curve_of_blind_guesses_is_chance():
    scores = np.random.default_rng(0).normal(size=(800, 800))
    found = rank_curve(scores, np.zeros(800, int), 20)
    np.testing.assert_allclose(found["value"], np.arange(1, 21) / 20, atol=0.06)
    assert all(low <= v <= high for low, v, high in zip(found["low"], found["value"], found["high"], strict=True))


def test_exhibits_are_chosen_by_rank():
    values = np.arange(30.0)
    found = exhibits.by_rank(values, 4)
    assert found == {"best": [29, 28, 27, 26], "median": [16, 15, 14, 13], "worst": [3, 2, 1, 0]}
    assert {len(rows) for rows in exhibits.by_rank(values[:5]).values()} == {1}


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
    found = {kind["kind"]: kind for kind in exhibits.failures(drawn, real, mean, probed)}
    assert found["no face found"]["examples"] == [0]
    assert found["wrong sex"]["count"] == 2
    assert found["wrong sex"]["n"] == 39
    assert found["wrong sex"]["real share"] == 0
    assert found["wrong age"]["examples"] == [7]
    assert found["wrong age"]["n"] == 38
    assert {1, 2} <= set(found["collapse to the mean face"]["examples"])
    assert found["collapse to the mean face"]["real share"] == pytest.approx(2 / 39, abs=0.03)


def test_histograms_hold_every_pair_once():
    z = unit(np.random.default_rng(0).normal(size=(10, 8)))
    found = exhibits.histograms([z], z, np.array(list("ffffffmmmm")))
    assert {name: round(sum(shares), 3) for name, shares in found["shares"].items()} == {
        "own face": 1.0,
        "same sex": 1.0,
        "other sex": 1.0,
    }
    assert found["shares"]["own face"][-1] == 1
