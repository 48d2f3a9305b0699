"""Measures of draws: the energy score by loops, closed forms and what makes it proper; calibration; who is drawn."""

import numpy as np
import pytest
from scipy.special import gamma, softmax
from scipy.stats import kstest

from benchmarks.draws import (
    between_voices,
    calibration,
    energy_score,
    energy_score_of_pool,
)
from v2f_core.errors import InputError


def rng(seed=0):
    return np.random.default_rng(seed)


# the energy score


def energy_by_loops(draws, truth):
    near = np.mean([np.linalg.norm(a - truth) for a in draws])
    apart = [np.linalg.norm(draws[i] - draws[j]) for i in range(len(draws)) for j in range(len(draws)) if i != j]
    return near - np.mean(apart) / 2


def test_the_energy_score_by_loops():
    draws, truth = rng().standard_normal((4, 7, 3)), rng(1).standard_normal((4, 3))
    expected = [energy_by_loops(one, z) for one, z in zip(draws, truth, strict=True)]
    np.testing.assert_allclose(energy_score(draws, truth), expected, rtol=1e-12)


def test_its_mean_for_a_gaussian_about_itself_is_known_and_free_of_the_number_of_draws():
    """E‖X − X′‖/2 with X − X′ ~ N(0, 2I): Γ((d + 1)/2)/Γ(d/2), however few the draws."""
    dim = 5
    expected = gamma((dim + 1) / 2) / gamma(dim / 2)
    for count in (2, 20):
        scores = energy_score(rng(count).standard_normal((6000, count, dim)), rng(99).standard_normal((6000, dim)))
        assert scores.mean() == pytest.approx(expected, abs=5 * scores.std() / 6000**0.5)


@pytest.mark.parametrize("wrong", ["shifted", "too sure", "too wide", "point"])
def test_nobody_beats_the_true_distribution(wrong):
    honest, truth = rng(1).standard_normal((500, 60, 4)), rng(2).standard_normal((500, 4))
    other = {"shifted": honest + 0.7, "too sure": 0.5 * honest, "too wide": 2 * honest, "point": 0 * honest}[wrong]
    assert energy_score(honest, truth).mean() < energy_score(other, truth).mean()


def test_a_weighted_pool_stands_for_the_distribution_it_leads_to():
    """Faces of N(0, I), weighted towards N(μ, I), score as draws of N(μ, I) do."""
    faces, mean = rng().standard_normal((4000, 2)), np.array([0.8, -0.4])
    weights = softmax((faces @ mean)[None], axis=1)
    truth = np.array([[0.3, 0.3]])
    expected = energy_score(mean + rng(1).standard_normal((1, 4000, 2)), truth)
    np.testing.assert_allclose(energy_score_of_pool(weights, faces, truth), expected, atol=0.03)


def test_bad_draws_and_weights_are_refused():
    with pytest.raises(InputError, match="expected at least 2 for each"):
        energy_score(np.zeros((3, 1, 2)), np.zeros((3, 2)))
    with pytest.raises(InputError, match="expected at least 2 for each"):
        energy_score(np.zeros((3, 4, 2)), np.zeros((2, 2)))
    with pytest.raises(InputError, match="NaN or infinite"):
        energy_score(np.full((1, 4, 2), np.nan), np.zeros((1, 2)))
    with pytest.raises(InputError, match="sum to 1"):
        energy_score_of_pool(np.full((1, 3), 0.5), np.eye(3), np.eye(3)[:1])
    with pytest.raises(InputError, match="one face of the pool"):
        energy_score_of_pool(np.array([[1.0, 0, 0]]), np.eye(3), np.eye(3)[:1])


# calibration


@pytest.mark.parametrize("count", [1, 3, 40])
def test_the_pit_of_the_true_distribution_is_uniform_however_few_the_draws(count):
    found = calibration(rng().standard_normal((3000, count)), rng(1).standard_normal(3000))
    assert kstest(found.pit, "uniform").pvalue > 1e-3
    for level, inside in found.inside.items():
        assert inside.mean() == pytest.approx(level, abs=0.04)


def test_classes_tie_and_are_calibrated_all_the_same():
    share = rng(5).random(4000)
    draws, truth = rng().random((4000, 30)) < share[:, None], rng(1).random(4000) < share
    found = calibration(draws.astype(float), truth.astype(float))
    assert kstest(found.pit, "uniform").pvalue > 1e-3


def test_who_is_too_sure_covers_too_little_and_who_is_biased_ranks_to_one_side():
    truth = rng(1).standard_normal(2000)
    sure = calibration(0.5 * rng().standard_normal((2000, 50)), truth)
    assert sure.inside[0.9].mean() < 0.75
    assert calibration(rng().standard_normal((2000, 50)) - 1, truth).pit.mean() > 0.7


def test_the_interval_is_the_quantiles_of_the_draws():
    draws = np.tile(np.arange(99.0), (3, 1))  # ranks 1 to 100: the middle 90 % are above 5 and below 95
    found = calibration(draws, np.array([2.5, 49.5, 97.5]), levels=(0.9,))
    assert found.inside[0.9].tolist() == [False, True, False]


def test_attributes_that_are_not_known_are_refused():
    with pytest.raises(InputError, match="leave persons out"):
        calibration(np.zeros((2, 3)), np.array([0.0, np.nan]))
    with pytest.raises(InputError, match="expected at least 1"):
        calibration(np.zeros((2, 3)), np.zeros(3))


# who is drawn


def test_two_voices_by_loops_over_pairs_of_faces():
    draws, groups = rng().standard_normal((6, 4, 3)), np.array(list("ffmmff"))
    draws /= np.linalg.norm(draws, axis=2, keepdims=True)
    means = []
    for group in "fm":
        persons = np.flatnonzero(groups == group)
        cosines = [a @ b for i in persons for j in persons if i != j for a in draws[i] for b in draws[j]]
        means.append(np.mean(cosines))
    assert between_voices(draws, groups) == pytest.approx(np.mean(means))


def test_one_voice_alone_has_no_other():
    with pytest.raises(InputError, match="group m: one voice"):
        between_voices(np.ones((3, 2, 2)), np.array(list("ffm")))
