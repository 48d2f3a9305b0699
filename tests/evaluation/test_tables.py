"""The engine of every table: each number against a loop; pairing by name; misses, small galleries and seeds."""

import numpy as np
import pandas as pd
import pytest

from v2f_core.errors import InputError
from v2f_core.evaluation import metrics, protocols, tables
from v2f_core.evaluation.controls import MEAN, SEX_MEAN
from v2f_core.evaluation.protocols import ALL, WITHIN
from v2f_core.evaluation.systems import Faces, System
from v2f_core.evaluation.tables import Ceiling

N = 24
SEXES = ["f", "m"] * (N // 2)
PERSONS = [f"P{i:02d}" for i in range(N)]
GALLERIES = protocols.galleries(SEXES)
BEST = {ALL: Ceiling(0.9, 0.8, 0.9), WITHIN: Ceiling(0.9, 1.0, 0.9)}
WEIGHTS = np.linspace(1, -1, 512)


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def faces(identities, seed=0):
    g, n = np.random.default_rng(seed), len(identities)
    posteriors, features = g.dirichlet(np.ones(6), n).astype(np.float32), unit(g.normal(size=(n, 9)) + 3)
    return Faces(identities, posteriors, features, [None] * n)


def ratio(z, faces):
    """No likelihood, but a score that orders faces otherwise than the cosine."""
    return (z * WEIGHTS) @ faces.T


@pytest.fixture(scope="module")
def gallery():
    return faces(unit(np.random.default_rng(0).normal(size=(N, 512))))


@pytest.fixture(scope="module")
def systems(gallery):
    truth, g = gallery.identities, np.random.default_rng(1)
    noisy = [faces(unit(truth + 0.1 * g.normal(size=truth.shape)), seed) for seed in (1, 2)]
    lost = noisy[0].identities.copy()
    lost[:3] = 0
    of_sex = np.stack([unit(truth[i % 2 :: 2].mean(0)[None])[0] for i in range(N)])
    rows = [
        System("noisy", noisy[0].identities, tuple(noisy)),  # before its reference: the order must not matter
        System(MEAN, np.repeat(unit(truth.mean(0)[None]), N, axis=0)),
        System(SEX_MEAN, of_sex),
        System("lossy", None, (faces(lost, 3),)),
        System("some", None, (noisy[0],), np.arange(N) >= 4, shown=True),
        System("shuffled", truth, shuffles=np.stack([np.roll(np.arange(N), k) for k in (1, 2, 3)])),
        System("ranked", scores=np.arange(N * N, dtype=float).reshape(N, N)),
    ]
    return {row.name: row for row in rows}


@pytest.fixture(scope="module")
def tidy(systems, gallery):
    return tables.likeness(list(systems.values()), gallery, PERSONS, GALLERIES, BEST, ratio)


@pytest.fixture(scope="module")
def table(tidy):
    return tables.likeness_table(tidy, GALLERIES, BEST).set_index(["gallery", "by", "system"])


# --- likeness and retrieval


def test_draws_are_averaged_before_persons(table, systems, gallery):
    by_draw = [metrics.cosine(draw.identities, gallery.identities) for draw in systems["noisy"].faces]
    found = table.loc[ALL, "face", "noisy"][["cosine", "cosine low", "cosine high"]]
    assert tuple(found) == pytest.approx(metrics.bootstrap(np.mean(by_draw, axis=0)))


def test_an_undetected_face_is_a_miss_that_counts_and_makes_no_face_likelier(table, tidy, systems, gallery):
    row = table.loc[ALL, "face", "lossy"]
    kept = metrics.cosine(systems["noisy"].faces[0].identities, gallery.identities)[3:]
    assert (row["n"], row["cosine"]) == (N, pytest.approx(kept.sum() / N))
    assert row["R@1"] <= 1 - 3 / N
    lost = tidy[(tidy.system == "lossy") & (tidy.gallery == ALL) & tidy.person.isin(PERSONS[:3]) & (tidy.by == "face")]
    values = lost.groupby("metric").value.agg(set)
    assert (values["R@10 by ratio"], values["1:2 matching by ratio"]) == ({0.0}, {0.5})


def test_persons_who_are_not_asked_are_queries_no_more_but_stay_in_the_gallery(table, systems, gallery):
    row = table.loc[ALL, "face", "some"]
    values = metrics.cosine(systems["noisy"].faces[0].identities, gallery.identities)
    assert (row["n"], row["gallery size"], row["cosine"]) == (N - 4, N, pytest.approx(values[4:].mean()))


def test_within_sex_is_a_loop_over_two_galleries(table, systems, gallery):
    scores, sexes = metrics.score_matrix(systems["noisy"].predicted, gallery.identities), np.array(SEXES)
    parts = [scores[np.ix_(s == sexes, s == sexes)] for s in "fm"]
    row = table.loc[WITHIN, "ẑ", "noisy"]
    assert row["1:2 matching"] == pytest.approx(np.mean([metrics.matching(part).mean() for part in parts]))
    assert row["R@5"] == pytest.approx(np.mean([metrics.recall(part, 5).mean() for part in parts]))
    assert row["gallery size"] == N // 2


def test_skill_counts_from_the_reference_of_the_same_persons_to_the_ceiling(table, systems, gallery):
    for where, reference, chance in ((ALL, MEAN, 10 / N), (WITHIN, SEX_MEAN, 10 / 12)):
        base = metrics.cosine(systems[reference].predicted, gallery.identities).mean()
        row = table.loc[where, "ẑ", "noisy"]
        assert row["skill, cosine"] == pytest.approx((row["cosine"] - base) / (0.9 - base))
        assert table.loc[where, "ẑ", reference]["skill, cosine"] == pytest.approx(0, abs=1e-6)
        assert row["skill, R@10"] == pytest.approx((row["R@10"] - chance) / (BEST[where].recall - chance))
    assert np.isnan(table.loc[ALL, "face", "some"]["skill, cosine"])  # it was shown a true face


def test_chance_and_ceiling_stand_below_and_chance_is_never_above_1(table):
    assert table.loc[(ALL, slice(None), "chance"), "R@10"].item() == pytest.approx(10 / N)
    assert table.loc[(WITHIN, slice(None), "ceiling"), "cosine"].item() == 0.9
    six, where = np.eye(6, dtype=np.float32), protocols.galleries(list("ffffmm"))
    few = tables.likeness_table(tables.likeness([System("x", six)], Faces.of(six), PERSONS[:6], where), where)
    rows = few.set_index(["gallery", "system"])
    assert rows.loc[(ALL, "chance"), "R@10"] == rows.loc[(WITHIN, "chance"), "R@5"] == 1  # everybody is among the best
    assert rows.loc[(ALL, "x"), "R@10"] == 1


def test_by_ratio_faces_are_ranked_by_the_ratio_and_nothing_else_changes(table, systems, gallery):
    scores = ratio(systems["noisy"].predicted, gallery.identities)
    ranks = np.array([sum(row >= row[i]) for i, row in enumerate(scores)])
    rival = np.array([np.mean([row[i] > row[j] for j in range(N) if j != i]) for i, row in enumerate(scores)])
    row = table.loc[ALL, "ẑ", "noisy"]
    assert row["R@5 by ratio"] == pytest.approx((ranks <= 5).mean())
    assert row["1:2 matching by ratio"] == pytest.approx(rival.mean()) != row["1:2 matching"]
    asked = ratio(gallery.identities, gallery.identities)
    hits = [(asked[order] >= np.diag(asked[order])[:, None]).sum(axis=1) <= 5 for order in systems["shuffled"].shuffles]
    assert table.loc[ALL, "ẑ", "shuffled"]["R@5 by ratio"] == pytest.approx(np.mean(hits))
    assert np.isnan(table.loc[ALL, "ẑ", "ranked"]["R@5 by ratio"])  # it has no identity
    assert np.isnan(table.loc[ALL, "second scorer", "noisy"]["R@5 by ratio"])  # of another space


# --- the engine


def fake(noise=0.01):
    """Sixty persons, easy and hard; the new system is better by 0.05; a measure of all images."""
    g = np.random.default_rng(0)
    hard, persons, parts = g.normal(size=60), [f"P{i}" for i in range(60)], []
    for system, extra in (("old", 0.0), ("new", 0.05)):
        for seed in range(3):
            value = hard + extra + 0.1 * seed + noise * g.normal(size=60)
            same = {"system": system, "seed": seed}
            parts.append(pd.DataFrame({**same, "person": persons, "metric": "cosine", "value": value}))
            parts.append(pd.DataFrame([{**same, "person": "", "metric": "VFS", "value": 2.0 + seed}]))
    return pd.concat(parts, ignore_index=True)


def test_seeds_are_averaged_first_and_their_spread_stands_apart():
    rows = fake()
    row = tables.summarise(rows).set_index(["system", "metric"]).loc[("new", "cosine")]
    cosines = rows[(rows.system == "new") & (rows.metric == "cosine")]
    by_person = cosines.groupby("person", sort=False).value.mean()
    assert tuple(row[["value", "low", "high"]]) == pytest.approx(metrics.bootstrap(by_person.to_numpy()))
    assert row["seed sd"] == pytest.approx(cosines.groupby("seed").value.mean().std())
    assert (row.n, row.seeds) == (60, 3)


def test_a_gain_is_paired_by_name_and_not_by_place_and_a_measure_of_all_images_has_none():
    rows = fake()
    turned = pd.concat([rows[rows.system == "old"], rows[rows.system == "new"].iloc[::-1]])
    for part in (rows, turned):
        table = tables.summarise(part, against="old").set_index(["system", "metric"])
        row, whole = table.loc[("new", "cosine")], table.loc[("new", "VFS")]
        assert row.gain == pytest.approx(0.05, abs=0.01)
        assert row["gain high"] - row["gain low"] < 0.02  # pairing takes out how hard persons are
        assert row.high - row.low > 0.4
        assert (whole.value, whole["seed sd"]) == (3, 1)
        assert np.isnan(whole[["n", "low", "gain"]].astype(float)).all()
    with pytest.raises(InputError, match="new and old were measured on different persons"):
        tables.summarise(rows[(rows.system != "new") | (rows.person != "P3")], against="old")


def test_a_table_is_written_with_the_same_bytes_each_time(tmp_path):
    for name in ("a.csv.gz", "b.csv.gz"):
        tables.write(tmp_path, name, fake())
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()
    again = pd.read_csv(tmp_path / "a.csv.gz", keep_default_na=False)
    pd.testing.assert_frame_equal(again, fake(), check_dtype=False, rtol=1e-5)


def test_sets_have_their_size_and_their_misses_beside_them(systems, gallery):
    found = tables.set_table(systems.values(), gallery).set_index("system")
    assert "shuffled" not in found.index
    assert (found.loc["lossy", "undetected"], found.loc["some", "images"]) == (3, N - 4)
    row, draws = found.loc["noisy"], systems["noisy"].faces
    score = metrics.vfs(np.concatenate([draw.posteriors for draw in draws]))
    assert tuple(row[["images", "VFS", "VFS images"]]) == pytest.approx((2 * N, score.value, 2 * N // 5))
    features = np.concatenate([draw.features for draw in draws])
    assert row["kernel distance"] == metrics.kernel_distance(features, gallery.features)
    drawn = np.stack([draw.identities for draw in draws], axis=1)
    assert row["diversity"] == pytest.approx(metrics.diversity(drawn).mean())
    blind = System("x", None, (Faces.of(gallery.identities),))
    assert "VFS" not in tables.set_table([blind], gallery).columns
