"""Losses over the pairs of a batch: InfoNCE (Eq. 9) and relational distillation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from v2f_core.errors import InputError
from v2f_core.identity.sphere import cosines


class InfoNCE(nn.Module):
    """Speech → face contrast with in-batch negatives, Eq. 9.

    L = −log( exp(cos(ẑ_i, z_i)/τ) / Σ_j w_ij·exp(cos(ẑ_i, z_j)/τ) ), averaged over i; w_ij = 1 in the paper.
    Faces of the *same* person in the batch are no negatives: their weight is 0. A batch without any negative has loss
    0. Memory O(batch²).

    Args:
        temperature: τ; the paper gives none.
        two_sided: average it with the same loss face → speech (each face among the voices of the batch), as CLIP does
            (Radford et al. 2021). The paper's is one-sided.
        duplicate_above: another person's face whose cosine to the true face is above this is a near-duplicate: a
            look-alike, or the same person under two names. Punishing ẑ for being near to it says little.
        duplicate_weight: w_ij of near-duplicates, from 0 (no negatives) to 1 (negatives like all others: off).
    Raises:
        InputError: from the constructor for a temperature that is not positive or a weight outside 0…1; from the call
            for a vector that is zero or NaN.

    Example:
        >>> z = torch.eye(2)
        >>> InfoNCE(temperature=1.0)(z, z, torch.tensor([0, 1]))  # −log(e / (e + 1))
        tensor(0.3133)
    """

    def __init__(
        self,
        temperature: float = 0.07,
        two_sided: bool = False,
        duplicate_above: float = 0.7,
        duplicate_weight: float = 1.0,
    ):
        super().__init__()
        if not temperature > 0:
            raise InputError(f"temperature {temperature}: expected a positive number, such as 0.07")
        if not 0 <= duplicate_weight <= 1:
            raise InputError(f"duplicate_weight {duplicate_weight}: expected a number from 0 to 1")
        self.temperature, self.two_sided = temperature, two_sided
        self.duplicate_above, self.duplicate_weight = duplicate_above, duplicate_weight

    def forward(
        self,
        identity: Float[Tensor, "batch dim"],
        face: Float[Tensor, "batch dim"],
        label: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of predicted identities and the faces' identities row by row.

        ``label`` is the person of each row; without it every row counts as another person.
        """
        logits = cosines(identity, face) / self.temperature
        itself = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        if self.duplicate_weight < 1:
            # the mask is a judgement about faces, not something to be learned
            similar = cosines(face.detach(), face.detach()) > self.duplicate_above
            weight = logits.new_tensor(self.duplicate_weight)
            logits = torch.where(similar & ~itself, logits + weight.log(), logits)
        if label is not None:
            same_person = label[:, None] == label[None, :]
            logits = logits.masked_fill(same_person & ~itself, -torch.inf)
        target = torch.arange(len(logits), device=logits.device)
        loss = F.cross_entropy(logits, target)
        # who is no negative of whom is symmetric, so that the transpose holds the other direction
        return (loss + F.cross_entropy(logits.T, target)) / 2 if self.two_sided else loss


def relational_distillation(
    identity: Float[Tensor, "batch dim"], face: Float[Tensor, "batch dim"]
) -> Float[Tensor, ""]:
    """Mean squared difference between cos(ẑ_i, ẑ_j) and cos(z_i, z_j) over the pairs i ≠ j of a batch.

    It distils ArcFace's *relations* (who looks like whom) rather than its vectors, after Park et al. 2019, "Relational
    Knowledge Distillation"; the paper speaks of distillation and gives no formula, so that this term is our reading. It
    is blind to a rotation of all ẑ: it goes beside the other terms, not in place of them. A voice cannot tell every
    face, so its minimum is not 0. A batch of one has no pair and loss 0. Memory O(batch²).

    Raises:
        InputError: a vector is zero or NaN.

    Example:
        >>> relational_distillation(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.eye(2))
        tensor(1.)
    """
    # the teacher's side is detached; the diagonal is 1 − 1 up to rounding
    difference = cosines(identity, identity) - cosines(face, face).detach()
    count = len(difference)
    apart = ~torch.eye(count, dtype=torch.bool, device=difference.device)
    return (difference * apart).square().sum() / max(count * (count - 1), 1)
