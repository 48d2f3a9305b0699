"""Other readings of self-consistency: critics that the paper does not have, and what the study tried to save its own.

All are functions ``(view, identity, faces) -> loss of each example``, as in :mod:`v2f_core.diffusion.consistency`.
Their options are keyword arguments: ``functools.partial(contrast, negatives=5)`` is a critic. Those that take another
``critic`` change what that critic looks at: ``partial(generated, critic=cycle)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from v2f_core.diffusion.consistency import Critic, FaceBatch, View, denoise, mean_square, paper, teacher
from v2f_core.diffusion.lora import lora_parameters, without_lora
from v2f_core.errors import InputError
from v2f_core.identity.arcface_torch import align_batch

Identities = Float[Tensor, "batch 512"]
Losses = Float[Tensor, " batch"]


def contrast(
    view: View, identity: Identities, faces: FaceBatch, negatives: int = 3, temperature: float = 0.01
) -> Losses:
    """−log softmax_j(−r_j/τ): the speaker's own ẑ must explain the face better than others' of the same sex, and null.

    r_j is the mean square of ε(z_t, P(ẑ_j)) − ε. The adapters see the negatives as constants: otherwise they would win
    by predicting worse under those.

    Args:
        negatives: K, how many other speakers of the batch.
        temperature: τ, in units of r.
    """
    own = mean_square(view.predict(identity) - view.noise)
    who, there = draw_negatives(faces.women, negatives, view.generator)
    with _frozen_lora(view.prior):
        others = torch.stack([mean_square(view.predict(identity[column]) - view.noise) for column in who.T], dim=1)
        with torch.no_grad():
            under_null = view.prior.predict(view.z_t, view.t, view.prior.null(len(own)))
            null = mean_square(under_null.to(own.dtype) - view.noise)
    residuals = torch.cat([own[:, None], others.masked_fill(~there, torch.inf), null[:, None]], dim=1)
    return -(-residuals / temperature).log_softmax(dim=1)[:, 0]


def cycle(view: View, identity: Identities, faces: FaceBatch, **options: Any) -> Losses:
    """1 − cos(z_self, sg ẑ): the face is to be recognised as the identity that was asked for. Our addition.

    The target is a constant: otherwise ẑ would drift to whatever is drawn. What f_arc is fooled by is the trivial
    optimum; a second scorer shows it. Options: see :func:`recognition`.
    """
    return recognition(view, identity, identity.detach(), faces.women, **options)


def likeness(view: View, identity: Identities, faces: FaceBatch, **options: Any) -> Losses:
    """1 − cos(z_self, z_arc): L_id's cosine term seen through the prior, not self-consistency. Our addition.

    Options: see :func:`recognition`.
    """
    return recognition(view, identity, faces.z_arc, faces.women, **options)


def recognition(
    view: View,
    identity: Identities,
    target: Identities,
    women: Bool[Tensor, " batch"],
    copies: int = 1,
    rival_temperature: float = 0.0,
    x0_steps: int = 1,
    crop_jitter: float = 0.0,
) -> Losses:
    """How far a drawn face is from being recognised as ``target``.

    Args:
        view, identity: the noised faces, and under which identity the UNet looks at them.
        target, women: as whom each is to be recognised, and the speakers' sex.
        copies: so many rows stand together for one speaker (see :func:`repeated`); the *mean* of what is recognised in
            them is compared. The mean cosine of single faces also grows as a speaker's faces become one; the mean's
            cosine does not.
        rival_temperature: τ; then a face must be told from the targets of the other speakers of the same sex,
            −log softmax_j(cos_j/τ), and what all faces share, such as light or pose, gains nothing. 0: the cosine.
        x0_steps: DDIM steps from t down to 0; a sharper x̂_0 for one more UNet pass each.
        crop_jitter: standard deviation of the five landmarks, in distances between the eyes: what pleases f_arc in one
            crop only is then no optimum (expectation over transformations, Athalye et al., 2018).
    """
    prediction = view.predict(identity)
    points = view.landmarks
    if crop_jitter:
        eyes = (points[:, :1] - points[:, 1:2]).norm(dim=2, keepdim=True)
        points = points + crop_jitter * eyes * _normal(points, view.generator)
    images = view.prior.decode(_x0(view, identity, prediction, x0_steps))
    means = view.arcface(align_batch(images, points)).view(-1, copies, target.shape[1]).mean(dim=1)
    z_self = F.normalize(means, dim=1)
    target, women = target[::copies], women[::copies]
    if rival_temperature:
        other_sex = women[:, None] != women
        cosines = (z_self @ target.T / rival_temperature).masked_fill(other_sex, -torch.inf)
        loss = -cosines.log_softmax(dim=1).diagonal()
    else:
        loss = 1 - (z_self * target).sum(dim=1)
    return loss.repeat_interleave(copies)


def frozen_target(view: View, identity: Identities, faces: FaceBatch) -> Losses:
    """The paper's critic with the target from the prior without its adapters, P(z_self) included."""
    prediction = view.predict(identity)
    with torch.no_grad():
        z_self = view.recognise(prediction)
        with without_lora(view.prior):
            target = view.predict(z_self)
    return mean_square(prediction - target)


# --- critics of critics: what is looked at


