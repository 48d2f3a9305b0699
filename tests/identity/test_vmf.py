"""Random identities against Bessel functions, integrated densities and scipy's own sampler."""

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import integrate, stats

from v2f_core.errors import InputError
from v2f_core.identity.sphere import check_unit, normalise
from v2f_core.identity.vmf import uniform, von_mises_fisher


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pole(dim):
    return normalise(torch.randn(dim, generator=seeded(99), dtype=torch.float64))


def mean_cosine(concentration, dim):
    """A(κ) = I_{d/2}(κ) / I_{d/2 − 1}(κ), by mpmath."""
    half = mpmath.mpf(dim) / 2
    return float(mpmath.besseli(half, concentration) / mpmath.besseli(half - 1, concentration))


# --- uniform


@pytest.mark.parametrize("dim", [2, 3, 512])
def test_the_cosine_of_uniform_directions_is_a_stretched_beta(dim):
    z = check_unit(uniform(2000, dim, seeded()))
    shape = (dim - 1) / 2
    assert stats.kstest((z[:, 0].numpy() + 1) / 2, stats.beta(shape, shape).cdf).pvalue > 0.01


def test_uniform_has_no_preferred_direction():
    z = uniform(20_000, 4, seeded(), torch.float64)
    torch.testing.assert_close(z.mean(dim=0), torch.zeros(4).double(), rtol=0, atol=0.02)
    torch.testing.assert_close(z.T @ z / len(z), torch.eye(4).double() / 4, rtol=0, atol=0.01)


# --- von Mises–Fisher


@pytest.mark.parametrize("dim", [2, 3, 512])
@pytest.mark.parametrize("concentration", [1.0, 30.0, 341.0, 1e5])
def test_the_mean_cosine_is_a_ratio_of_bessel_functions(dim, concentration):
    draws = von_mises_fisher(pole(dim), concentration, 2000, seeded(1))
    cosine = draws @ pole(dim)
    error = cosine.std().item() / 2000**0.5
    assert cosine.mean().item() == pytest.approx(mean_cosine(concentration, dim), abs=3.5 * error + 1e-12)


@pytest.mark.parametrize("concentration", [20.0, 341.0])
def test_in_512_dimensions_the_cosine_has_its_density_integrated(concentration):
    def log_density(w):
        return concentration * w + (512 - 3) / 2 * np.log1p(-(w**2))

    grid = np.linspace(-0.999, 0.999, 20_001)
    height = log_density(grid)
    cdf = integrate.cumulative_trapezoid(np.exp(height - height.max()), grid, initial=0)
    cosine = (von_mises_fisher(pole(512), concentration, 2000, seeded(2)) @ pole(512)).numpy()
    assert stats.kstest(cosine, lambda w: np.interp(w, grid, cdf / cdf[-1])).pvalue > 0.01


def test_on_the_globe_the_cosine_has_a_closed_form():
    kappa = 3.0
    cosine = (von_mises_fisher(pole(3), kappa, 5000, seeded(3)) @ pole(3)).numpy()
    cdf = stats.truncexpon(b=2 * kappa, scale=1 / kappa).cdf  # of 1 − cos θ
    assert stats.kstest(1 - cosine, cdf).pvalue > 0.01


@pytest.mark.parametrize("dim", [3, 8])
def test_every_coordinate_is_distributed_as_scipy_draws_it(dim):
    mean = pole(dim)
    ours = von_mises_fisher(mean, 5.0, 4000, seeded(4)).numpy()
    theirs = stats.vonmises_fisher(mean.numpy(), 5.0).rvs(4000, random_state=np.random.default_rng(4))
    for axis in range(dim):
        assert stats.ks_2samp(ours[:, axis], theirs[:, axis]).pvalue > 0.001


def test_around_the_mean_no_side_is_preferred():
    mean = pole(5)
    draws = von_mises_fisher(mean, 4.0, 20_000, seeded(5))
    sideways = normalise(draws - (draws @ mean)[:, None] * mean)
    projection = torch.eye(5).double() - torch.outer(mean, mean)
    torch.testing.assert_close(sideways.mean(dim=0), torch.zeros(5).double(), rtol=0, atol=0.02)
    torch.testing.assert_close(sideways.T @ sideways / len(draws), projection / 4, rtol=0, atol=0.01)


def test_no_concentration_is_uniform_and_very_much_is_the_mean_itself():
    flat = von_mises_fisher(pole(3), 0.0, 3000, seeded(6)) @ pole(3)
    assert stats.kstest(flat.numpy(), stats.uniform(-1, 2).cdf).pvalue > 0.01
    torch.testing.assert_close(von_mises_fisher(pole(3), 1e15, 5, seeded()), pole(3).expand(5, 3), rtol=0, atol=1e-6)


@pytest.mark.parametrize("wanted", [0.2, 0.5, 0.9])
def test_the_documented_concentration_gives_the_wanted_mean_cosine(wanted):
    assert mean_cosine(wanted * (512 - wanted**2) / (1 - wanted**2), 512) == pytest.approx(wanted, abs=1e-3)


def test_draws_are_unit_identities_and_the_seed_decides_them():
    mean = pole(512).float()
    draws = check_unit(von_mises_fisher(mean, 300.0, 50, seeded()))
    assert draws.dtype == torch.float32
    assert torch.equal(draws, von_mises_fisher(mean, 300.0, 50, seeded()))
    assert not torch.equal(draws, von_mises_fisher(mean, 300.0, 50, seeded(1)))
    assert von_mises_fisher(mean, 300.0, 0, seeded()).shape == (0, 512)


@pytest.mark.parametrize(
    ("mean", "concentration", "message"),
    [
        (torch.eye(3)[0], -1.0, "from 0 to 1e15"),
        (torch.eye(3)[0], math.inf, "from 0 to 1e15"),
        (torch.eye(3)[0], math.nan, "from 0 to 1e15"),
        (torch.ones(3), 1.0, "expected 1"),
        (torch.ones(1), 1.0, "at least 2"),
    ],
)
def test_no_direction_or_no_concentration_is_refused(mean, concentration, message):
    with pytest.raises(InputError, match=message):
        von_mises_fisher(mean, concentration, 3, seeded())
