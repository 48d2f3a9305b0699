"""Self-consistency, L_self (Eq. 11-14): the frozen generator judges a predicted identity.

A face is noised, the UNet predicts the noise under the identity ẑ, and a *critic* turns that prediction into a loss.
A critic is a function ``(view, identity, faces) -> loss of each example``; :mod:`v2f_core.studies.critics` has more
than the three here, and your own is passed in the same way::

    loss = SelfConsistency(prior, arcface, critic=paper)(aligner(voices), faces, generator).loss

The paper's loss is also minimal if the UNet ignores its condition, or if every ẑ is the same:
:mod:`v2f_core.diffusion.monitors` shows both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from v2f_core.diffusion.lora import without_lora
from v2f_core.diffusion.prior import Identities, Latents, Prior, Timesteps
from v2f_core.errors import InputError
from v2f_core.identity.arcface_torch import align_batch

Landmarks = Float[Tensor, "batch 5 2"]  # (x, y) in pixels of the decoded image
Losses = Float[Tensor, " batch"]  # of each example


@dataclass(frozen=True)
class FaceBatch:
    """Photographs of different persons, encoded once."""

    latents: Latents  # z_0, the VAE's code
    landmarks: Landmarks
    z_arc: Identities  # unit ArcFace identities
    women: Bool[Tensor, " batch"]  # critics compare persons of the same sex only

    def __getitem__(self, rows: slice | Int[Tensor, " some"]) -> FaceBatch:
        """Some of the faces."""
        return FaceBatch(self.latents[rows], self.landmarks[rows], self.z_arc[rows], self.women[rows])


@dataclass(frozen=True)
class View:
    """A critic's inputs: noised faces and the networks."""

    prior: Prior  # with or without LoRA adapters
    arcface: nn.Module  # f_arc with gradients
    z_t: Latents  # noised latents
    t: Timesteps
    noise: Latents  # the noise in them
    landmarks: Landmarks  # of the noised faces
    generator: torch.Generator  # for critics that draw random numbers

    def predict(self, identity: Identities) -> Latents:
        """ε(z_t, P(identity), t), at least in float32, since critics subtract two similar predictions.

        Under autocast, predict with gradient first: it caches the cast weights, and those cast without get none later.
        """
        prediction = self.prior.predict(self.z_t, self.t, self.prior.condition(identity))
        return prediction.to(torch.promote_types(prediction.dtype, torch.float32))

    def recognise(self, prediction: Latents) -> Identities:
        """z_self = f_arc(decode(x̂_0)) (Eq. 12 and 13): the identity in the one-step estimate of the clean face."""
        x_0 = self.prior.one_step_x0(self.z_t, self.t, prediction)
        return self.arcface(align_batch(self.prior.decode(x_0), self.landmarks))

    def renoise(self, latents: Latents, landmarks: Landmarks) -> View:
        """The view of other faces with the same noise."""
        return replace(self, z_t=self.prior.add_noise(latents, self.noise, self.t), landmarks=landmarks)

    def __getitem__(self, rows: slice | Int[Tensor, " some"]) -> View:
        """The view of some of the faces."""
        tensors = {name: getattr(self, name)[rows] for name in ("z_t", "t", "noise", "landmarks")}
        return replace(self, **tensors)


Critic = Callable[[View, Identities, FaceBatch], Losses]


def paper(view: View, identity: Identities, faces: FaceBatch) -> Losses:
    """Eq. 14: ‖ε(z_t, P(ẑ)) − sg ε(z_t, P(z_self))‖², with z_self recognised from the first prediction.

    The paper stops the gradient at c_self and leaves open whether it flows through the second UNet pass. Here the whole
    second branch is constant (sg): one UNet pass with gradient and one without.
    """
    prediction = view.predict(identity)
    with torch.no_grad():
        target = view.predict(view.recognise(prediction))
    return mean_square(prediction - target)


