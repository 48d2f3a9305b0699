"""Losses between a predicted identity and its speaker's face: margins (Eq. 8), InfoNCE (Eq. 9), L_id (Eq. 10)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor, nn

from v2f_core.errors import InputError
from v2f_core.identity.sphere import angle, cosines, normalise

Identities = Float[Tensor, "batch dim"]
Labels = Integer[Tensor, " batch"]
Loss = Float[Tensor, ""]


class AMSoftmax(nn.Module):
    """Additive-margin softmax over the training persons, Eq. 8.

    L = −log( exp(s(cos θ_y − m)) / (exp(s(cos θ_y − m)) + Σ_{j≠y} exp(s·cos θ_j)) ), averaged over the batch, where
    θ_j is the angle between the identity and the class vector W_j. The paper gives no m and s; the defaults are from
    Wang et al. 2018, "Additive Margin Softmax for Face Verification".

    Args:
        scale, margin: s, the sharpness of the softmax; m, in units of cosine.
        centroids: *fixed* class vectors, such as each person's mean z_arc; they tie ẑ to ArcFace. Without them class
            vectors are trained: these separate persons but do not place them.
        generator: draws the initial values of trained class vectors.
    Raises:
        InputError: a number is out of its range, or the centroids have another shape; in a call, a label has no class.

    Example:
        >>> loss = AMSoftmax(classes=2, dim=2, scale=1.0, margin=0.0, centroids=torch.eye(2))
        >>> loss(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))  # −log(e / (e + 1))
        tensor(0.3133)
    """

    widest, unit = 2.0, "since cosines lie at most 2 apart, such as 0.35"  # of the margin

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
        if not 0 < scale < math.inf:
            raise InputError(f"scale {scale}: expected a positive number, such as 30")
        if not 0 <= margin <= self.widest:
            raise InputError(f"margin {margin}: expected 0 to {self.widest:.3g}, {self.unit}")
        self.scale, self.margin = scale, margin
        self.weight: Tensor
        if centroids is None:
            self.weight = nn.Parameter(normalise(torch.randn(classes, dim, generator=generator)))
        elif centroids.shape != (classes, dim):
            raise InputError(f"centroids of shape {tuple(centroids.shape)}: expected ({classes}, {dim}), one a class")
        else:
            self.register_buffer("weight", normalise(centroids.detach()))

    def forward(self, identity: Identities, label: Labels) -> Loss:
        """The loss of a batch of identities and their class indices."""
        label = label.long()
        if bool(((label < 0) | (label >= len(self.weight))).any()):
            raise InputError(f"a label lies outside 0…{len(self.weight) - 1}; there is one class a training person")
        cosine = cosines(identity, self.weight)
        target = F.one_hot(label, len(self.weight)).to(cosine)
        return F.cross_entropy(self.scale * (cosine + target * self._change(identity, label)), label)

    def _change(self, identity: Identities, label: Labels) -> Tensor | float:
        """What the margin adds to the cosine of the target class."""
        return -self.margin


class ArcFaceLoss(AMSoftmax):
    """Additive *angular* margin: the target logit is s·cos(θ_y + m) in place of s(cos θ_y − m) of Eq. 8.

    Beyond θ_y = π − m this cosine would rise again. There the target logit is s(cos θ_y − m·sin m), as in the authors'
    code, which keeps falling. Deng et al. 2019, "ArcFace: Additive Angular Margin Loss for Deep Face Recognition"; s
    and m are theirs. Arguments are those of :class:`AMSoftmax`, but m is in radians, within [0, π/2].

    Example:
        >>> loss = ArcFaceLoss(classes=2, dim=2, scale=1.0, margin=torch.pi / 2, centroids=torch.eye(2))
        >>> loss(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))  # both logits are 0
        tensor(0.6931)
    """

    widest, unit = math.pi / 2, "an angle in radians, such as 0.5"

    def __init__(self, classes: int, dim: int = 512, scale: float = 64.0, margin: float = 0.5, **others: Any):
        super().__init__(classes, dim, scale, margin, **others)

    def _change(self, identity: Identities, label: Labels) -> Tensor:
        # the angle itself, not its cosine: sin θ = √(1 − cos²θ) has no finite gradient at 0 and π
        theta = angle(normalise(identity), normalise(self.weight[label]))
        shifted = torch.cos(theta + self.margin) - torch.cos(theta)
        beyond = -self.margin * math.sin(self.margin)
        return torch.where(theta <= math.pi - self.margin, shifted, beyond)[:, None]


class InfoNCE(nn.Module):
    """Speech → face contrast with in-batch negatives, Eq. 9.

    L = −log( exp(cos(ẑ_i, z_i)/τ) / Σ_j exp(cos(ẑ_i, z_j)/τ) ), averaged over i. Other faces of the *same* person in
    the batch are left out of the sum. The paper gives no ``temperature`` τ.

    Example:
        >>> z = torch.eye(2)
        >>> InfoNCE(temperature=1.0)(z, z, torch.tensor([0, 1]))  # −log(e / (e + 1))
        tensor(0.3133)
    """

    def __init__(self, temperature: float = 0.07):
        super().__init__()
        if not 0 < temperature < math.inf:
            raise InputError(f"temperature {temperature}: expected a positive number, such as 0.07")
        self.temperature = temperature

    def forward(self, identity: Identities, face: Identities, label: Labels | None = None) -> Loss:
        """The loss of predicted and true identities, row by row; without ``label`` every row is another person."""
        logits = cosines(identity, face) / self.temperature
        target = torch.arange(len(logits), device=logits.device)
        if label is not None:
            same_person = (label[:, None] == label) & (target[:, None] != target)
            logits = logits.masked_fill(same_person, -torch.inf)
        return F.cross_entropy(logits, target)


def cosine_regression(identity: Identities, face: Identities) -> Loss:
    """Mean of 1 − cos(ẑ, z): "w/ CosReg" of Table 4, and the λ_cos term of :class:`IdentityLoss`.

    Its minimiser is the direction of the conditional mean E[z | voice], which has the highest expected cosine.
    """
    return 1 - (normalise(identity) * normalise(face)).sum(dim=-1).mean()


class IdentityTerms(NamedTuple):
    """The weighted sum of :class:`IdentityLoss`, and each term before its weight."""

    total: Loss
    am_softmax: Loss
    info_nce: Loss
    cosine: Loss


class IdentityLoss(nn.Module):
    """L_id = λ_AM·L_AM + λ_Info·L_InfoNCE (Eq. 10), plus our addition λ_cos·(1 − cos).

    Trained class vectors and InfoNCE compare persons; neither pulls ẑ onto z_arc itself. λ_cos does. λ_cos = 0 is the
    paper; λ_cos alone is "w/ CosReg". Terms of weight 0 are computed too, for the log.
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

    def forward(self, identity: Identities, face: Identities, label: Labels) -> IdentityTerms:
        """All terms for predicted identities, the faces' identities row by row, and the person of each row."""
        am, info = self.am_softmax(identity, label), self.info_nce(identity, face, label)
        cosine = cosine_regression(identity, face)
        total = self.weight_am * am + self.weight_info * info + self.weight_cosine * cosine
        return IdentityTerms(total, am, info, cosine)
