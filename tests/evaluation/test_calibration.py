"""Calibration on Gaussian scores, whose true probability is known; reliability by counting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from v2f_core.errors import InputError
from v2f_core.evaluation.calibration import calibrate, reliability


def scores(n=20_000, seed=0):
    g = np.random.default_rng(seed)
    return g.normal(0.5, 0.2, n), g.normal(0.1, 0.2, n)


def truth(x):
    return norm.pdf(x, 0.5, 0.2) / (norm.pdf(x, 0.5, 0.2) + norm.pdf(x, 0.1, 0.2))


@pytest.mark.parametrize("method", ["isotonic", "logistic"])
def test_the_true_probability_is_found(method):
    x = np.linspace(-0.2, 0.8, 21)
    np.testing.assert_allclose(calibrate(*scores(), method)(x), truth(x), atol=0.05 if method == "isotonic" else 0.02)


@pytest.mark.parametrize("method", ["isotonic", "logistic"])
def test_it_rises_stays_a_probability_and_is_reliable_on_other_pairs(method):
    probability = calibrate(*scores(), method)
    said = probability(np.linspace(-5, 5, 100))
    assert (np.diff(said) >= 0).all()
    assert (said >= 0).all()
    assert (said <= 1).all()
    same, different = scores(seed=1)
    held_out = reliability(
        probability(np.concatenate([same, different])), np.repeat([True, False], [len(same), len(different)])
    )
    assert held_out.ece < 0.015


def test_it_answers_for_the_odds_it_was_fitted_on():
    same, different = scores()
    rare = calibrate(same[:2000], different, "logistic")(np.array([0.3]))
    assert rare[0] == pytest.approx(1 / 11, abs=0.02)  # the scores say even, but one pair in eleven is of one person


@given(
    st.lists(st.tuples(st.floats(0, 1, allow_subnormal=False), st.booleans()), min_size=1, max_size=30),
    st.integers(1, 12),
)
def test_reliability_by_counting(pairs, bins):
    said, same = (np.array(column) for column in zip(*pairs, strict=True))
    found = reliability(said, same, bins)
    gaps = 0.0
    for b in range(bins):
        inside = [i for i in range(len(said)) if min(int(said[i] * bins), bins - 1) == b]
        assert found.pairs[b] == len(inside)
        if inside:
            assert found.said[b] == pytest.approx(said[inside].mean())
            assert found.found[b] == pytest.approx(same[inside].mean())
            gaps += len(inside) / len(said) * abs(said[inside].mean() - same[inside].mean())
        else:
            assert np.isnan([found.said[b], found.found[b]]).all()
    assert found.ece == pytest.approx(gaps)


def test_a_cosine_is_no_probability():
    same, different = scores()
    naive = np.clip(np.concatenate([same, different]), 0, 1)
    assert reliability(naive, np.repeat([True, False], [len(same), len(different)])).ece > 0.15


@pytest.mark.parametrize(
    "call",
    [
        lambda: calibrate(np.ones(3), np.zeros(3), "magic"),
        lambda: calibrate(np.ones(3), np.zeros(0)),
        lambda: calibrate(np.array([np.nan]), np.zeros(2)),
        lambda: reliability(np.array([1.2]), np.array([True])),
        lambda: reliability(np.array([np.nan]), np.array([True])),
        lambda: reliability(np.zeros(0), np.zeros(0, bool)),
    ],
)
def test_what_cannot_be_calibrated_is_refused(call):
    with pytest.raises(InputError):
        call()