def denoise(view: View, identity: Identities, faces: FaceBatch) -> Losses:
    """Control: ‖ε(z_t, P(ẑ)) − ε‖², the ordinary diffusion loss on the speaker's face."""
    return mean_square(view.predict(identity) - view.noise)


def teacher(view: View, identity: Identities, faces: FaceBatch) -> Losses:
    """Control: ‖ε(z_t, P(ẑ)) − ε_θ(z_t, P(z_arc))‖², with the target from the prior without its adapters."""
    prediction = view.predict(identity)
    with torch.no_grad(), without_lora(view.prior):
        target = view.predict(faces.z_arc)
    return mean_square(prediction - target)


def describe(critic: Critic) -> str:
    """A critic as text, for provenance: its name and the options set by ``functools.partial``.

    Example:
        >>> describe(partial(paper, critic=partial(teacher, weight=2.0)))  # a critic with a critic as option
        'paper(critic=teacher(weight=2.0))'
    """
    if isinstance(critic, partial):
        options = {name: describe(value) if callable(value) else value for name, value in critic.keywords.items()}
        return f"{describe(critic.func)}({', '.join(f'{name}={value}' for name, value in options.items())})"
    return str(getattr(critic, "__name__", type(critic).__name__))


class ConsistencyTerms(NamedTuple):
    """The weighted mean, and the loss of each example, unweighted and detached."""

    loss: Float[Tensor, ""]
    each: Losses


class SelfConsistency:
    """L_self of predicted identities and their speakers' faces.

    Args:
        prior: with adapters (:func:`~v2f_core.diffusion.lora.add_lora`) or without; without, only φ is trained.
        arcface: f_arc with gradients (:func:`~v2f_core.identity.arcface_torch.differentiable_arcface`).
        weight: w(t) of Eq. 14 as a function of ᾱ_t; the paper does not give it. Default: 1.
        t_min, t_max: first and last timestep that may be drawn; the paper gives no numbers.
    Raises:
        InputError: the prior has no such timestep.
    """

    def __init__(
        self,
        prior: Prior,
        arcface: nn.Module,
        critic: Critic = paper,
        weight: Callable[[Tensor], Tensor] = torch.ones_like,
        t_min: int = 20,
        t_max: int = 979,
    ) -> None:
        last = len(prior.alphas_cumprod) - 1
        if not 0 <= t_min <= t_max <= last:
            raise InputError(f"t_min={t_min}, t_max={t_max}: expected t_min ≤ t_max, both from 0 to {last}")
        self.prior, self.arcface, self.critic, self.weight = prior, arcface, critic, weight
        self.t_min, self.t_max = t_min, t_max

    def __call__(self, identity: Identities, faces: FaceBatch, generator: torch.Generator) -> ConsistencyTerms:
        """The loss of a batch; ``generator`` draws timesteps and noise."""
        return self.judge(self.look(faces, generator), identity, faces)

    def look(self, faces: FaceBatch, generator: torch.Generator) -> View:
        """Noise the faces, each at its own timestep."""
        z_0, where = faces.latents, generator.device
        t = torch.randint(self.t_min, self.t_max + 1, (len(z_0),), generator=generator, device=where).to(z_0.device)
        noise = torch.randn(z_0.shape, generator=generator, device=where).to(z_0)
        z_t = self.prior.add_noise(z_0, noise, t)
        return View(self.prior, self.arcface, z_t, t, noise, faces.landmarks, generator)

    def judge(self, view: View, identity: Identities, faces: FaceBatch) -> ConsistencyTerms:
        """The critic's loss of noised faces."""
        each = self.critic(view, identity, faces)
        return ConsistencyTerms((self.weight(self.prior.alphas_cumprod[view.t]) * each).mean(), each.detach())


def mean_square(x: Latents) -> Losses:
    """‖x‖² of each example, divided by its number of dimensions."""
    return x.square().flatten(1).mean(dim=1)