def others(view: View, identity: Identities, faces: FaceBatch, critic: Critic) -> Losses:
    """The critic on the next person's noised face: what is left of a gain then did not leak through z_t.

    Raises:
        InputError: the batch has one person.
    """
    if len(identity) < 2:
        raise InputError("the face of another person: a batch of one has none; raise the batch")
    return critic(view.renoise(faces.latents.roll(1, 0), faces.landmarks.roll(1, 0)), identity, faces)


def generated(view: View, identity: Identities, faces: FaceBatch, critic: Critic, steps: int = 5) -> Losses:
    """The critic on a face that is generated from pure noise under ẑ, unguided, in so many solver steps.

    Nobody knows where a generated face's landmarks are; faces are framed alike, so the batch's mean is near.
    """
    start = _normal(faces.latents, view.generator)
    with torch.no_grad():
        latents = view.prior.denoise(start, view.prior.condition(identity), steps, guidance=1.0)
    # older torch keeps casts of the adapters that were made without gradient (pytorch/pytorch#112583)
    torch.clear_autocast_cache()
    return critic(view.renoise(latents, faces.landmarks.mean(0).expand_as(faces.landmarks)), identity, faces)


def repeated(view: View, identity: Identities, faces: FaceBatch, critic: Critic, copies: int = 4) -> Losses:
    """The critic on several noised faces of each speaker, in batches of so many fewer speakers.

    Raises:
        InputError: the batch cannot be divided by ``copies``.
    """
    if len(identity) % copies:
        raise InputError(f"{copies} faces a speaker: a batch of {len(identity)} cannot be divided; change the batch")
    rows = torch.arange(len(identity) // copies, device=identity.device).repeat_interleave(copies)
    faces = faces[rows]
    return critic(view.renoise(faces.latents, faces.landmarks), identity[rows], faces)


def anchored(view: View, identity: Identities, faces: FaceBatch, critic: Critic, weight: float = 1.0) -> Losses:
    """The critic, and ‖ε_{θ+ψ}(z_t, P(ẑ)) − ε_θ(z_t, P(ẑ))‖²: the adapters are held to what the prior knew."""
    loss = critic(view, identity, faces)
    prediction = view.predict(identity)
    with torch.no_grad(), without_lora(view.prior):
        before = view.predict(identity)
    return loss + weight * mean_square(prediction - before)


def true_identity(view: View, identity: Identities, faces: FaceBatch, critic: Critic) -> Losses:
    """The critic under z_arc in place of ẑ: a control for the adapters alone, which then never hear a voice."""
    return critic(view, faces.z_arc, faces)


# The critics' losses have different scales: with these λ_self φ gets about as long a gradient from L_self as from the
# L_id of the mini profile when Stage II begins (benchmarks/gradients.py, benchmarks/results/gradients.csv).
BALANCED: Mapping[str, float] = MappingProxyType(
    {"paper": 1000.0, "denoise": 1000.0, "teacher": 1000.0, "contrast": 10.0, "cycle": 100.0, "likeness": 100.0}
)
CRITICS: Mapping[str, Critic] = MappingProxyType(
    {critic.__name__: critic for critic in (paper, denoise, teacher, contrast, cycle, likeness)}
)


def innermost(critic: Critic) -> str:
    """The name of the critic that others stand around.

    Example:
        >>> innermost(partial(anchored, critic=partial(generated, critic=cycle)))
        'cycle'
    """
    while isinstance(critic, partial) and "critic" in critic.keywords:
        critic = critic.keywords["critic"]
    return critic.func.__name__ if isinstance(critic, partial) else critic.__name__


def draw_negatives(
    women: Bool[Tensor, " batch"], count: int, generator: torch.Generator
) -> tuple[Int[Tensor, "batch count"], Bool[Tensor, "batch count"]]:
    """For each of a batch, ``count`` others of the same sex, none twice; and which of these places could be filled.

    Example:
        >>> who, there = draw_negatives(torch.tensor([True, True, False]), 2, torch.Generator())
        >>> there.tolist(), who[0, 0].item(), who[1, 0].item()
        ([[True, False], [True, False], [False, False]], 1, 0)
    """
    batch = len(women)
    rival = (women[:, None] == women) & ~torch.eye(batch, dtype=torch.bool, device=women.device)
    keys = torch.rand(batch, batch, generator=generator, device=generator.device).to(women.device)
    keys = F.pad(keys.masked_fill(~rival, -1.0), (0, max(0, count - batch)), value=-1.0)
    top = keys.topk(count, dim=1)
    there = top.values >= 0
    return top.indices.masked_fill(~there, 0), there


def _x0(view: View, identity: Identities, prediction: Tensor, steps: int) -> Tensor:
    """x̂_0 by so many DDIM steps from t to 0, of which the first is given by the prediction."""
    x_0 = view.prior.one_step_x0(view.z_t, view.t, prediction)
    for step in range(1, steps):
        earlier = view.t * (steps - step) // steps
        nearer = replace(view, z_t=view.prior.add_noise(x_0, prediction, earlier), t=earlier)
        prediction = nearer.predict(identity)
        x_0 = view.prior.one_step_x0(nearer.z_t, earlier, prediction)
    return x_0


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=generator.device).to(like)


@contextmanager
def _frozen_lora(prior: nn.Module) -> Iterator[None]:
    parameters = [parameter for parameter in lora_parameters(prior).values() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
