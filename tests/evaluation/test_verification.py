"""Error rates are recomputed by counting, and for Gaussian scores from their closed form."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from minivox.build import arcface, ge2e
from v2f_core.errors import InputError
from v2f_core.evaluation.verification import (
    area_under_roc,
    equal_error_rate,
    error_rates,
    min_dcf,
    pair_cosines,
    person_interval,
)

SCORES = st.lists(st.integers(-5, 5), min_size=1, max_size=12).map(lambda x: np.array(x, float))


@given(SCORES, SCORES)
def test_error_rates_are_counts(same, different):
    for threshold, missed, accepted in zip(*error_rates(same, different), strict=True):
        assert missed == pytest.approx(sum(s < threshold for s in same) / len(same))
        assert accepted == pytest.approx(sum(s >= threshold for s in different) / len(different))


@given(SCORES, SCORES)
def test_only_the_order_of_scores_counts(same, different):
    assert equal_error_rate(np.exp(same), np.exp(different)) == pytest.approx(equal_error_rate(same, different))


def test_two_gaussians_meet_at_their_middle():
    rng = np.random.default_rng(0)
    same, different = rng.normal(2, 1, 40_000), rng.normal(0, 1, 40_000)
    expected = 0.5 * math.erfc(1 / math.sqrt(2))  # both tails beyond one standard deviation
    assert equal_error_rate(same, different) == pytest.approx(expected, abs=0.005)


def test_chance_and_reversed_scores():
    scores = np.random.default_rng(0).random(20_000)
    assert equal_error_rate(scores[:10_000], scores[10_000:]) == pytest.approx(0.5, abs=0.02)
    assert equal_error_rate(np.zeros(5), np.ones(5)) == 1.0  # always wrong: the score has the wrong sign


def test_pairs_are_each_counted_once():
    z = np.random.default_rng(0).normal(size=(6, 4))
    person = np.array([0, 0, 1, 1, 1, 2])
    same, different = pair_cosines(z, person)
    pairs = [(i, j) for i in range(6) for j in range(i + 1, 6)]
    assert same == pytest.approx([z[i] @ z[j] for i, j in pairs if person[i] == person[j]])
    assert different == pytest.approx([z[i] @ z[j] for i, j in pairs if person[i] != person[j]])


def test_the_build_measures_with_the_same_meter():
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(30), 2)
    z = rng.normal(size=(30, 512))[person] + 2.5 * rng.normal(size=(60, 512))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    assert ge2e.equal_error_rate(z, person) == equal_error_rate(*pair_cosines(z, person))
    across = z[::2] @ z[1::2].T  # first against second views
    own = np.eye(30, dtype=bool)
    assert arcface.verification(z, person)["eer"] == pytest.approx(equal_error_rate(across[own], across[~own]))


@pytest.mark.parametrize(("same", "different", "message"), [([], [1.0], "0 pairs of one"), ([math.nan], [1.0], "NaN")])
def test_scores_that_cannot_be_compared_are_refused(same, different, message):
    with pytest.raises(InputError, match=message):
        error_rates(np.array(same), np.array(different))


@given(SCORES, SCORES)
def test_area_under_roc_is_scikit_learns(same, different):
    labels = np.repeat([1, 0], [len(same), len(different)])
    expected = roc_auc_score(labels, np.concatenate([same, different]))
    assert area_under_roc(same, different) == pytest.approx(expected)


@given(SCORES, SCORES, st.sampled_from([0.01, 0.05, 0.5, 0.9]), st.sampled_from([1.0, 10.0]))
def test_min_dcf_tries_every_threshold_and_is_at_most_1(same, different, p_target, cost):
    costs = []
    for threshold in [*same, *different, math.inf]:
        missed, accepted = np.mean(same < threshold), np.mean(different >= threshold)
        costs.append(cost * missed * p_target + accepted * (1 - p_target))
    found = min_dcf(same, different, p_target, cost)
    assert found == pytest.approx(min(costs) / min(cost * p_target, 1 - p_target))
    assert 0 <= found <= 1 + 1e-12


def test_perfect_and_useless_scores():
    assert min_dcf(np.ones(4), np.zeros(9)) == 0
    assert min_dcf(np.zeros(4), np.zeros(9)) == min_dcf(np.zeros(4), np.ones(9)) == 1
    assert area_under_roc(np.zeros(4), np.zeros(9)) == 0.5


@pytest.mark.parametrize("wrong", [{"p_target": 0.0}, {"p_target": 1.0}, {"cost_missed": 0.0}])
def test_costs_that_mean_nothing_are_refused(wrong):
    with pytest.raises(InputError, match="p_target"):
        min_dcf(np.ones(2), np.zeros(2), **wrong)


# --- intervals over persons


def world(seed, n=40):
    """Some voices are near every face, some far from all: a score has its row's and its column's person in it."""
    g = np.random.default_rng(seed)
    return 1.5 * np.eye(n) + g.normal(size=(n, 1)) + 0.5 * g.normal(size=n) + 0.5 * g.normal(size=(n, n))


def test_the_interval_over_persons_is_as_wide_as_the_doubt_of_fresh_persons():
    fresh = [area_under_roc(np.diag(s), s[~np.eye(40, dtype=bool)]) for s in map(world, range(300))]
    found = [person_interval(area_under_roc, world(seed), 200) for seed in range(1000, 1010)]
    width = np.mean([i.high - i.low for i in found])
    assert width == pytest.approx(2 * 1.96 * np.std(fresh), rel=0.25)


def test_a_person_drawn_twice_is_no_pair_of_two_persons():
    apart = np.where(np.eye(12, dtype=bool), 1.0, 0.0)
    assert person_interval(equal_error_rate, apart, 200) == (0, 0, 0)  # a twin on the diagonal would be an error


def test_the_value_is_that_of_all_pairs_and_the_seed_fixes_the_rest():
    s = world(1)
    found = person_interval(min_dcf, s, 50)
    assert found.value == min_dcf(np.diag(s), s[~np.eye(40, dtype=bool)])
    assert found == person_interval(min_dcf, s, 50)
    with pytest.raises(InputError, match="2 persons"):
        person_interval(min_dcf, np.eye(2))
