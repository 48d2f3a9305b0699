"""The sphere's geometry against fifty digits of mpmath, closed forms and finite differences."""

import math

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from v2f_core.errors import InputError
from v2f_core.identity.sphere import angle, check_unit, cosines, normalise, slerp, uniform


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_mpmath(a, b, share):
    """The textbook formula of slerp, which needs twice the digits that it keeps."""
    with mpmath.workdps(50):
        a, b = (mpmath.matrix([mpmath.mpf(x) for x in vector.tolist()]) for vector in (a, b))
        a, b = a / mpmath.norm(a), b / mpmath.norm(b)
        theta = mpmath.acos(mpmath.fdot(a, b))
        point = (mpmath.sin((1 - share) * theta) * a + mpmath.sin(share * theta) * b) / mpmath.sin(theta)
        return torch.tensor([float(x) for x in point], dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_normalise_gives_unit_identities_of_vectors_of_any_length(dtype):
    x = draw(20, 512).to(dtype)
    z = normalise(x)
    assert z.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    check_unit(z)
    for size in (1e-30, 1e-10, 1e10, 1e30):
        torch.testing.assert_close(normalise(x.to(z.dtype) * size), z, rtol=0, atol=1e-6)


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
def test_angle_is_exact_in_float32_with_a_finite_gradient_even_at_0_and_pi(theta):
    a = torch.tensor([1.0, 0.0], requires_grad=True)
    value = angle(a, torch.tensor([math.cos(theta), math.sin(theta)]))
    value.backward()
    assert value.item() == pytest.approx(theta, abs=2e-7)
    assert bool(a.grad.isfinite().all())


def test_cosines_are_those_of_each_pair_and_keep_float32_under_autocast():
    a, b = draw(3, 512), draw(4, 512, seed=1)
    expected = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=-1)
    torch.testing.assert_close(cosines(a, b), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cosines(a, b), cosines(a, b).float())
        torch.testing.assert_close(cosines(a, b), expected)


# --- slerp


@pytest.mark.parametrize("theta", [1e-9, 1e-6, 1e-3, 0.5, math.pi / 2, 3.0, math.pi - 1e-3])
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_slerp_agrees_with_fifty_digits(theta, share):
    a, across = torch.linalg.qr(draw(8, 2, dtype=torch.float64)).Q.T
    b = math.cos(theta) * a + math.sin(theta) * across
    torch.testing.assert_close(slerp(a, b, share), by_mpmath(a, b, share), rtol=0, atol=1e-12)
    assert torch.equal(slerp(a, a, share), normalise(a))


@given(st.integers(0, 10_000), st.floats(0, 1, allow_subnormal=False))
def test_slerp_has_even_speed(seed, share):
    a, b = normalise(draw(2, 6, seed=seed, dtype=torch.float64))
    point = check_unit(slerp(a, b, share))
    assert angle(a, point).item() == pytest.approx(share * angle(a, b).item(), abs=1e-9)
    torch.testing.assert_close(point, slerp(b, a, 1 - share), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("factor", "message"), [(-1, "opposite"), (2, "expected 1"), (math.nan, "expected 1")])
def test_what_leads_nowhere_is_refused(factor, message):
    a = normalise(draw(512))
    with pytest.raises(InputError, match=message):
        slerp(a, factor * a, 0.5)


# --- random directions


def test_uniform_directions_are_unit_and_have_no_preference():
    """The cosine of two has mean 0 and variance 1 / dim, and so has each entry."""
    z = uniform(4000, 16, torch.Generator().manual_seed(0))
    check_unit(z)
    cosine = (z[::2] * z[1::2]).sum(1)
    for numbers in (cosine, z.flatten()):
        assert numbers.mean().item() == pytest.approx(0, abs=4 * (1 / 16 / len(numbers)) ** 0.5)
        assert numbers.var().item() == pytest.approx(1 / 16, rel=0.15)
