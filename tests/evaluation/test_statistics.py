"""Tests of tests: against scipy, loops, and simulated worlds in which the truth is known."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from v2f_core.errors import InputError
from v2f_core.evaluation import statistics as ours

# --- several tests at once


def holm_by_steps(p):
    """Step down: the corrected p is the smallest level at which the procedure rejects."""
    order, adjusted, so_far = sorted(range(len(p)), key=lambda i: p[i]), [0.0] * len(p), 0.0
    for step, i in enumerate(order):
        so_far = max(so_far, min(1.0, (len(p) - step) * p[i]))
        adjusted[i] = so_far
    return adjusted


@given(st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=8))
def test_holm_by_steps_and_never_below_p_nor_above_bonferroni(p):
    adjusted = ours.holm(np.array(p))
    np.testing.assert_allclose(adjusted, holm_by_steps(p))
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(1, len(p) * np.array(p)) + 1e-12).all()


def test_holm_keeps_the_rate_of_families_with_a_false_finding():
    p = np.random.default_rng(0).random((4000, 10))
    assert np.mean([ours.holm(row).min() < 0.05 for row in p]) == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("bad", [1.2, -0.1, np.nan])
def test_holm_refuses_what_is_no_p(bad):
    with pytest.raises(InputError, match="between 0 and 1"):
        ours.holm(np.array([0.5, bad]))


# --- seeds beside persons


def world(seeds, persons, person_sd, seed_sd, rest_sd, generator):
    return (
        generator.normal(0, seed_sd, (seeds, 1))
        + generator.normal(0, person_sd, persons)
        + generator.normal(0, rest_sd, (seeds, persons))
    )


def test_variance_components_find_what_the_world_was_made_of():
    g = np.random.default_rng(0)
    found = [ours.variance_components(world(6, 40, 1.0, 0.3, 0.5, g)) for _ in range(400)]
    squares = np.mean([[v.person**2, v.seed**2, v.rest**2] for v in found], axis=0)
    assert squares == pytest.approx([1.0, 0.09, 0.25], rel=0.07)


def test_the_two_errors_are_those_of_repeated_experiments():
    g = np.random.default_rng(1)
    other_persons, other_seeds = [], []
    for _ in range(3000):
        other_persons.append((g.normal(0, 1, 50) + g.normal(0, 0.5, (5, 50))).mean())  # the same five seeds
        other_seeds.append((g.normal(0, 0.3, (5, 1)) + g.normal(0, 0.5, (5, 50))).mean())  # the same fifty persons
    found = [ours.variance_components(world(5, 50, 1, 0.3, 0.5, g)) for _ in range(400)]
    assert np.mean([v.error_persons**2 for v in found]) == pytest.approx(np.var(other_persons), rel=0.07)
    assert np.mean([v.error_seeds**2 for v in found]) == pytest.approx(np.var(other_seeds), rel=0.1)


def test_runs_that_never_differ_have_no_seed_variance():
    table = np.tile(np.random.default_rng(0).normal(size=30), (4, 1))
    found = ours.variance_components(table)
    assert (found.seed, found.error_seeds) == pytest.approx((0, 0), abs=1e-12)
    assert found.person == pytest.approx(table[0].std(ddof=1))
    assert found.error_persons == pytest.approx(table[0].std(ddof=1) / 30**0.5)


@pytest.mark.parametrize("table", [np.ones((1, 5)), np.ones((3, 1)), np.full((3, 3), np.nan)])
def test_one_seed_one_person_or_nan_has_no_variance(table):
    with pytest.raises(InputError, match="at least 2"):
        ours.variance_components(table)


# --- sign flips


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=8))
def test_sign_flips_of_few_persons_are_all_counted(differences):
    d = np.array(differences, float)
    sums = [abs(np.dot(signs, d)) for signs in product([-1, 1], repeat=len(d))]
    assert ours.sign_flip(d, np.zeros(len(d))) == pytest.approx(np.mean([s >= abs(d.sum()) - 1e-9 for s in sums]))


def test_sign_flips_of_many_agree_with_scipy():
    d = np.random.default_rng(0).normal(0.15, 1, 80)
    expected = stats.permutation_test(
        (d,), np.mean, permutation_type="samples", n_resamples=20_000, vectorized=True, rng=0
    )
    assert ours.sign_flip(d, np.zeros(80), flips=20_000) == pytest.approx(expected.pvalue, abs=0.015)


def test_of_hits_and_misses_it_is_mcnemars_exact_test():
    better, worse = 9, 2
    hits = np.repeat([[1, 0], [0, 1], [1, 1], [0, 0]], [better, worse, 30, 40], axis=0).astype(float)
    assert ours.sign_flip(hits[:, 0], hits[:, 1]) == pytest.approx(stats.binomtest(better, better + worse).pvalue)


def test_alike_systems_are_told_apart_in_5_percent():
    g = np.random.default_rng(0)
    p = [ours.sign_flip(*g.normal(size=(2, 12)), flips=5000, seed=i) for i in range(400)]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.025)
    assert ours.sign_flip(np.ones(30), np.ones(30)) == 1


def test_groups_count_alike():
    g = np.random.default_rng(0)
    sex = np.repeat(["f", "m"], [180, 20])
    d = g.normal(size=200) * 0.5
    d[sex == "m"] += 1  # a tenth of the persons has all of the gain
    assert ours.sign_flip(d, np.zeros(200), sex) < 0.001
    weighted = np.where(sex == "m", d / 20, d / 180)
    assert ours.sign_flip(d, np.zeros(200), sex) == ours.sign_flip(weighted, np.zeros(200))


@pytest.mark.parametrize(("n", "m", "value"), [(3, 2, 1.0), (0, 0, 1.0), (3, 3, np.nan)])
def test_what_cannot_be_exchanged_is_refused(n, m, value):
    with pytest.raises(InputError):
        ours.sign_flip(np.full(n, value), np.ones(m))


# --- how many persons


def mcnemar_finds(persons, gain, discordant, times=20_000):
    shares = [(discordant + gain) / 2, (discordant - gain) / 2, 1 - discordant]
    b, c, _ = np.random.default_rng(0).multinomial(persons, shares, times).T
    return np.mean(np.abs(b - c) > stats.norm.ppf(0.975) * np.sqrt(np.maximum(b + c, 1e-9)))


@pytest.mark.parametrize(("gain", "discordant"), [(0.023, 0.43), (0.023, 0.1), (0.1, 0.3)])
def test_so_many_persons_show_the_gain_in_80_percent_of_simulated_studies(gain, discordant):
    persons = ours.paired_persons(gain, discordant)
    assert mcnemar_finds(persons, gain, discordant) == pytest.approx(0.8, abs=0.02)
    assert ours.paired_power(persons, gain, discordant) == pytest.approx(0.8, abs=0.005)


@pytest.mark.parametrize("discordant", [0.43, 0.1])
def test_the_papers_378_persons_seldom_show_its_gain(discordant):
    simulated = mcnemar_finds(378, 0.023, discordant)
    assert ours.paired_power(378, 0.023, discordant) == pytest.approx(simulated, abs=0.02)
    assert simulated < 0.35


def test_unpaired_persons_by_simulation():
    n = ours.unpaired_persons(0.321, 0.298)
    a, b = np.random.default_rng(0).binomial(n, [[0.321], [0.298]], (2, 20_000)) / n
    pooled = (a + b) / 2
    found = np.abs(a - b) > stats.norm.ppf(0.975) * np.sqrt(2 * pooled * (1 - pooled) / n)
    assert found.mean() == pytest.approx(0.8, abs=0.02)


@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_discordance_of_unrelated_hits_is_a_product_and_of_the_most_alike_is_the_gain(p, q):
    assert ours.discordance(p, q) == pytest.approx(p * (1 - q) + q * (1 - p))
    low, high = sorted([p, q])
    most = low * (1 - high) / np.sqrt(p * (1 - p) * q * (1 - q))
    assert ours.discordance(p, q, most - 1e-9) == pytest.approx(high - low, abs=1e-6)


@pytest.mark.parametrize(
    "call",
    [
        lambda: ours.paired_persons(0.1, 0.05),
        lambda: ours.paired_persons(0.0, 0.05),
        lambda: ours.paired_power(10, 0.1, 1.5),
        lambda: ours.unpaired_persons(0.3, 0.3),
        lambda: ours.unpaired_persons(1.3, 0.3),
        lambda: ours.discordance(0.9, 0.1, correlation=0.9),
        lambda: ours.paired_persons(0.1, 0.2, power=1.0),
    ],
)
def test_impossible_studies_are_refused(call):
    with pytest.raises(InputError):
        call()
