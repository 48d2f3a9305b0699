"""Distances of clouds: by loops and scipy's matrix root, without bias where that is claimed, blind to order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from v2f_core.errors import InputError
from v2f_core.evaluation.distribution import frechet_on_components, kernel_distance


def cloud(n, dim=6, seed=0, shift=1.0):
    x = np.random.default_rng(seed).standard_normal((n, dim)) + shift * np.eye(dim)[0]
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def mmd_by_loops(x, y):
    def mean(a, b, diagonal):
        values = [(a[i] @ b[j] + 1) ** 3 for i in range(len(a)) for j in range(len(b)) if diagonal or i != j]
        return np.mean(values)

    return mean(x, x, False) + mean(y, y, False) - 2 * mean(x, y, True)


# --- kernel distance


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_kernel_distance_by_loops_in_any_order_and_rotation(seed):
    x, y = cloud(9, seed=seed), cloud(7, seed=seed + 1, shift=0.5)
    found = kernel_distance(x, y, subsets=3)
    assert found.value == pytest.approx(mmd_by_loops(x, y))
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((6, 6)))[0]
    assert kernel_distance(x[::-1] @ turn, y @ turn, subsets=0).value == pytest.approx(found.value)
    assert kernel_distance(y, x, subsets=0).value == pytest.approx(found.value)
    assert (found.generated, found.real, found.subset) == (9, 7, 3)


def test_large_clouds_are_summed_in_blocks():
    x, y = cloud(2100, seed=1), cloud(1500, seed=2, shift=0.9)
    kernels = [(a @ b.T + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    off = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in kernels[:2]]
    assert kernel_distance(x, y, subsets=0).value == pytest.approx(sum(off) - 2 * kernels[2].mean())


@pytest.mark.parametrize("n", [10, 50])
def test_kernel_distance_of_one_kind_is_0_on_average_however_few(n):
    values = [kernel_distance(cloud(n, seed=2 * i), cloud(n, seed=2 * i + 1), subsets=0).value for i in range(300)]
    assert np.mean(values) == pytest.approx(0, abs=4 * np.std(values) / 300**0.5)
    assert min(values) < 0


def test_the_deviation_is_that_of_clouds_as_small_as_the_subsets():
    found = kernel_distance(cloud(2000, seed=1), cloud(2000, seed=2), subsets=200, subset=40)
    fresh = [kernel_distance(cloud(40, seed=2 * i), cloud(40, seed=2 * i + 1), subsets=0).value for i in range(200)]
    assert found.deviation == pytest.approx(np.std(fresh), rel=0.25)
    assert found == kernel_distance(cloud(2000, seed=1), cloud(2000, seed=2), subsets=200, subset=40)


def test_one_face_for_all_is_far_from_a_varied_crowd():
    crowd = cloud(200, seed=3)
    near = kernel_distance(cloud(200, seed=4), crowd)
    far = kernel_distance(np.tile(crowd.mean(0) / np.linalg.norm(crowd.mean(0)), (200, 1)), crowd)
    assert far.value > 10 * abs(near.value)


# --- Fréchet


def test_frechet_by_scipys_matrix_root():
    x, y = cloud(80, 5, 1, 2.0), cloud(60, 5, 2)
    root = sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
    found = frechet_on_components(x, y, components=5)
    assert found.value == pytest.approx(expected)
    assert found.explained == pytest.approx(1)
    assert frechet_on_components(x, x, components=3).value == pytest.approx(0, abs=1e-9)


def test_components_are_those_of_the_real_faces():
    g = np.random.default_rng(0)
    real = g.standard_normal((300, 4)) * [10, 5, 0.1, 0.1]
    found = frechet_on_components(real + np.array([0, 0, 7, 7]), real, components=2)  # what differs is not looked at
    assert found.value == pytest.approx(0, abs=1e-2)
    assert found.explained == pytest.approx(125 / 125.02, abs=1e-3)
    assert frechet_on_components(real + np.array([3, 0, 0, 0]), real, components=1).value == pytest.approx(9, rel=1e-3)


def test_frechet_of_one_kind_falls_with_the_number_of_faces():
    def average(n):
        return np.mean(
            [frechet_on_components(cloud(n, 16, 2 * i), cloud(n, 16, 2 * i + 1), 16).value for i in range(40)]
        )

    assert average(40) > 3 * average(400)


# --- what is counted, and what is refused


def test_undetected_faces_are_left_out_and_counted():
    x, y = cloud(30, seed=1), cloud(30, seed=2)
    lost = np.vstack([x, np.zeros((3, 6))])
    assert kernel_distance(lost, y).undetected == (3, 0)
    assert kernel_distance(lost, y).value == kernel_distance(x, y).value
    found = frechet_on_components(lost, y, 4)
    assert (found.value, found.undetected) == (frechet_on_components(x, y, 4).value, (3, 0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernel_distance(cloud(3), cloud(9)), "3 detected faces of 3: expected at least 4"),
        (lambda: kernel_distance(np.zeros((9, 6)), cloud(9)), "0 detected faces of 9"),
        (lambda: kernel_distance(np.full((9, 6), np.nan), cloud(9)), "NaN"),
        (lambda: frechet_on_components(cloud(9), cloud(9), 5), "9 detected faces of 9: expected at least 10"),
        (lambda: frechet_on_components(cloud(99), cloud(99), 7), "expected 1 to 6"),
        (lambda: frechet_on_components(cloud(300, 100), cloud(300, 100), 65), "expected 1 to 64"),
    ],
)
def test_clouds_too_small_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
