"""Metrics recomputed with loops and scipy; their chance levels, ties and intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from v2f_core.errors import InputError
from v2f_core.evaluation import metrics

row = st.lists(st.integers(0, 3), min_size=7, max_size=7)  # few levels, so many ties
few_levels = st.lists(row, min_size=7, max_size=7).map(lambda rows: np.array(rows, float))


@given(few_levels)
def test_rank_counts_ties_against_us(scores):
    for i, place in enumerate(metrics.rank(scores)):
        assert place == sum(1 for j in range(7) if j != i and scores[i, j] >= scores[i, i]) + 1


@given(few_levels, st.integers(1, 7))
def test_recall_is_a_rank_within_k(scores, k):
    assert metrics.recall(scores, k).tolist() == [float(place <= k) for place in metrics.rank(scores)]


@given(few_levels)
def test_matching_is_the_mann_whitney_statistic_of_each_query(scores):
    for i, won in enumerate(metrics.matching(scores)):
        others = np.delete(scores[i], i)
        assert won == pytest.approx(stats.mannwhitneyu([scores[i, i]], others).statistic / len(others))


def test_a_constant_prediction_scores_chance_or_nothing():
    gallery = np.eye(20)
    scores = metrics.score_matrix(np.tile(gallery.mean(0), (20, 1)), gallery)
    assert metrics.recall(scores, 10).mean() == 0
    assert metrics.matching(scores).mean() == 0.5


def test_random_scores_have_the_documented_chance():
    scores = np.random.default_rng(0).standard_normal((2000, 2000))
    assert metrics.recall(scores, 200).mean() == pytest.approx(0.1, abs=0.02)
    assert metrics.matching(scores).mean() == pytest.approx(0.5, abs=0.02)


def test_a_nan_score_never_counts_as_a_hit():
    scores = np.eye(3)
    scores[0] = np.nan
    assert metrics.recall(scores, 1).tolist() == [0, 1, 1]


def test_cosine_is_the_diagonal_of_the_score_matrix_and_zero_for_a_missed_face():
    g = np.random.default_rng(0)
    a, b = g.standard_normal((2, 5, 8)).astype(np.float32)
    a[2] = 0
    np.testing.assert_allclose(metrics.cosine(a, b), np.diag(metrics.score_matrix(a, b)))
    assert metrics.cosine(a, b)[2] == 0


@pytest.mark.parametrize("k", [0, 4])
def test_recall_outside_the_gallery_is_refused(k):
    with pytest.raises(InputError, match="gallery of 3"):
        metrics.recall(np.eye(3), k)


@given(few_levels)
def test_within_a_group_equals_the_measure_on_the_group_alone(scores):
    groups = np.array(list("fmfmmfm"))
    values = metrics.within(metrics.matching, scores, groups)
    for sex in "fm":
        of = groups == sex
        assert values[of].tolist() == metrics.matching(scores[of][:, of]).tolist()


def test_knowing_sex_alone_doubles_recall_over_all_and_is_worth_nothing_within_sex():
    sex = np.repeat(["f", "m"], 100)
    g = np.random.default_rng(0)
    scores = (sex[:, None] == sex[None, :]) + 1e-3 * g.standard_normal((200, 200))
    assert metrics.recall(scores, 10).mean() == pytest.approx(0.10, abs=0.04)  # chance is 0.05
    within = metrics.within(lambda s: metrics.recall(s, 10), scores, sex)
    assert within.mean() == pytest.approx(0.10, abs=0.04)  # chance is 0.10


def test_skill_is_0_at_the_reference_and_1_at_the_ceiling():
    assert metrics.skill(0.4, 0.4, 0.7) == 0
    assert metrics.skill(0.7, 0.4, 0.7) == 1
    with pytest.raises(InputError, match="no room"):
        metrics.skill(0.5, 0.6, 0.6)


# --- the bootstrap


def test_bca_agrees_with_scipy():
    values = np.random.default_rng(0).exponential(size=60)
    ours = metrics.bootstrap(values, resamples=20_000)
    theirs = stats.bootstrap((values,), np.mean, method="BCa", n_resamples=20_000, rng=0).confidence_interval
    assert ours.value == values.mean()
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_a_statistic_of_several_means_agrees_with_scipy():
    g = np.random.default_rng(1)
    a = g.normal(1, 0.2, 50)
    b = a + g.normal(0.5, 0.1, 50)
    ours = metrics.bootstrap(np.stack([a, b], 1), lambda m: m[..., 0] / m[..., 1], resamples=20_000)
    theirs = stats.bootstrap(
        (a, b),
        lambda x, y, axis: x.mean(axis) / y.mean(axis),
        paired=True,
        method="BCa",
        n_resamples=20_000,
        rng=0,
        vectorized=True,
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.003)


def test_the_95_percent_interval_holds_the_truth_in_about_95_percent():
    g = np.random.default_rng(2)
    held = 0
    for seed in range(300):
        interval = metrics.bootstrap((g.random(100) < 0.3).astype(float), resamples=500, seed=seed)
        held += interval.low <= 0.3 <= interval.high
    assert 0.91 <= held / 300 <= 0.985


def test_groups_are_macro_averaged_and_resampled_apart():
    groups = np.repeat(["f", "m"], [90, 10])
    values = np.repeat([0.0, 1.0], [90, 10])
    interval = metrics.bootstrap(values, groups=groups)
    assert interval == (0.5, 0.5, 0.5)  # between the groups there is a difference, but no doubt
    g = np.random.default_rng(3)
    noisy = g.normal(size=100)
    error = np.sqrt(noisy[:90].var() / 90 + noisy[90:].var() / 10) / 2
    wide = metrics.bootstrap(noisy, groups=groups)
    assert (wide.high - wide.low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.15)


def test_the_same_seed_gives_the_same_interval_and_no_variance_none():
    values = np.random.default_rng(4).random(30)
    assert metrics.bootstrap(values, seed=5) == metrics.bootstrap(values, seed=5)
    assert metrics.bootstrap(np.ones(5)) == (1, 1, 1)


@pytest.mark.parametrize("values", [np.ones(1), np.array([1.0, np.nan, 0.0])])
def test_one_person_or_nan_cannot_be_bootstrapped(values):
    with pytest.raises(InputError, match="bootstrap"):
        metrics.bootstrap(values)
