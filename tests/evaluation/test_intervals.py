"""Bootstrap intervals against scipy, closed forms and their own promise of 95 %."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from v2f_core.errors import InputError
from v2f_core.evaluation import metrics


def test_bca_agrees_with_scipy_of_one_system_and_of_two_that_answer_the_same_persons():
    g = np.random.default_rng(0)
    theirs = g.exponential(size=60)  # persons differ by 1, the systems by 0.1
    ours = theirs + 0.1 + 0.05 * g.normal(size=60)
    how = {"method": "BCa", "n_resamples": 20_000, "rng": 0}
    low, high = stats.bootstrap((theirs,), np.mean, **how).confidence_interval
    found = metrics.bootstrap(theirs, resamples=20_000)
    assert found == pytest.approx((theirs.mean(), low, high), abs=0.02)

    def difference(a, b, axis):
        return a.mean(axis) - b.mean(axis)

    low, high = stats.bootstrap((ours, theirs), difference, paired=True, vectorized=True, **how).confidence_interval
    gain = metrics.paired_difference(ours, theirs, resamples=20_000)
    assert gain == pytest.approx((ours.mean() - theirs.mean(), low, high), abs=1e-3)


def test_the_95_percent_interval_holds_the_truth_in_about_95_percent():
    g = np.random.default_rng(2)
    found = [metrics.bootstrap((g.random(100) < 0.3).astype(float), resamples=500) for _ in range(300)]
    assert 0.91 <= np.mean([interval.low <= 0.3 <= interval.high for interval in found]) <= 0.985


def test_groups_are_macro_averaged_and_resampled_apart():
    groups = np.repeat(["f", "m"], [90, 10])
    interval = metrics.bootstrap(np.repeat([0.0, 1.0], [90, 10]), groups=groups)
    assert interval == (0.5, 0.5, 0.5)  # between the groups there is a difference, but no doubt
    noisy = np.random.default_rng(3).normal(size=100)
    error = np.sqrt(noisy[:90].var() / 90 + noisy[90:].var() / 10) / 2
    wide = metrics.bootstrap(noisy, groups=groups)
    assert (wide.high - wide.low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("values", [np.ones(1), np.array([1.0, np.nan, 0.0])])
def test_one_person_or_nan_cannot_be_bootstrapped(values):
    with pytest.raises(InputError, match="bootstrap"):
        metrics.bootstrap(values)


@given(st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=8))
def test_holm_steps_down_and_is_never_above_bonferroni(p):
    """The corrected p is the smallest level at which the procedure rejects."""
    adjusted, so_far = metrics.holm(np.array(p)), 0.0
    for step, i in enumerate(np.argsort(p, kind="stable")):
        so_far = max(so_far, min(1.0, (len(p) - step) * p[i]))
        assert adjusted[i] == pytest.approx(so_far)
    assert (adjusted <= np.minimum(1, len(p) * np.array(p)) + 1e-12).all()
