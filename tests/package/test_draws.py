"""Measures of draws: the energy score by loops, closed forms and what makes it proper; calibration; who is drawn."""

import numpy as np
import pytest
from scipy.special import gamma, softmax
from scipy.stats import kstest

from benchmarks.draws import between_voices, calibration, energy_score, energy_score_of_pool
from v2f_core.errors import InputError


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


# --- the energy score


def test_the_energy_score_by_loops():
    draws, truth = normal(4, 7, 3), normal(4, 3, seed=1)
    for score, one, z in zip(energy_score(draws, truth), draws, truth, strict=True):
        near = np.mean([np.linalg.norm(a - z) for a in one])
        apart = [np.linalg.norm(one[i] - one[j]) for i in range(7) for j in range(7) if i != j]
        assert score == pytest.approx(near - np.mean(apart) / 2, rel=1e-12)


def test_nobody_beats_the_true_distribution_whose_mean_is_known_however_few_the_draws():
    """E‖X − X′‖/2 with X − X′ ~ N(0, 2I): Γ((d + 1)/2)/Γ(d/2)."""
    for count in (2, 20):
        scores = energy_score(normal(6000, count, 5, seed=count), normal(6000, 5, seed=99))
        assert scores.mean() == pytest.approx(gamma(3) / gamma(2.5), abs=5 * scores.std() / 6000**0.5)
    honest, truth = normal(500, 60, 4, seed=1), normal(500, 4, seed=2)
    for other in (honest + 0.7, 0.5 * honest, 2 * honest, 0 * honest):  # shifted, too sure, too wide, a point
        assert energy_score(honest, truth).mean() < energy_score(other, truth).mean()


def test_a_weighted_pool_stands_for_the_distribution_it_leads_to():
    """Faces of N(0, I), weighted towards N(μ, I), score as draws of N(μ, I) do."""
    faces, mean, truth = normal(4000, 2), np.array([0.8, -0.4]), np.array([[0.3, 0.3]])
    expected = energy_score(mean + normal(1, 4000, 2, seed=1), truth)
    found = energy_score_of_pool(softmax((faces @ mean)[None], axis=1), faces, truth)
    np.testing.assert_allclose(found, expected, atol=0.03)


# --- calibration


@pytest.mark.parametrize("count", [1, 3, 40])
def test_the_pit_of_the_true_distribution_is_uniform_however_few_the_draws(count):
    found = calibration(normal(3000, count), normal(3000, seed=1))
    assert kstest(found.pit, "uniform").pvalue > 1e-3
    for level, inside in found.inside.items():
        assert inside.mean() == pytest.approx(level, abs=0.04)


def test_the_interval_is_the_quantiles_of_the_draws():
    draws = np.tile(np.arange(99.0), (3, 1))  # ranks 1 to 100: the middle 90 % are above 5 and below 95
    found = calibration(draws, np.array([2.5, 49.5, 97.5]), levels=(0.9,))
    assert found.inside[0.9].tolist() == [False, True, False]


# --- who is drawn


def test_two_voices_by_loops_over_pairs_of_faces():
    draws, groups = normal(6, 4, 3), np.array(list("ffmmff"))
    draws /= np.linalg.norm(draws, axis=2, keepdims=True)
    means = []
    for group in "fm":
        persons = np.flatnonzero(groups == group)
        cosines = [a @ b for i in persons for j in persons if i != j for a in draws[i] for b in draws[j]]
        means.append(np.mean(cosines))
    assert between_voices(draws, groups) == pytest.approx(np.mean(means))


def test_numbers_without_a_meaning_are_refused():
    zeros, eye = np.zeros((3, 4, 2)), np.eye(3)
    for measure, message in (
        (lambda: energy_score(zeros[:, :1], zeros[:, 0]), "expected at least 2 for each"),
        (lambda: energy_score(zeros * np.nan, zeros[:, 0]), "NaN or infinite"),
        (lambda: energy_score_of_pool(np.full((1, 3), 0.5), eye, eye[:1]), "sum to 1"),
        (lambda: calibration(zeros[..., 0], np.array([0.0, 0.0, np.nan])), "leave persons out"),
        (lambda: between_voices(np.ones((3, 2, 2)), np.array(list("ffm"))), "group m: one voice"),
    ):
        with pytest.raises(InputError, match=message):
            measure()
