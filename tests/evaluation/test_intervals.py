"""Bootstrap intervals against scipy, closed forms and their own promise of 95 %."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from v2f_core.errors import InputError
from v2f_core.evaluation import intervals

# --- one system


def test_bca_agrees_with_scipy():
    values = np.random.default_rng(0).exponential(size=60)
    ours = intervals.bootstrap(values, resamples=20_000)
    theirs = stats.bootstrap((values,), np.mean, method="BCa", n_resamples=20_000, rng=0).confidence_interval
    assert ours.value == values.mean()
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_the_95_percent_interval_holds_the_truth_in_about_95_percent():
    g = np.random.default_rng(2)
    held = 0
    for seed in range(300):
        interval = intervals.bootstrap((g.random(100) < 0.3).astype(float), resamples=500, seed=seed)
        held += interval.low <= 0.3 <= interval.high
    assert 0.91 <= held / 300 <= 0.985


def test_groups_are_macro_averaged_and_resampled_apart():
    groups = np.repeat(["f", "m"], [90, 10])
    values = np.repeat([0.0, 1.0], [90, 10])
    interval = intervals.bootstrap(values, groups=groups)
    assert interval == (0.5, 0.5, 0.5)  # between the groups there is a difference, but no doubt
    g = np.random.default_rng(3)
    noisy = g.normal(size=100)
    error = np.sqrt(noisy[:90].var() / 90 + noisy[90:].var() / 10) / 2
    wide = intervals.bootstrap(noisy, groups=groups)
    assert (wide.high - wide.low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("values", [np.ones(1), np.array([1.0, np.nan, 0.0])])
def test_one_person_or_nan_cannot_be_bootstrapped(values):
    with pytest.raises(InputError, match="bootstrap"):
        intervals.bootstrap(values)


# --- two systems, the same persons


def two_systems(n=60, seed=0):
    """Persons differ by 1, the systems by 0.1."""
    g = np.random.default_rng(seed)
    theirs = g.normal(size=n)
    return theirs + 0.1 + 0.05 * g.normal(size=n), theirs


def test_the_paired_difference_agrees_with_scipy():
    ours, theirs = two_systems()
    found = intervals.paired_difference(ours, theirs, resamples=20_000)
    expected = stats.bootstrap(
        (ours, theirs),
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        paired=True,
        method="BCa",
        n_resamples=20_000,
        rng=0,
        vectorized=True,
    ).confidence_interval
    assert found.value == pytest.approx(ours.mean() - theirs.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-3)
    assert found.n == 60


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
    adjusted = intervals.holm(np.array(p))
    np.testing.assert_allclose(adjusted, holm_by_steps(p))
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(1, len(p) * np.array(p)) + 1e-12).all()
