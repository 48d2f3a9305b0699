"""Geometry of the unit sphere on which identities live: S^511 for ArcFace."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from v2f_core.errors import InputError

UNIT_TOLERANCE = 1e-5


def normalise(x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    """Project vectors onto the unit sphere: x / ‖x‖ (the last step of Eq. 2 and Eq. 4), float32 or float64.

    Half precision becomes float32 first: bfloat16 has three significant digits, a unit identity needs five. The
    gradient is projected onto the tangent space.

    Raises:
        InputError: a vector is zero, infinite or NaN, so that it has no direction.

    Example:
        >>> normalise(torch.tensor([3.0, 4.0]))
        tensor([0.6000, 0.8000])
    """
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    # division by the largest entry keeps squares of very large and very small vectors representable
    largest = x.detach().abs().amax(dim=-1, keepdim=True)
    if not bool(((largest > 0) & (largest < torch.inf)).all()):
        raise InputError("a vector is zero, infinite or NaN and has no direction; check where it was computed")
    x = x / largest
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)


def check_unit(identity: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    """The identities unchanged; an ``InputError`` if one has another norm than 1 ± 1e-5, or is NaN."""
    norm = torch.linalg.vector_norm(identity.detach().to(torch.promote_types(identity.dtype, torch.float32)), dim=-1)
    off = (norm - 1).abs()
    if norm.numel() and not bool((off <= UNIT_TOLERANCE).all()):
        worst = norm.flatten()[off.flatten().nan_to_num(nan=torch.inf).argmax()].item()
        raise InputError(f"an identity has norm {worst:.6g}, expected 1; pass it through sphere.normalise first")
    return identity


def cosines(a: Float[Tensor, "rows dim"], b: Float[Tensor, "columns dim"]) -> Float[Tensor, "rows columns"]:
    """The cosine of every row of ``a`` with every row of ``b``, in float32 also under autocast.

    In bfloat16 cosines have three digits: at s = 30 the logits are off by 0.1.

    Raises:
        InputError: a vector is zero, infinite or NaN.

    Example:
        >>> cosines(torch.tensor([[3.0, 4.0]]), torch.eye(2))
        tensor([[0.6000, 0.8000]])
    """
    with torch.autocast(a.device.type, enabled=False):
        return normalise(a) @ normalise(b).T


def angle(a: Float[Tensor, "*batch dim"], b: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
    """Geodesic distance between unit vectors, in radians within [0, π].

    2·atan2(‖a − b‖, ‖a + b‖) in place of arccos(a·b), which loses half of its digits near 0 and π and has an infinite
    gradient there (Kahan, "How Futile are Mindless Assessments of Roundoff", 2006, section 12).

    Example:
        >>> angle(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
        tensor(1.5708)
    """
    apart = torch.linalg.vector_norm(a - b, dim=-1)
    together = torch.linalg.vector_norm(a + b, dim=-1)
    return 2 * torch.atan2(apart, together)


def log_map(base: Float[Tensor, "*#batch dim"], point: Float[Tensor, "*#batch dim"]) -> Float[Tensor, "... dim"]:
    """The tangent at ``base`` that points to ``point`` and is as long as the angle between them (radians).

    (θ / sin θ)·(point − cos θ·base), with the bracket computed from the shorter of point ∓ base, which is accurate near
    0 and near π. At 0 the gradient is the projection onto the tangent space.

    Raises:
        InputError: a vector is not of unit length, or both are opposite to each other.

    Example:
        >>> log_map(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
        tensor([0.0000, 1.5708])
    """
    check_unit(base)
    check_unit(point)
    cosine = (base * point).sum(dim=-1, keepdim=True)
    short = torch.where(cosine < 0, point + base, point - base)
    across = short - (short * base).sum(dim=-1, keepdim=True) * base
    sine = torch.linalg.vector_norm(across, dim=-1, keepdim=True)
    nowhere = sine <= 4 * torch.finfo(sine.dtype).eps  # too short: its direction is rounding error
    if bool((nowhere & (cosine < 0)).any()):
        raise InputError("two identities are opposite to each other: no path between them is the shortest")
    # θ / sin θ is 1 at the base, without a gradient
    ratio = torch.where(nowhere, 1.0, torch.atan2(sine, cosine) / torch.where(nowhere, 1.0, sine))
    return ratio * across


def exp_map(base: Float[Tensor, "*#batch dim"], tangent: Float[Tensor, "*#batch dim"]) -> Float[Tensor, "... dim"]:
    """The point at the end of the great circle from ``base`` in direction ``tangent``, of its length (radians).

    cos‖v‖·base + sin‖v‖/‖v‖·v: the inverse of :func:`log_map` for lengths below π, differentiable at length 0.

    Raises:
        InputError: the base is not of unit length, or the tangent is not at right angles to it.

    Example:
        >>> exp_map(torch.tensor([1.0, 0.0]), torch.tensor([0.0, torch.pi / 3]))
        tensor([0.5000, 0.8660])
    """
    check_unit(base)
    length = torch.linalg.vector_norm(tangent, dim=-1, keepdim=True)
    along = (base * tangent).sum(dim=-1, keepdim=True)
    if not bool((along.abs() <= UNIT_TOLERANCE + 1e-3 * length).all()):
        raise InputError("a tangent is not at right angles to its base (or NaN); take it from sphere.log_map")
    return normalise(torch.cos(length) * base + torch.sinc(length / torch.pi) * tangent)


def slerp(
    a: Float[Tensor, "*#batch dim"], b: Float[Tensor, "*#batch dim"], t: float | Float[Tensor, "*#batch"]
) -> Float[Tensor, "... dim"]:
    """The identity a share ``t`` of the way from ``a`` to ``b`` on the shortest great circle (Shoemake 1985).

    t = 0 is a, t = 1 is b, values outside extrapolate; equal shares are equal angles. A tensor of shares gives a path.

    Raises:
        InputError: a and b are not of unit length, or opposite to each other.

    Example:
        >>> slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.5]))
        tensor([[1.0000, 0.0000],
                [0.7071, 0.7071]])
    """
    share = torch.as_tensor(t, dtype=a.dtype, device=a.device)[..., None]
    return exp_map(a, share * log_map(a, b))


def mean_direction(z: Float[Tensor, "*batch items dim"]) -> Float[Tensor, "*batch dim"]:
    """The direction of the mean, which maximises the mean cosine to the items: a person's views, or the "mean face".

    Raises:
        InputError: the items cancel out, or there are none.
    """
    return normalise(z.mean(dim=-2))


def uniform(count: int, dim: int, generator: torch.Generator) -> Float[Tensor, "count dim"]:
    """Uniformly distributed directions. The cosine of two has mean 0 and variance 1 / dim: 0 ± 0.044 at 512."""
    return normalise(torch.randn(count, dim, generator=generator, device=generator.device))
