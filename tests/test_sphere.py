"""The sphere's geometry against float64, closed forms and finite differences."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from v2f_core.errors import InputError
from v2f_core.identity.sphere import angle, check_unit, frechet_mean, mean_direction, normalise


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_normalise_gives_unit_identities(dtype):
    z = normalise(draw(20, 512).to(dtype))
    assert z.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    check_unit(z)


@pytest.mark.parametrize("size", [1e-30, 1e-10, 1.0, 1e10, 1e30])
def test_normalise_forgets_the_length_whatever_it_is(size):
    x = draw(5, 512)
    torch.testing.assert_close(normalise(x * size), normalise(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_what_has_no_direction_is_refused(bad):
    x = torch.ones(3, 4)
    x[1] = bad
    with pytest.raises(InputError, match="no direction"):
        normalise(x)


def test_normalise_gradient_is_the_finite_difference_and_tangent():
    x = draw(3, 7, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(normalise, x)
    (gradient,) = torch.autograd.grad(normalise(x)[:, 0].sum(), x)
    torch.testing.assert_close((gradient * x).sum(-1), torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("norm", [1 + 2e-5, 1 - 2e-5, 0.0, math.nan])
def test_check_unit_refuses_other_lengths(norm):
    z = normalise(draw(4, 512))
    check_unit(z)
    z[2] = norm * z[2]
    with pytest.raises(InputError, match="expected 1"):
        check_unit(z)


@pytest.mark.parametrize("theta", [0.0, 1e-6, 1e-3, 0.5, math.pi / 2, 3.0, math.pi - 1e-4, math.pi])
def test_angle_is_exact_in_float32_even_near_0_and_pi(theta):
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([math.cos(theta), math.sin(theta)], dtype=torch.float64)
    assert angle(a, b.float()).item() == pytest.approx(theta, abs=2e-7)


@pytest.mark.parametrize("theta", [0.0, math.pi])
def test_angle_has_a_finite_gradient_where_arccos_has_none(theta):
    a = torch.tensor([1.0, 0.0], requires_grad=True)
    angle(a, torch.tensor([math.cos(theta), 0.0])).backward()
    assert bool(a.grad.isfinite().all())


@given(st.integers(0, 10_000))
def test_angle_is_a_metric_and_blind_to_rotation(seed):
    a, b, c = normalise(draw(3, 6, seed=seed, dtype=torch.float64))
    rotation = torch.linalg.qr(draw(6, 6, seed=seed + 1, dtype=torch.float64)).Q
    assert angle(a, b).item() == pytest.approx(angle(b, a).item(), abs=1e-12)
    assert angle(a, c) <= angle(a, b) + angle(b, c) + 1e-12
    assert angle(rotation @ a, rotation @ b).item() == pytest.approx(angle(a, b).item(), abs=1e-12)
    assert angle(a, b).item() == pytest.approx(math.acos((a @ b).item()), abs=1e-7)


def test_mean_direction_has_the_best_mean_cosine():
    z = normalise(draw(9, 5) + 1)
    best = mean_direction(z)
    other = normalise(best + 0.05 * draw(200, 5, seed=1))
    assert (z @ best).mean() >= (other @ z.T).mean(dim=1).max()


def test_opposite_items_have_no_mean():
    with pytest.raises(InputError, match="no direction"):
        mean_direction(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))


def test_frechet_mean_on_a_circle_is_the_mean_angle():
    angles = torch.tensor([-0.9, 0.1, 0.3, 1.2], dtype=torch.float64)
    points = torch.stack([angles.cos(), angles.sin()], dim=1)
    mean = frechet_mean(points, tolerance=1e-12)
    assert math.atan2(mean[1], mean[0]) == pytest.approx(angles.mean().item(), abs=1e-10)


def test_frechet_mean_has_the_least_squared_angle():
    z = normalise(draw(9, 5, dtype=torch.float64) + 1)
    best = frechet_mean(z)
    other = normalise(best + 0.03 * draw(200, 5, seed=1, dtype=torch.float64))
    spread = [angle(z, mean.expand_as(z)).square().mean().item() for mean in (best, *other)]
    assert min(spread) == spread[0]


def test_frechet_mean_of_one_point_is_the_point():
    z = normalise(draw(1, 512))
    torch.testing.assert_close(frechet_mean(z), z[0])


def test_a_spread_around_the_whole_sphere_has_no_frechet_mean():
    z = torch.tensor([[1.0, 0.01, 0.0], [-1.0, 0.01, 0.0]])
    with pytest.raises(InputError, match="half-sphere"):
        frechet_mean(z, max_steps=3)
