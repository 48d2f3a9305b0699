"""Diffusion self-consistency L_self (Eq. 11-14): a frozen generator as the critic of a predicted identity.

A face is noised, the UNet looks at it under ẑ, and what it says is compared with a target; the six ways to do so stand
in :mod:`v2f_core.diffusion.strategies`, everything that the paper leaves open in
:class:`~v2f_core.diffusion.consistency_settings.ConsistencySettings`. UNet passes an example (counted for any
setting by ``settings.unet_passes()``; g: with gradient, about three times the work):

========  =================  =============================================================
mode      UNet passes        and besides
========  =================  =============================================================
paper     1 g + k            x̂0 in k steps (the first prediction is used again), VAE, f_arc
denoise   1 g
teacher   1 g + 1
contrast  (K + 1) g + 1      K negatives and null
cycle     k g                x̂0 in k steps, VAE, f_arc, all with gradient
likeness  k g                the same
========  =================  =============================================================

``anchor`` costs 1 more, ``z_t_from="generated"`` its solver steps.

Latents, landmarks and z_arc never change and are given, made once. P(z_arc) is not kept: it would take far more memory
than all latents, and the text encoder costs little beside one UNet pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from v2f_core.diffusion.consistency_settings import ConsistencySettings
from v2f_core.diffusion.lora import lora_parameters
from v2f_core.diffusion.prior import Prior
from v2f_core.diffusion.strategies import STRATEGIES, Asked, Look, mean_square, undisturbed
from v2f_core.diffusion.timesteps import draw_timesteps, timestep_weight
from v2f_core.errors import InputError


@dataclass(frozen=True)
class FaceBatch:
    """Real faces, each of another person.

    Attributes:
        latents: z_0, the VAE's code.
        landmarks: five points in pixels of the decoded image.
        z_arc: unit identities.
        women: the persons' sex.
    """

    latents: Float[Tensor, "batch 4 h w"]
    landmarks: Float[Tensor, "batch 5 2"]
    z_arc: Float[Tensor, "batch 512"]
    women: Bool[Tensor, " batch"]

    def __getitem__(self, rows: Int[Tensor, " some"] | slice) -> FaceBatch:
        """Some of them."""
        return FaceBatch(self.latents[rows], self.landmarks[rows], self.z_arc[rows], self.women[rows])


class ConsistencyTerms(NamedTuple):
    """What :class:`SelfConsistency` gives.

    Attributes:
        loss: the mean of w(t) times the examples' losses.
        each: the examples' losses before w(t), without gradient.
        t: their timesteps.
        z_self: what f_arc recognises in x̂0, in modes "paper", "cycle" and "likeness".
    """

    loss: Float[Tensor, ""]
    each: Float[Tensor, " batch"]
    t: Int[Tensor, " batch"]
    z_self: Float[Tensor, "batch 512"] | None


class SelfConsistency:
    """L_self of predicted identities and the faces of their speakers.

    Args:
        prior: with adapters (:func:`~v2f_core.diffusion.lora.add_lora`) or without, then L_self can train φ alone.
        arcface: f_arc with gradients (:func:`~v2f_core.identity.arcface_torch.differentiable_arcface`).
        settings: which L_self; ``trains="aligner"`` freezes the adapters.
    Raises:
        InputError: the timesteps end before t_max; from the call, a batch of one where another person is needed, or
            of fewer than the copies.

    Example:
        >>> critic = SelfConsistency(prior, arcface, ConsistencySettings("teacher"))  # doctest: +SKIP
        >>> critic(aligner(voices), faces, torch.Generator().manual_seed(0)).loss.backward()  # doctest: +SKIP
    """

    def __init__(self, prior: Prior, arcface: nn.Module, settings: ConsistencySettings) -> None:
        if settings.t_max >= len(prior.alphas_cumprod):
            raise InputError(f"t_max={settings.t_max}: this prior's timesteps end at {len(prior.alphas_cumprod) - 1}")
        self.prior, self.arcface, self.settings = prior, arcface, settings
        for parameter in lora_parameters(prior).values():
            parameter.requires_grad_(settings.trains != "aligner")

    def __call__(
        self,
        identity: Float[Tensor, "batch 512"],
        faces: FaceBatch,
        generator: torch.Generator,
        share: tuple[int, int] = (0, 1),
    ) -> ConsistencyTerms:
        """L_self of a batch; the generator draws timesteps, noise, dropped conditions and negatives.

        With ``share`` (i, n) it is that of the i-th of n equal parts, the others being looked at by other processes.
        All is drawn for the whole batch: the shares' mean is what one process gets for it.
        """
        settings, device = self.settings, faces.latents.device
        if settings.copies > 1:
            speakers = len(identity) // settings.copies
            if not speakers:
                raise InputError(f"copies={settings.copies} in a batch of {len(identity)}: raise the batch")
            rows = torch.arange(speakers, device=device).repeat_interleave(settings.copies)
            identity, faces = identity[rows], faces[rows]
        if settings.identity_from == "true":
            identity = faces.z_arc
        if settings.trains == "lora":
            identity = identity.detach()
        part = len(identity) // settings.copies // share[1] * settings.copies
        here = slice(share[0] * part, (share[0] + 1) * part)
        z_0, landmarks = self._source(identity, faces, generator, here)
        t = draw_timesteps(len(identity), settings.t_min, settings.t_max, generator)[here].to(device)
        noise = _normal(faces.latents.shape, generator)[here].to(z_0)
        given = torch.rand(len(identity), generator=generator, device=generator.device) >= settings.condition_dropout
        if settings.crop_jitter:
            apart = (landmarks[:, :1] - landmarks[:, 1:2]).norm(dim=2, keepdim=True)
            off = _normal(faces.landmarks.shape, generator)[here].to(landmarks)
            landmarks = landmarks + settings.crop_jitter * apart * off
        z_t = self.prior.add_noise(z_0, noise, t)
        look = Look(self.prior, self.arcface, settings, z_t, t, noise, landmarks, given[here].to(device), generator)
        c_gen = look.condition(identity[here])
        # first of all passes: autocast keeps casts of weights, and those of a pass without gradient have none
        everybody = identity, faces.z_arc, faces.women
        asked = Asked(identity[here], c_gen, look.predict(c_gen), faces.z_arc[here], *everybody, here)
        each, z_self = STRATEGIES[settings.mode](look, asked)
        if settings.anchor:
            each = each + settings.anchor * mean_square(asked.prediction - undisturbed(look, asked))
        weight = timestep_weight(settings.weight, t, self.prior.alphas_cumprod)
        return ConsistencyTerms((weight * each).mean(), each.detach(), t, z_self)

    def _source(
        self, identity: Tensor, faces: FaceBatch, generator: torch.Generator, here: slice
    ) -> tuple[Tensor, Tensor]:
        """The clean latents that are noised, and the landmarks of that face."""
        source, copies = self.settings.z_t_from, self.settings.copies
        if source == "real":
            return faces.latents[here], faces.landmarks[here]
        if source == "other":
            if len(identity) <= copies:
                raise InputError("z_t_from='other' in a batch of one: there is no other person; raise the batch")
            # a speaker's copies stand together: the next row but so many is the next person's
            return faces.latents.roll(copies, dims=0)[here], faces.landmarks.roll(copies, dims=0)[here]
        start = _normal(faces.latents.shape, generator)[here].to(faces.latents)
        with torch.no_grad():
            tokens = self.prior.condition(identity[here])
            latents = self.prior.denoise(start, tokens, self.settings.generated_steps, guidance=1.0)
        # older torch keeps casts of the adapters that were made without gradient (pytorch/pytorch#112583)
        torch.clear_autocast_cache()
        # nobody knows where a generated face's points are; faces are framed alike, so the mean is near
        return latents, faces.landmarks.mean(dim=0).expand_as(faces.landmarks[here])


def _normal(shape: torch.Size, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)
