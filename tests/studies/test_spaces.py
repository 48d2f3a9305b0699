"""Likeness of spaces, against n × n tables and loops; what must not change them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from v2f_core.errors import InputError
from v2f_core.studies import spaces

seeds = st.integers(0, 10_000)


def gaussian(n, dim, seed=0):
    return np.random.default_rng(seed).standard_normal((n, dim))


def cka_by_tables(x, y):
    """Song et al. 2012: inner products of U-centred n × n kernels, entry by entry."""

    def centred(s):
        n, k = len(s), s @ s.T
        np.fill_diagonal(k, 0)
        rows, total = k.sum(1), k.sum()
        u = k - rows[:, None] / (n - 2) - rows[None, :] / (n - 2) + total / ((n - 1) * (n - 2))
        np.fill_diagonal(u, 0)
        return u

    u, v = centred(x), centred(y)
    return (u * v).sum() / np.sqrt((u * u).sum() * (v * v).sum())


@given(seeds)
def test_cka_equals_the_u_centred_tables_whatever_the_rotation_shift_scale_and_order(seed):
    x = gaussian(12, 4, seed)
    y = x[:, :2] + gaussian(12, 2, seed + 1)
    expected, order = cka_by_tables(x, y), np.random.default_rng(seed).permutation(12)
    assert spaces.cka(x, y) == pytest.approx(expected)
    turn = np.linalg.qr(gaussian(4, 4, seed))[0]
    assert spaces.cka(y[order], 5 * x[order] @ turn + 1) == pytest.approx(expected, abs=1e-9)
    assert spaces.cka(x, x) == pytest.approx(1)


@given(seeds, st.integers(1, 6))
def test_mutual_knn_by_loops(seed, k):
    def neighbours(x, i):
        return {*sorted({*range(11)} - {i}, key=lambda j: np.linalg.norm(x[i] - x[j]))[:k]}

    x, y = gaussian(11, 4, seed), gaussian(11, 3, seed + 1)
    expected = [len(neighbours(x, i) & neighbours(y, i)) / k for i in range(11)]
    np.testing.assert_allclose(spaces.mutual_knn(3 * x, y, k), expected)


def test_knowing_sex_alone_makes_spaces_alike_but_not_within_sex():
    sex = np.repeat([-1.0, 1.0], 60)[:, None]
    x, y = (np.hstack([5 * sex, gaussian(120, 3, seed)]) for seed in (0, 1))
    assert spaces.cka(x, y) > 0.8
    assert spaces.mutual_knn(x, y).mean() > 1.5 * 10 / 119
    assert abs(spaces.cka(x[:60], y[:60])) < 0.2
    assert spaces.mutual_knn(x[:60], y[:60]).mean() == pytest.approx(10 / 59, abs=0.06)


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda: spaces.cka(gaussian(5, 2), gaussian(6, 2)), "same persons"),
        (lambda: spaces.cka(gaussian(3, 2), gaussian(3, 2)), "at least 4"),
        (lambda: spaces.cka(np.ones((5, 2)), gaussian(5, 2)), "alike"),
        (lambda: spaces.cka(np.full((5, 2), np.nan), gaussian(5, 2)), "finite"),
        (lambda: spaces.mutual_knn(gaussian(5, 2), gaussian(5, 2), k=4), "expected 1 to 3"),
    ],
)
def test_what_has_no_geometry_is_refused(measure, message):
    with pytest.raises(InputError, match=message):
        measure()
