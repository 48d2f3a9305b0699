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


def slerp(
    a: Float[Tensor, "*#batch dim"], b: Float[Tensor, "*#batch dim"], t: float | Float[Tensor, "*#batch"]
) -> Float[Tensor, "... dim"]:
    """The identity a share ``t`` of the way from ``a`` to ``b`` on the shortest great circle (Shoemake 1985).

    (sin((1 − t)θ)·a + sin(tθ)·b) / sin θ: t = 0 is a, t = 1 is b, and equal shares are equal angles. A tensor of shares
    gives a path.

    Raises:
        InputError: a or b is not of unit length, or they are opposite to each other, so that no path is the shortest.

    Example:
        >>> slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.5]))
        tensor([[1.0000, 0.0000],
                [0.7071, 0.7071]])
    """
    theta = angle(check_unit(a), check_unit(b))[..., None] / torch.pi
    if bool((theta > 1 - 4 * torch.finfo(theta.dtype).eps).any()):
        raise InputError("two identities are opposite to each other: no path between them is the shortest")
    share = torch.as_tensor(t, dtype=a.dtype, device=a.device)[..., None]
    # sin(tθ) / sin θ is t where θ is 0; sinc(x) is sin(πx) / πx
    one, other = (part * torch.sinc(part * theta) / torch.sinc(theta) for part in (1 - share, share))
    return normalise(one * a + other * b)


def mean_direction(z: Float[Tensor, "*batch items dim"]) -> Float[Tensor, "*batch dim"]:
    """The direction of the mean, which maximises the mean cosine to the items: a person's views, or the "mean face".

    Raises:
        InputError: the items cancel out, or there are none.
    """
    return normalise(z.mean(dim=-2))


def uniform(count: int, dim: int, generator: torch.Generator) -> Float[Tensor, "count dim"]:
    """Uniformly distributed directions. The cosine of two has mean 0 and variance 1 / dim: 0 ± 0.044 at 512."""
    return normalise(torch.randn(count, dim, generator=generator, device=generator.device))
