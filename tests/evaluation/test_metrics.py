"""Every measure recomputed with loops, scipy and scikit-learn; chance levels, bounds and ties."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import spatial, stats

from v2f_core.errors import InputError
from v2f_core.evaluation import metrics


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


seeds = st.integers(0, 10_000)
row = st.lists(st.integers(0, 3), min_size=7, max_size=7)  # few levels, so many ties
few_levels = st.lists(row, min_size=7, max_size=7).map(lambda rows: np.array(rows, float))
unit_rows = seeds.map(lambda seed: unit(np.random.default_rng(seed).standard_normal((2, 6, 5))))


# --- likeness and retrieval


@given(few_levels)
def test_rank_counts_ties_against_us_and_matching_is_the_mann_whitney_statistic(scores):
    for i, (place, won) in enumerate(zip(metrics.rank(scores), metrics.matching(scores), strict=True)):
        others = np.delete(scores[i], i)
        assert place == sum(other >= scores[i, i] for other in others) + 1
        assert won == pytest.approx(stats.mannwhitneyu([scores[i, i]], others).statistic / len(others))
    assert metrics.recall(scores, 3).tolist() == [place <= 3 for place in metrics.rank(scores)]
    assert metrics.recall(scores, 7).all()  # in a gallery of k faces or fewer everybody is found


@given(few_levels)
def test_within_a_group_equals_the_measure_on_the_group_alone(scores):
    groups = np.array(list("fmfmmfm"))
    values = metrics.within(metrics.matching, scores, groups)
    for sex in "fm":
        of = groups == sex
        assert values[of].tolist() == metrics.matching(scores[of][:, of]).tolist()


@given(unit_rows)
def test_cosine_and_l2_by_hand_and_of_a_missed_face(rows):
    a, b = rows
    distance, cosine = metrics.l2(a, b), metrics.cosine(a, b)
    np.testing.assert_allclose(cosine, np.diag(metrics.score_matrix(a, b)))
    np.testing.assert_allclose(distance, [spatial.distance.euclidean(x, y) for x, y in zip(a, b, strict=True)])
    np.testing.assert_allclose(distance, np.sqrt(2 - 2 * cosine), atol=1e-12)
    assert distance.mean() <= np.sqrt(2 - 2 * cosine.mean()) + 1e-12  # the bound that Table 2 breaks
    a[2] = 0
    assert (metrics.cosine(a, b)[2], metrics.l2(a, b)[2]) == (0, pytest.approx(2**0.5))


def test_vectors_that_are_neither_unit_nor_zero_have_no_cosine():
    """Identities of length 3 would have a cosine of 3; each measure that takes a dot product names the row."""
    right, wrong = np.eye(6), np.eye(6)
    wrong[4] *= 3
    calls = (
        lambda: metrics.cosine(wrong, right),
        lambda: metrics.l2(right, wrong),
        lambda: metrics.score_matrix(wrong, right),
        lambda: metrics.diversity(np.stack([right, wrong])),
        lambda: metrics.kernel_distance(wrong, right),
        lambda: metrics.pair_cosines(wrong, np.arange(6)),
    )
    for call in calls:
        with pytest.raises(InputError, match=r"row \d+ has norm 3: expected unit vectors"):
            call()


def test_skill_is_0_at_the_reference_and_1_at_the_ceiling():
    assert (metrics.skill(0.4, 0.4, 0.7), metrics.skill(0.7, 0.4, 0.7)) == (0, 1)
    with pytest.raises(InputError, match="no room"):
        metrics.skill(0.5, 0.6, 0.6)


# --- same person or not

SCORES = st.lists(st.integers(-5, 5), min_size=1, max_size=12).map(lambda x: np.array(x, float))


@given(SCORES, SCORES)
def test_error_rates_are_counts(same, different):
    for threshold, missed, accepted in zip(*metrics.error_rates(same, different), strict=True):
        assert missed == pytest.approx(sum(s < threshold for s in same) / len(same))
        assert accepted == pytest.approx(sum(s >= threshold for s in different) / len(different))


def test_two_gaussians_meet_at_their_middle():
    rng = np.random.default_rng(0)
    same, different = rng.normal(2, 1, 40_000), rng.normal(0, 1, 40_000)
    expected = 0.5 * math.erfc(1 / math.sqrt(2))  # both tails beyond one standard deviation
    assert metrics.equal_error_rate(same, different) == pytest.approx(expected, abs=0.005)


def test_pairs_are_each_counted_once():
    z, person = unit(np.random.default_rng(0).normal(size=(6, 4))), np.array([0, 0, 1, 1, 1, 2])
    same, different = metrics.pair_cosines(z, person)
    pairs = [(i, j) for i in range(6) for j in range(i + 1, 6)]
    assert same == pytest.approx([z[i] @ z[j] for i, j in pairs if person[i] == person[j]])
    assert different == pytest.approx([z[i] @ z[j] for i, j in pairs if person[i] != person[j]])


@pytest.mark.parametrize(("same", "message"), [([], "0 pairs of one"), ([math.nan], "NaN")])
def test_scores_that_cannot_be_compared_are_refused(same, message):
    with pytest.raises(InputError, match=message):
        metrics.error_rates(np.array(same), np.array([1.0]))


# --- sets of faces


@given(seeds, st.integers(2, 5))
def test_diversity_is_the_mean_distance_of_all_pairs(seed, count):
    draws = unit(np.random.default_rng(seed).standard_normal((3, count, 8)))
    expected = [spatial.distance.pdist(utterance, "cosine").mean() for utterance in draws]
    np.testing.assert_allclose(metrics.diversity(draws), expected, atol=1e-12)


def test_failed_drawings_add_no_diversity():
    draws = unit(np.random.default_rng(0).standard_normal((1, 4, 8)))
    draws[0, [1, 3]] = 0
    expected = (1 - draws[0, 0] @ draws[0, 2]) / 6  # one whole pair of six
    np.testing.assert_allclose(metrics.diversity(draws), [expected])
    assert metrics.diversity(0 * draws).tolist() == [0]


@pytest.mark.parametrize("images", [20, 23])
def test_vfs_is_the_mean_over_shuffled_splits_that_hold_every_image(images):
    p = np.random.default_rng(0).dirichlet(np.full(7, 0.1), images)
    shuffled, scores = p[np.random.default_rng(0).permutation(images)], []
    for i in range(5):
        part = shuffled[i * images // 5 : (i + 1) * images // 5]
        scores.append(np.exp(np.mean([stats.entropy(row, part.mean(axis=0)) for row in part])))
    assert metrics.vfs(p) == pytest.approx((np.mean(scores), np.std(scores), 4))


def test_vfs_is_1_when_all_images_look_alike_and_n_when_all_are_surely_different():
    assert metrics.vfs(np.full((10, 4), 0.25)).value == pytest.approx(1)
    assert metrics.vfs(np.eye(50)).value == pytest.approx(10)  # zeros in the posteriors are no NaN


@pytest.mark.parametrize("bad", [np.nan, -0.1, 0.9])
def test_rows_that_are_no_distribution_are_refused(bad):
    p = np.eye(10)
    p[3, 3] = bad
    with pytest.raises(InputError, match="row 3"):
        metrics.vfs(p)


def cloud(n, dim=6, seed=0, shift=1.0):
    return unit(np.random.default_rng(seed).standard_normal((n, dim)) + shift * np.eye(dim)[0])


def mmd_by_loops(x, y):
    def mean(a, b, diagonal):
        return np.mean([(a[i] @ b[j] + 1) ** 3 for i in range(len(a)) for j in range(len(b)) if diagonal or i != j])

    return mean(x, x, False) + mean(y, y, False) - 2 * mean(x, y, True)


@given(seeds)
def test_kernel_distance_by_loops_in_any_order_and_rotation(seed):
    x, y = cloud(9, seed=seed), cloud(7, seed=seed + 1, shift=0.5)
    distance = metrics.kernel_distance(x, y)
    assert distance == pytest.approx(mmd_by_loops(x, y))
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((6, 6)))[0]
    assert metrics.kernel_distance(y @ turn, x[::-1] @ turn) == pytest.approx(distance)


def test_undetected_faces_are_in_no_cloud_and_few_faces_are_refused():
    x, y = cloud(30, seed=1), cloud(30, seed=2)
    assert metrics.kernel_distance(np.vstack([x, np.zeros((3, 6))]), y) == metrics.kernel_distance(x, y)
    for wrong in (x[:3], np.zeros((9, 6)), np.full((9, 6), np.nan)):
        with pytest.raises(InputError, match="at least 4"):
            metrics.kernel_distance(wrong, y)
