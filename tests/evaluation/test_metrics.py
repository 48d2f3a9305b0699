"""Metrics recomputed with loops, scipy and scikit-learn; their chance levels, bounds and ties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import spatial, stats
from sklearn.metrics import roc_auc_score

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


def test_matching_is_the_area_under_the_roc_curve_of_each_query():
    scores = np.random.default_rng(0).standard_normal((9, 9))
    expected = [roc_auc_score(np.arange(9) == i, scores[i]) for i in range(9)]
    np.testing.assert_allclose(metrics.matching(scores), expected)


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


unit_rows = st.integers(0, 10_000).map(lambda seed: unit(np.random.default_rng(seed).standard_normal((2, 6, 5))))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@given(unit_rows)
def test_l2_is_the_euclidean_distance_and_root_of_2_minus_2_cosine(rows):
    distance = metrics.l2(*rows)
    np.testing.assert_allclose(distance, [spatial.distance.euclidean(a, b) for a, b in zip(*rows, strict=True)])
    np.testing.assert_allclose(distance, np.sqrt(2 - 2 * metrics.cosine(*rows)), atol=1e-12)
    assert distance.mean() <= np.sqrt(2 - 2 * metrics.cosine(*rows).mean()) + 1e-12  # the bound that Table 2 breaks


def test_an_undetected_face_is_as_far_as_cosine_0_from_either_side():
    face, missed = np.eye(2), np.zeros((2, 2))
    assert metrics.l2(missed, face).tolist() == metrics.l2(face, missed).tolist() == [2**0.5, 2**0.5]


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


# --- diversity


@given(st.integers(0, 10_000), st.integers(2, 5))
def test_diversity_is_the_mean_distance_of_all_pairs(seed, count):
    draws = unit(np.random.default_rng(seed).standard_normal((3, count, 8)))
    expected = [spatial.distance.pdist(utterance, "cosine").mean() for utterance in draws]
    np.testing.assert_allclose(metrics.diversity(draws), expected, atol=1e-12)


def test_diversity_is_0_for_one_face_and_2_for_opposite_ones():
    same, opposite = np.tile(np.eye(3)[0], (4, 1)), np.array([np.eye(3)[0], -np.eye(3)[0]])
    assert metrics.diversity(same[None]).tolist() == [0]
    assert metrics.diversity(opposite[None]).tolist() == [2]


def test_failed_drawings_add_no_diversity():
    draws = unit(np.random.default_rng(0).standard_normal((1, 4, 8)))
    draws[0, [1, 3]] = 0
    expected = (1 - draws[0, 0] @ draws[0, 2]) / 6  # one whole pair of six
    np.testing.assert_allclose(metrics.diversity(draws), [expected])
    draws[0] = 0
    assert metrics.diversity(draws).tolist() == [0]


def test_diversity_of_one_draw_is_refused():
    with pytest.raises(InputError, match="at least 2"):
        metrics.diversity(np.ones((3, 1, 4)))


# --- VFS


def posteriors(images, classes, seed=0):
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.1), images)


def test_vfs_of_one_split_is_exp_of_the_mean_kl_divergence():
    p = posteriors(30, 7)
    kl = [stats.entropy(row, p.mean(axis=0)) for row in p]
    assert metrics.vfs(p, splits=1).value == pytest.approx(np.exp(np.mean(kl)))


@pytest.mark.parametrize("images", [20, 23])
def test_vfs_is_the_mean_over_shuffled_splits_that_hold_every_image(images):
    p = posteriors(images, 7)
    shuffled = p[np.random.default_rng(3).permutation(images)]
    scores = []
    for i in range(5):
        part = shuffled[i * images // 5 : (i + 1) * images // 5]
        scores.append(np.exp(np.mean([stats.entropy(row, part.mean(axis=0)) for row in part])))
    result = metrics.vfs(p, seed=3)
    assert result == pytest.approx((np.mean(scores), np.std(scores), 4))
    assert str(result).endswith("(of at most 4)")


def test_vfs_is_1_when_all_images_look_alike_and_n_when_all_are_surely_different():
    assert metrics.vfs(np.tile(posteriors(1, 7), (10, 1))).value == pytest.approx(1)
    assert metrics.vfs(np.eye(50)).value == pytest.approx(10)  # zeros in the posteriors are no NaN


@given(st.integers(0, 10_000), st.integers(5, 20))
def test_vfs_never_leaves_1_to_images_per_split(seed, images):
    result = metrics.vfs(posteriors(images, 30, seed))
    assert 1 - 1e-9 <= result.value <= -(-images // 5) + 1e-9


@pytest.mark.parametrize("bad", [np.nan, -0.1, 0.9])
def test_rows_that_are_no_distribution_are_refused(bad):
    p = np.eye(10)
    p[3, 3] = bad
    with pytest.raises(InputError, match="row 3"):
        metrics.vfs(p)


def test_fewer_images_than_splits_are_refused():
    with pytest.raises(InputError, match="4 images in 5 splits"):
        metrics.vfs(np.eye(4))
