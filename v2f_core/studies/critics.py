"""Other critics than the paper's, and changes to critics that may keep L_self from its trivial optimum.

All are functions ``(view, identity, faces) -> loss of each example``, as in :mod:`v2f_core.diffusion.consistency`.
``functools.partial`` sets options, and the critic whose input another function changes:
``partial(generated, critic=cycle)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from v2f_core.diffusion.consistency import Critic, FaceBatch, View, denoise, mean_square, paper, teacher
from v2f_core.diffusion.lora import lora_parameters, without_lora

Identities = Float[Tensor, "batch 512"]
Losses = Float[Tensor, " batch"]


def contrast(
    view: View, identity: Identities, faces: FaceBatch, negatives: int = 3, temperature: float = 0.01
) -> Losses:
    """−log softmax_j(−r_j/τ): the speaker's own ẑ must explain the face better than others' of the same sex, and null.

    r_j is the mean square of ε(z_t, P(ẑ_j)) − ε, and τ is in its units. The adapters get no gradient from the
    negatives: else they could lower the loss by predicting worse under these.
    """
    own = mean_square(view.predict(identity) - view.noise)
    rows, exists = draw_negatives(faces.women, negatives, view.generator)
    trained = [parameter for parameter in lora_parameters(view.prior).values() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    others = torch.stack([mean_square(view.predict(identity[column]) - view.noise) for column in rows.T], dim=1)
    with torch.no_grad():
        under_null = view.prior.predict(view.z_t, view.t, view.prior.null(len(own)))
        null = mean_square(under_null.to(own.dtype) - view.noise)
    for parameter in trained:
        parameter.requires_grad_(True)
    residuals = torch.cat([own[:, None], others.masked_fill(~exists, torch.inf), null[:, None]], dim=1)
    return -(-residuals / temperature).log_softmax(dim=1)[:, 0]


def cycle(view: View, identity: Identities, faces: FaceBatch, rival_temperature: float = 0.0) -> Losses:
    """1 − cos(z_self, sg ẑ): the face should be recognised as the identity in the condition. Our addition.

    The target is a constant, or ẑ would drift towards the drawn faces. Images that deceive f_arc are a trivial optimum,
    which a second scorer reveals.
    """
    return recognition(view, identity, identity.detach(), faces.women, rival_temperature)


def likeness(view: View, identity: Identities, faces: FaceBatch, rival_temperature: float = 0.0) -> Losses:
    """1 − cos(z_self, z_arc): L_id's cosine term seen through the prior, not self-consistency. Our addition."""
    return recognition(view, identity, faces.z_arc, faces.women, rival_temperature)


def recognition(
    view: View, identity: Identities, target: Identities, women: Bool[Tensor, " batch"], rival_temperature: float = 0.0
) -> Losses:
    """The distance of the identity recognised in x̂_0 from ``target``, 1 − cos.

    With a ``rival_temperature`` τ it is −log softmax_j(cos_j/τ) over the targets of speakers of the same sex, in which
    what all faces share, such as light or pose, has no effect.
    """
    z_self = view.recognise(view.predict(identity))
    if not rival_temperature:
        return 1 - (z_self * target).sum(dim=1)
    other_sex = women[:, None] != women
    cosines = (z_self @ target.T / rival_temperature).masked_fill(other_sex, -torch.inf)
    return -cosines.log_softmax(dim=1).diagonal()


# --- changes of a critic's input


def generated(view: View, identity: Identities, faces: FaceBatch, critic: Critic, steps: int = 5) -> Losses:
    """The critic on a face generated from pure noise under ẑ, without guidance, in ``steps`` solver steps.

    The landmarks of a generated face are unknown; the batch's mean landmarks are close, since faces are framed alike.
    """
    latents, generator = faces.latents, view.generator
    start = torch.randn(latents.shape, generator=generator, device=generator.device).to(latents)
    with torch.no_grad():
        latents = view.prior.denoise(start, view.prior.condition(identity), steps, guidance=1.0)
    # older torch keeps casts of the adapters that were made without gradient (pytorch/pytorch#112583)
    torch.clear_autocast_cache()
    return critic(view.renoise(latents, faces.landmarks.mean(0).expand_as(faces.landmarks)), identity, faces)


def anchored(view: View, identity: Identities, faces: FaceBatch, critic: Critic, weight: float = 1.0) -> Losses:
    """The critic plus ‖ε_{θ+ψ}(z_t, P(ẑ)) − ε_θ(z_t, P(ẑ))‖², which keeps the adapters close to the prior."""
    loss, prediction = critic(view, identity, faces), view.predict(identity)
    with torch.no_grad(), without_lora(view.prior):
        before = view.predict(identity)
    return loss + weight * mean_square(prediction - before)


# The critics' losses have different scales. With these λ_self φ gets gradients of about equal length from L_self and
# from the mini profile's L_id when Stage II begins (benchmarks/gradients.py, benchmarks/results/gradients.csv).
BALANCED: Mapping[str, float] = {
    "paper": 1000.0, "denoise": 1000.0, "teacher": 1000.0, "contrast": 10.0, "cycle": 100.0, "likeness": 100.0
}  # fmt: skip
CRITICS: Mapping[str, Critic] = {of.__name__: of for of in (paper, denoise, teacher, contrast, cycle, likeness)}


def innermost(critic: Critic) -> str:
    """The name of the innermost critic, without the functions that change its input."""
    while isinstance(critic, partial) and "critic" in critic.keywords:
        critic = critic.keywords["critic"]
    return critic.func.__name__ if isinstance(critic, partial) else critic.__name__


def draw_negatives(
    women: Bool[Tensor, " batch"], count: int, generator: torch.Generator
) -> tuple[Int[Tensor, "batch count"], Bool[Tensor, "batch count"]]:
    """For each row of a batch up to ``count`` other rows of the same sex, none twice, and a mask of those there are."""
    batch = len(women)
    rival = (women[:, None] == women) & ~torch.eye(batch, dtype=torch.bool, device=women.device)
    keys = torch.rand(batch, batch, generator=generator, device=generator.device).to(women.device)
    top = keys.masked_fill(~rival, -1.0).topk(min(count, batch), dim=1)
    return top.indices.masked_fill(top.values < 0, 0), top.values >= 0
