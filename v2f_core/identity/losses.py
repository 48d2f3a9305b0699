"""Losses that pull a predicted identity towards its speaker's face: Eq. 8, 9 and 10, and cosine regression."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from v2f_core.errors import InputError
from v2f_core.identity.sphere import normalise


def _cosines(a: Float[Tensor, "rows dim"], b: Float[Tensor, "columns dim"]) -> Float[Tensor, "rows columns"]:
    # autocast would do this product in bfloat16, whose cosines have three digits: at s = 30 the logits are off by 0.1
    with torch.autocast(a.device.type, enabled=False):
        return normalise(a) @ normalise(b).T


class AMSoftmax(nn.Module):
    """Additive-margin softmax over the training persons, Eq. 8.

    L = −log( exp(s(cos θ_y − m)) / (exp(s(cos θ_y − m)) + Σ_{j≠y} exp(s·cos θ_j)) ), averaged over the batch, where
    θ_j is the angle between the identity and the class vector W_j. Memory O(batch · classes). m and s are not given in
    the paper; the defaults are those of Wang et al. 2018, "Additive Margin Softmax for Face Verification".

    Args:
        classes: how many persons there are in training.
        dim: width of an identity.
        scale: s, the sharpness of the softmax.
        margin: m, in units of cosine.
        centroids: (classes, dim) class vectors to keep *fixed*, such as the mean ArcFace vector of each person. With
            free vectors (None) the loss separates persons but not at any given place; centroids tie ẑ to ArcFace.
        generator: draws the free class vectors.
    Raises:
        InputError: from the constructor for a scale that is not positive or centroids of another shape; from the call
            for a label without a class, or an identity that is zero or NaN.

    Example:
        >>> loss = AMSoftmax(classes=2, dim=2, scale=1.0, margin=0.0, centroids=torch.eye(2))
        >>> loss(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))  # −log(e / (e + 1))
        tensor(0.3133)
    """

    def __init__(
        self,
        classes: int,
        dim: int = 512,
        scale: float = 30.0,
        margin: float = 0.35,
        centroids: Float[Tensor, "classes dim"] | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if scale <= 0:
            raise InputError(f"scale {scale}: expected a positive number, such as 30")
        self.scale, self.margin = scale, margin
        self.weight: Tensor
        if centroids is None:
            self.weight = nn.Parameter(normalise(torch.randn(classes, dim, generator=generator)))
        elif centroids.shape != (classes, dim):
            raise InputError(f"centroids of shape {tuple(centroids.shape)}: expected ({classes}, {dim}), one a class")
        else:
            self.register_buffer("weight", normalise(centroids.detach()))

    def forward(self, identity: Float[Tensor, "batch dim"], label: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """The loss of a batch of identities and their class indices."""
        if bool(((label < 0) | (label >= len(self.weight))).any()):
            raise InputError(f"a label lies outside 0…{len(self.weight) - 1}; there is one class a training person")
        cosine = _cosines(identity, self.weight)
        at_target = cosine.new_full((len(label), 1), -self.margin)
        return F.cross_entropy(self.scale * cosine.scatter_add(1, label[:, None], at_target), label)


class InfoNCE(nn.Module):
    """Speech → face contrast with in-batch negatives, Eq. 9.

    L = −log( exp(cos(ẑ_i, z_i)/τ) / Σ_j exp(cos(ẑ_i, z_j)/τ) ), averaged over i. Faces of the *same* person in the
    batch are no negatives: they are left out of the sum. A batch without any negative has loss 0.

    Args:
        temperature: τ; the paper gives none.
    Raises:
        InputError: from the constructor for a temperature that is not positive; from the call for a vector that is zero
            or NaN.

    Example:
        >>> z = torch.eye(2)
        >>> InfoNCE(temperature=1.0)(z, z, torch.tensor([0, 1]))  # −log(e / (e + 1))
        tensor(0.3133)
    """

    def __init__(self, temperature: float = 0.07):
        super().__init__()
        if temperature <= 0:
            raise InputError(f"temperature {temperature}: expected a positive number, such as 0.07")
        self.temperature = temperature

    def forward(
        self, identity: Float[Tensor, "batch dim"], face: Float[Tensor, "batch dim"], label: Int[Tensor, " batch"]
    ) -> Float[Tensor, ""]:
        """The loss of predicted identities, the faces' identities row by row, and the person of each row."""
        logits = _cosines(identity, face) / self.temperature
        same_person = label[:, None] == label[None, :]
        itself = torch.eye(len(label), dtype=torch.bool, device=label.device)
        logits = logits.masked_fill(same_person & ~itself, -torch.inf)
        return F.cross_entropy(logits, torch.arange(len(label), device=label.device))


def cosine_regression(identity: Float[Tensor, "batch dim"], face: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """Mean of 1 − cos(ẑ, z): "w/ CosReg" of Table 4, and the optional anchor of :class:`IdentityLoss`.

    Its minimiser is the direction of the conditional mean E[z | voice], the best possible expected cosine.

    Raises:
        InputError: a vector is zero or NaN.

    Example:
        >>> cosine_regression(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
        tensor(1.)
    """
    return 1 - (normalise(identity) * normalise(face)).sum(dim=-1).mean()


class IdentityTerms(NamedTuple):
    """What :class:`IdentityLoss` returns: the weighted sum, and each term before its weight."""

    total: Float[Tensor, ""]
    am_softmax: Float[Tensor, ""]
    info_nce: Float[Tensor, ""]
    cosine: Float[Tensor, ""]


class IdentityLoss(nn.Module):
    """L_id = λ_AM·L_AM + λ_Info·L_InfoNCE (Eq. 10), plus λ_cos·(1 − cos).

    The paper has no cosine term: with free class vectors and InfoNCE alone nothing pulls ẑ onto the real z_arc, only
    towards its side. λ_cos = 0 is the paper; λ_AM = λ_Info = 0 is "w/ CosReg".

    Example:
        >>> loss = IdentityLoss(AMSoftmax(2, 2, centroids=torch.eye(2)), InfoNCE(), weight_cosine=1.0)
        >>> terms = loss(torch.eye(2), torch.eye(2), torch.tensor([0, 1]))
        >>> terms.cosine
        tensor(0.)
    """

    def __init__(
        self,
        am_softmax: AMSoftmax,
        info_nce: InfoNCE,
        weight_am: float = 1.0,
        weight_info: float = 1.0,
        weight_cosine: float = 0.0,
    ):
        super().__init__()
        self.am_softmax, self.info_nce = am_softmax, info_nce
        self.weight_am, self.weight_info, self.weight_cosine = weight_am, weight_info, weight_cosine

    def forward(
        self, identity: Float[Tensor, "batch dim"], face: Float[Tensor, "batch dim"], label: Int[Tensor, " batch"]
    ) -> IdentityTerms:
        """All terms for predicted identities, the faces' identities row by row, and the person of each row."""
        am = self.am_softmax(identity, label)
        info = self.info_nce(identity, face, label)
        cosine = cosine_regression(identity, face)
        total = self.weight_am * am + self.weight_info * info + self.weight_cosine * cosine
        return IdentityTerms(total, am, info, cosine)
