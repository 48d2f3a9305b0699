"""How far drawn faces are from being recognised as who was asked for: what `cycle` and `likeness` are made of.

`unlikeness` asks for f_arc's cosine. Whatever f_arc likes to see in anybody, faces from the front or in good light,
raises it for all faces alike. `confusion` asks only that a face be told from those that were asked for others: what all
faces have in common gains nothing there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def mean_of_copies(z_self: Float[Tensor, "rows 512"], copies: int) -> Float[Tensor, "rows 512"]:
    """The unit mean over a speaker's copies, which stand together, at the place of each copy.

    The mean cosine of single faces is ‖mean‖ · cos(mean, target): it also grows as a speaker's faces become one. The
    mean's cosine does not.
    """
    means = F.normalize(z_self.view(-1, copies, z_self.shape[1]).mean(dim=1), dim=1)
    return means.repeat_interleave(copies, dim=0)


def unlikeness(
    z_self: Float[Tensor, "rows 512"], target: Float[Tensor, "rows 512"], copies: int
) -> Float[Tensor, " rows"]:
    """1 − cos between the mean over a speaker's copies and the target; the same for each copy.

    Example:
        >>> z = F.normalize(torch.eye(512)[:2] + torch.eye(512)[2])  # half of each is the target
        >>> [f"{unlikeness(z, torch.eye(512)[[2, 2]], copies).mean():.2f}" for copies in (1, 2)]
        ['0.29', '0.18']
    """
    return 1 - (mean_of_copies(z_self, copies) * target).sum(dim=1)


def confusion(
    z_self: Float[Tensor, "rows 512"],
    targets: Float[Tensor, "batch 512"],
    women: Bool[Tensor, " batch"],
    here: slice,
    copies: int,
    temperature: float,
) -> Float[Tensor, " rows"]:
    """−log softmax_j(cos(z̄_i, target_j)/τ) at j = i, over the batch's speakers of the same sex; z̄: the mean of copies.

    Faces that are all the same have a mean loss of at least ln n among n speakers of a sex, whatever face it is; who
    has no rival in the batch has loss 0.

    Args:
        z_self: what f_arc recognises in the rows ``here`` of the batch.
        targets, women: who was asked for, and their sex, of the whole batch.
        here: which rows these are.
        copies: of each speaker, standing together.
        temperature: τ.

    Example:
        >>> two = torch.eye(512)[:2]
        >>> confusion(two, two, torch.tensor([True, True]), slice(0, 2), 1, 1.0)  # −log(e / (e + 1))
        tensor([0.3133, 0.3133])
    """
    rows = torch.arange(len(targets), device=z_self.device)
    speaker, own = rows // copies, rows[here]
    logits = mean_of_copies(z_self, copies) @ targets.T / temperature
    rival = (women[own, None] == women) & (speaker[own, None] != speaker)
    itself = own[:, None] == rows
    # of a rival's copies one is enough: all have the same target
    first = rows % copies == 0
    return F.cross_entropy(logits.masked_fill(~(itself | (rival & first)), -torch.inf), own, reduction="none")
