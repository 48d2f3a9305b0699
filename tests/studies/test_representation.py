"""Shape and likeness of spaces, against n × n tables, loops and scikit-learn; what must not change them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import spatial
from sklearn.manifold import trustworthiness

from v2f_core.errors import InputError
from v2f_core.studies import spaces as rep

seeds = st.integers(0, 10_000)


def gaussian(n, dim, seed=0):
    return np.random.default_rng(seed).standard_normal((n, dim))


def unit(n, dim, seed=0):
    x = gaussian(n, dim, seed)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def rotation(dim, seed):
    return np.linalg.qr(gaussian(dim, dim, seed))[0]


# --- effective dimension


def test_effective_dimension_from_the_covariance():
    x = gaussian(30, 4) * [3, 2, 1, 0.1]
    values = np.linalg.eigvalsh(np.cov(x.T))
    share = values / values.sum()
    found = rep.effective_dimension(x)
    assert found.participation == pytest.approx(np.trace(np.cov(x.T)) ** 2 / (np.cov(x.T) ** 2).sum())
    assert found.entropy == pytest.approx(np.exp(-(share * np.log(share)).sum()))


def test_of_few_points_the_participation_ratio_sees_d_n_over_d_plus_n():
    assert rep.effective_dimension(gaussian(200, 512)).participation == pytest.approx(512 * 200 / 712, rel=0.02)


@given(seeds)
def test_effective_dimension_ignores_rotation_shift_and_scale_and_never_exceeds_its_bounds(seed):
    x = gaussian(12, 5, seed)
    found = rep.effective_dimension(x)
    np.testing.assert_allclose(rep.effective_dimension(7 * x @ rotation(5, seed + 1) + 3), found)
    assert 1 <= found.participation <= found.entropy * (1 + 1e-12) <= 5 * (1 + 1e-12)


# --- the sphere


@given(seeds)
def test_alignment_is_2_minus_2_cosine_and_a_missed_face_has_2(seed):
    a, b = unit(5, 6, seed), unit(5, 6, seed + 1)
    a[0] = 0
    np.testing.assert_allclose(rep.alignment(a, b), 2 - 2 * (a * b).sum(1))
    np.testing.assert_allclose(rep.alignment(a, b, power=1.0), np.sqrt(2 - 2 * (a * b).sum(1)))


@given(seeds)
def test_uniformity_is_over_all_pairs_and_ignores_rotation_and_order(seed):
    z = unit(9, 5, seed)
    expected = np.log(np.exp(-2 * spatial.distance.pdist(z) ** 2).mean())
    assert rep.uniformity(z) == pytest.approx(expected)
    assert rep.uniformity(z[::-1] @ rotation(5, seed)) == pytest.approx(expected)


def test_uniformity_of_one_point_is_0_and_of_the_uniform_sphere_as_documented():
    assert rep.uniformity(np.tile(unit(1, 8), (5, 1))) == pytest.approx(0)
    assert rep.uniformity(unit(1000, 512)) == pytest.approx(-4 * (1 - 2 / 512), abs=0.002)


def test_uniformity_refuses_what_is_not_on_the_sphere():
    z = unit(4, 3)
    z[2] = 0
    with pytest.raises(InputError, match="row 2 has not norm 1"):
        rep.uniformity(z)
    with pytest.raises(InputError, match="at least 2"):
        rep.uniformity(z[:1])


# --- CKA


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
def test_cka_equals_the_u_centred_tables(seed):
    x = gaussian(10, 4, seed)
    y = x[:, :2] + gaussian(10, 2, seed + 1)
    assert rep.cka(x, y) == pytest.approx(cka_by_tables(x, y))


@given(seeds)
def test_cka_ignores_rotation_shift_scale_and_a_common_order(seed):
    x, y = gaussian(12, 5, seed), gaussian(12, 3, seed + 1)
    order = np.random.default_rng(seed).permutation(12)
    changed = rep.cka(5 * x[order] @ rotation(5, seed) + 1, y[order])
    assert changed == pytest.approx(rep.cka(x, y), abs=1e-9) == pytest.approx(rep.cka(y, x), abs=1e-9)
    assert rep.cka(x, x) == pytest.approx(1)


def test_cka_of_unrelated_wide_spaces_is_0_where_the_plain_form_says_nearly_1():
    found = [rep.cka(gaussian(40, 512, 2 * i), gaussian(40, 512, 2 * i + 1)) for i in range(20)]
    assert np.mean(found) == pytest.approx(0, abs=0.01)
    x, y = (gaussian(40, 512, i) - gaussian(40, 512, i).mean(0) for i in (0, 1))
    plain = ((x.T @ y) ** 2).sum() / np.sqrt(((x @ x.T) ** 2).sum() * ((y @ y.T) ** 2).sum())
    assert plain > 0.8


# --- neighbours


def neighbours(x, k):
    return [set(sorted(set(range(len(x))) - {i}, key=lambda j: np.linalg.norm(x[i] - x[j]))[:k]) for i in range(len(x))]


@given(seeds, st.integers(1, 6))
def test_mutual_knn_by_loops(seed, k):
    x, y = unit(11, 4, seed), unit(11, 3, seed + 1)
    expected = [len(a & b) / k for a, b in zip(neighbours(x, k), neighbours(y, k), strict=True)]
    np.testing.assert_allclose(rep.mutual_knn(3 * x, y * np.arange(1, 12)[:, None], k), expected)


def test_mutual_knn_has_the_documented_chance():
    assert rep.mutual_knn(gaussian(600, 8), gaussian(600, 8, 1), 60).mean() == pytest.approx(60 / 599, abs=0.005)


def test_knowing_sex_alone_makes_spaces_alike_but_not_within_sex():
    sex = np.repeat([-1.0, 1.0], 60)[:, None]
    x, y = (np.hstack([5 * sex, gaussian(120, 3, seed)]) for seed in (0, 1))
    assert rep.cka(x, y) > 0.8
    assert rep.mutual_knn(x, y).mean() > 1.5 * 10 / 119
    assert abs(rep.cka(x[:60], y[:60])) < 0.2
    assert rep.mutual_knn(x[:60], y[:60]).mean() == pytest.approx(10 / 59, abs=0.06)


@settings(max_examples=20)
@given(seeds)
def test_preservation_is_scikit_learns_both_ways(seed):
    space, picture = gaussian(30, 6, seed), gaussian(30, 6, seed)[:, :2]
    found = rep.preservation(space, picture, k=5)
    assert found.trustworthiness == pytest.approx(trustworthiness(space, picture, n_neighbors=5))
    assert found.continuity == pytest.approx(trustworthiness(picture, space, n_neighbors=5))
    assert found.shared == pytest.approx(
        np.mean([len(a & b) / 5 for a, b in zip(neighbours(space, 5), neighbours(picture, 5), strict=True)])
    )


def test_a_random_picture_keeps_half_and_shares_chance():
    found = rep.preservation(gaussian(500, 8), gaussian(500, 2, 1), k=10)
    assert found.trustworthiness == pytest.approx(0.5, abs=0.03)
    assert found.continuity == pytest.approx(0.5, abs=0.03)
    assert found.shared == pytest.approx(10 / 499, abs=0.01)


# --- what is refused


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda: rep.cka(gaussian(5, 2), gaussian(6, 2)), "same persons"),
        (lambda: rep.cka(gaussian(3, 2), gaussian(3, 2)), "at least 4"),
        (lambda: rep.cka(np.ones((5, 2)), gaussian(5, 2)), "alike"),
        (lambda: rep.effective_dimension(np.full((5, 2), np.nan)), "NaN"),
        (lambda: rep.effective_dimension(np.ones((5, 2))), "alike"),
        (lambda: rep.mutual_knn(gaussian(5, 2), np.vstack([gaussian(4, 2), [0, 0]])), "row 4 is a zero vector"),
        (lambda: rep.mutual_knn(gaussian(5, 2), gaussian(5, 2), k=4), "expected 1 to 3"),
        (lambda: rep.preservation(gaussian(9, 3), gaussian(9, 2), k=5), "fewer than half"),
    ],
)
def test_what_has_no_geometry_is_refused(measure, message):
    with pytest.raises(InputError, match=message):
        measure()
