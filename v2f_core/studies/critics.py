"""Other critics than the paper's, and changes to critics that may keep L_self from its trivial optimum.

All are functions ``(view, identity, faces) -> loss of each example``, as in :mod:`v2f_core.diffusion.consistency`.
Options are keyword arguments: ``functools.partial(contrast, negatives=5)`` is a critic. Functions with an argument
``critic`` change the input of that critic: ``partial(generated, critic=cycle)``.
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

    r_j is the mean square of ε(z_t, P(ẑ_j)) − ε. The adapters get no gradient from the negatives: else they could lower
    the loss by predicting worse under these.

    Args:
        negatives: K, how many other speakers of the batch.
        temperature: τ, in units of r.
    """
    own = mean_square(view.predict(identity) - view.noise)
    rows, exists = draw_negatives(faces.women, negatives, view.generator)
    with _frozen_lora(view.prior):
        others = torch.stack([mean_square(view.predict(identity[column]) - view.noise) for column in rows.T], dim=1)
        with torch.no_grad():
            under_null = view.prior.predict(view.z_t, view.t, view.prior.null(len(own)))
            null = mean_square(under_null.to(own.dtype) - view.noise)
    residuals = torch.cat([own[:, None], others.masked_fill(~exists, torch.inf), null[:, None]], dim=1)
    return -(-residuals / temperature).log_softmax(dim=1)[:, 0]


def cycle(view: View, identity: Identities, faces: FaceBatch, **options: Any) -> Losses:
    """1 − cos(z_self, sg ẑ): the face should be recognised as the identity in the condition. Our addition.

    The target is a constant, or ẑ would drift towards the drawn faces. Images that deceive f_arc are a trivial optimum,
    which a second scorer reveals. Options: see :func:`recognition`.
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
    """The distance of the identity recognised in x̂_0 from ``target``.

    Args:
        view, identity: the noised faces, and the identity in the condition.
        target, women: the identity that should be recognised, and the speakers' sex.
        copies: consecutive rows of one speaker (see :func:`repeated`), whose *mean* recognised identity is compared.
            The mean cosine of single faces also grows as a speaker's faces become equal; the mean's cosine does not.
        rival_temperature: τ of −log softmax_j(cos_j/τ) over the targets of speakers of the same sex, in which
            properties that all faces share, such as light or pose, have no effect. 0: the cosine.
        x0_steps: DDIM steps from t to 0; each takes a UNet pass and sharpens x̂_0.
        crop_jitter: standard deviation of the five landmarks, in distances between the eyes: an image that deceives
            f_arc in one crop only is then no optimum (expectation over transformations, Athalye et al., 2018).
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


# --- changes of a critic's input


def others(view: View, identity: Identities, faces: FaceBatch, critic: Critic) -> Losses:
    """The critic on the next person's noised face: a gain that remains did not leak through z_t.

    Raises:
        InputError: the batch has one person.
    """
    if len(identity) < 2:
        raise InputError("a batch of one person has no other person's face; raise the batch")
    return critic(view.renoise(faces.latents.roll(1, 0), faces.landmarks.roll(1, 0)), identity, faces)


def generated(view: View, identity: Identities, faces: FaceBatch, critic: Critic, steps: int = 5) -> Losses:
    """The critic on a face generated from pure noise under ẑ, without guidance, in ``steps`` solver steps.

    The landmarks of a generated face are unknown; the batch's mean landmarks are close, since faces are framed alike.
    """
    start = _normal(faces.latents, view.generator)
    with torch.no_grad():
        latents = view.prior.denoise(start, view.prior.condition(identity), steps, guidance=1.0)
    # older torch keeps casts of the adapters that were made without gradient (pytorch/pytorch#112583)
    torch.clear_autocast_cache()
    return critic(view.renoise(latents, faces.landmarks.mean(0).expand_as(faces.landmarks)), identity, faces)


def repeated(view: View, identity: Identities, faces: FaceBatch, critic: Critic, copies: int = 4) -> Losses:
    """The critic on ``copies`` noised faces of each speaker, in batches of ``copies`` times fewer speakers.

    Raises:
        InputError: the batch cannot be divided by ``copies``.
    """
    if len(identity) % copies:
        raise InputError(f"{copies} faces a speaker: a batch of {len(identity)} cannot be divided; change the batch")
    rows = torch.arange(len(identity) // copies, device=identity.device).repeat_interleave(copies)
    faces = faces[rows]
    return critic(view.renoise(faces.latents, faces.landmarks), identity[rows], faces)


def anchored(view: View, identity: Identities, faces: FaceBatch, critic: Critic, weight: float = 1.0) -> Losses:
    """The critic plus ‖ε_{θ+ψ}(z_t, P(ẑ)) − ε_θ(z_t, P(ẑ))‖², which keeps the adapters close to the prior."""
    loss = critic(view, identity, faces)
    prediction = view.predict(identity)
    with torch.no_grad(), without_lora(view.prior):
        before = view.predict(identity)
    return loss + weight * mean_square(prediction - before)


def true_identity(view: View, identity: Identities, faces: FaceBatch, critic: Critic) -> Losses:
    """The critic under z_arc in place of ẑ: a control for the adapters alone, without a voice."""
    return critic(view, faces.z_arc, faces)


# The critics' losses have different scales. With these λ_self φ gets gradients of about equal length from L_self and
# from the mini profile's L_id when Stage II begins (benchmarks/gradients.py, benchmarks/results/gradients.csv).
BALANCED: Mapping[str, float] = MappingProxyType(
    {"paper": 1000.0, "denoise": 1000.0, "teacher": 1000.0, "contrast": 10.0, "cycle": 100.0, "likeness": 100.0}
)
CRITICS: Mapping[str, Critic] = MappingProxyType(
    {critic.__name__: critic for critic in (paper, denoise, teacher, contrast, cycle, likeness)}
)


def innermost(critic: Critic) -> str:
    """The name of the innermost critic, without the functions that change its input.

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
    """For each row of a batch, ``count`` different other rows of the same sex; and a mask of those that exist.

    Example:
        >>> rows, exists = draw_negatives(torch.tensor([True, True, False]), 2, torch.Generator())
        >>> exists.tolist(), rows[0, 0].item(), rows[1, 0].item()
        ([[True, False], [True, False], [False, False]], 1, 0)
    """
    batch = len(women)
    rival = (women[:, None] == women) & ~torch.eye(batch, dtype=torch.bool, device=women.device)
    keys = torch.rand(batch, batch, generator=generator, device=generator.device).to(women.device)
    keys = F.pad(keys.masked_fill(~rival, -1.0), (0, max(0, count - batch)), value=-1.0)
    top = keys.topk(count, dim=1)
    exists = top.values >= 0
    return top.indices.masked_fill(~exists, 0), exists


def _x0(view: View, identity: Identities, prediction: Tensor, steps: int) -> Tensor:
    """x̂_0 by ``steps`` DDIM steps from t to 0, the first from the given prediction."""
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
