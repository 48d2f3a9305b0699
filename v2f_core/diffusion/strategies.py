"""Six readings of diffusion self-consistency: what a UNet can say about whether ẑ fits a face.

Each strategy gets a `Look`, one noised face a speaker, and the `Asked`, who they are said to be and what the UNet says
to it; it gives the loss of each example before w(t). Squared norms are means over the latent's dimensions.

- ``paper`` (Eq. 14): ‖ε_{θ+ψ}(z_t, c_gen) − ε(z_t, c_self)‖² with c_gen = P(ẑ), c_self = P(f_arc(decode(x̂0))). It is
  least where the network no longer listens to c, and where every ẑ is the same: watch the monitors.
- ``denoise``: ‖ε − ε_{θ+ψ}(z_t, c_gen)‖², the plain residual on the real face.
- ``teacher``: ‖ε_{θ+ψ}(z_t, c_gen) − ε_θ(z_t, P(z_arc))‖²: the same without the noise's variance.
- ``contrast``: −log softmax_j(−r_j/τ) of the residuals r_j under P(ẑ_i), P(ẑ_j) of same-sex speakers, and null.
- ``cycle``: 1 − cos(f_arc(decode(x̂0)), sg ẑ), our addition: the face is to be recognised as who was asked for. It needs
  no true face where z_t is generated; what f_arc is fooled by is its trivial optimum: read a second scorer.
- ``likeness``: 1 − cos(f_arc(decode(x̂0)), z_arc), our addition: not self-consistency but the cosine term of L_id seen
  through the prior, so that φ is told what its ẑ looks like when it is drawn. With ``copies`` both compare the mean of
  a speaker's faces; with ``rival_temperature`` a face is to be told from those of other speakers of the same sex.

``anchor`` adds what the adapters changed, ‖ε_{θ+ψ}(z_t, P(ẑ)) − ε_θ(z_t, P(ẑ))‖², to any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from v2f_core.diffusion.consistency_settings import ConsistencySettings
from v2f_core.diffusion.lora import lora_parameters, without_lora
from v2f_core.diffusion.prior import Prior
from v2f_core.diffusion.recognition import confusion, unlikeness
from v2f_core.identity.arcface_torch import align_batch


@dataclass(frozen=True)
class Look:
    """One noised face for each example, and those who look at it.

    Attributes:
        prior, arcface, settings: the networks and how to use them.
        z_t, t, noise: the noised latents, the timesteps, the noise in them.
        landmarks: five points of the face that was noised, pixels.
        given: False where conditions are dropped.
        generator: draws negatives.
    """

    prior: Prior
    arcface: nn.Module
    settings: ConsistencySettings
    z_t: Float[Tensor, "batch 4 h w"]
    t: Int[Tensor, " batch"]
    noise: Float[Tensor, "batch 4 h w"]
    landmarks: Float[Tensor, "batch 5 2"]
    given: Bool[Tensor, " batch"]
    generator: torch.Generator

    def condition(self, identity: Float[Tensor, "batch 512"]) -> Float[Tensor, "batch tokens width"]:
        """P(identity), or null where conditions are dropped."""
        tokens = self.prior.condition(identity)
        if bool(self.given.all()):
            return tokens
        return torch.where(self.given[:, None, None], tokens, self.prior.null(len(tokens)))

    def predict(self, c: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch 4 h w"]:
        """ε(z_t, c, t); in half precision the difference of two such would have hardly a digit left."""
        noise = self.prior.predict(self.z_t, self.t, c)
        return noise.float() if noise.dtype in (torch.float16, torch.bfloat16) else noise

    def target(self) -> AbstractContextManager[None]:
        """Within it, the network that makes the target: with the adapters or without."""
        return nullcontext() if self.settings.target_has_lora else without_lora(self.prior)

    def recognise(
        self, noise: Float[Tensor, "batch 4 h w"], c: Float[Tensor, "batch tokens width"]
    ) -> Float[Tensor, "batch 512"]:
        """z_self = f_arc(decode(x̂0)) (Eq. 12 and 13), x̂0 from a prediction made already, cropped by the landmarks."""
        x0 = estimate_x0(self.prior, self.z_t, self.t, noise, c, self.settings.x0_steps)
        return self.arcface(align_batch(self.prior.decode(x0), self.landmarks))


@dataclass(frozen=True)
class Asked:
    """Who the noised faces are said to be, and what is known of their speakers.

    Attributes:
        identity: who they are said to be: ẑ, or z_arc in the control.
        c_gen: P(identity), null where conditions are dropped.
        prediction: ε_{θ+ψ}(z_t, c_gen, t), with gradient; every strategy begins with it.
        z_arc: the speakers' true identities.
        everybody, everybody_arc, women: who all faces of the batch are said to be, who they truly are, and their
            speakers' sex.
        here: which of them these are: all, unless several processes share the batch.
    """

    identity: Float[Tensor, "batch 512"]
    c_gen: Float[Tensor, "batch tokens width"]
    prediction: Float[Tensor, "batch 4 h w"]
    z_arc: Float[Tensor, "batch 512"]
    everybody: Float[Tensor, "everybody 512"]
    everybody_arc: Float[Tensor, "everybody 512"]
    women: Bool[Tensor, " everybody"]
    here: slice


# the loss of each example, and z_self where there is one
Result = tuple[Float[Tensor, " batch"], Float[Tensor, "batch 512"] | None]
Strategy = Callable[[Look, Asked], Result]


def estimate_x0(
    prior: Prior,
    z_t: Float[Tensor, "batch 4 h w"],
    t: Int[Tensor, " batch"],
    noise: Float[Tensor, "batch 4 h w"],
    c: Float[Tensor, "batch tokens width"],
    steps: int = 1,
) -> Float[Tensor, "batch 4 h w"]:
    """x̂0 of noised latents, by ``steps`` DDIM steps from t to 0, of which the first is given by ``noise``.

    One step costs nothing more; each further one costs a UNet pass and makes x̂0 sharper.
    """
    x0 = prior.one_step_x0(z_t, t, noise)
    for step in range(1, steps):
        earlier = t * (steps - step) // steps
        z = prior.add_noise(x0, noise, earlier)
        noise = prior.predict(z, earlier, c)
        x0 = prior.one_step_x0(z, earlier, noise)
    return x0


def paper(look: Look, asked: Asked) -> Result:
    """Eq. 14."""
    with torch.set_grad_enabled(look.settings.detach == "nothing"):
        z_self = look.recognise(asked.prediction, asked.c_gen)
        with look.target():
            c_self = look.condition(z_self)
    with torch.set_grad_enabled(look.settings.detach != "branch"), look.target():
        target = look.predict(c_self)
    return mean_square(asked.prediction - target), z_self.detach()


def denoise(look: Look, asked: Asked) -> Result:
    """How badly the real face's noise is told under ẑ."""
    return mean_square(asked.prediction - look.noise), None


def teacher(look: Look, asked: Asked) -> Result:
    """How far the prediction under ẑ is from the one under the true identity."""
    with torch.no_grad(), look.target():
        target = look.predict(look.condition(asked.z_arc))
    return mean_square(asked.prediction - target), None


def cycle(look: Look, asked: Asked) -> Result:
    """How unlike who was asked for the face is, as f_arc sees it. The target is a constant: else ẑ would drift to what
    is drawn anyway."""
    return _recognised(look, asked, asked.everybody.detach())


def likeness(look: Look, asked: Asked) -> Result:
    """How unlike the speaker the face is, as f_arc sees it."""
    return _recognised(look, asked, asked.everybody_arc)


def _recognised(look: Look, asked: Asked, targets: Float[Tensor, "everybody 512"]) -> Result:
    z_self, copies = look.recognise(asked.prediction, asked.c_gen), look.settings.copies
    if temperature := look.settings.rival_temperature:
        return confusion(z_self, targets, asked.women, asked.here, copies, temperature), z_self.detach()
    return unlikeness(z_self, targets[asked.here], copies), z_self.detach()


def contrast(look: Look, asked: Asked) -> Result:
    """Whether the face is told better under its own ẑ than under others'; the adapters see the negatives as constants,
    else they would win by predicting worse under those."""
    count = look.settings.negatives
    own = mean_square(asked.prediction - look.noise)
    who, there = (drawn[asked.here] for drawn in draw_negatives(asked.women, count, look.generator))
    with _frozen_lora(look.prior):
        tokens = look.prior.condition(asked.everybody)[who.flatten()]
        z_t, t, noise = (x.repeat_interleave(count, dim=0) for x in (look.z_t, look.t, look.noise))
        others = mean_square(look.prior.predict(z_t, t, tokens) - noise).view(-1, count)
        with torch.no_grad():
            null = mean_square(look.predict(look.prior.null(len(own))) - look.noise)
    residuals = torch.cat([own[:, None], others.masked_fill(~there, torch.inf), null[:, None]], dim=1)
    first = torch.zeros(len(own), dtype=torch.long, device=own.device)
    return F.cross_entropy(-residuals / look.settings.temperature, first, reduction="none"), None


STRATEGIES: dict[str, Strategy] = {
    "paper": paper,
    "denoise": denoise,
    "teacher": teacher,
    "contrast": contrast,
    "cycle": cycle,
    "likeness": likeness,
}


@torch.no_grad()
def undisturbed(look: Look, asked: Asked) -> Float[Tensor, "batch 4 h w"]:
    """ε_θ(z_t, P(identity)): what the prior said before it had adapters."""
    with without_lora(look.prior):
        return look.predict(look.condition(asked.identity))


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


def mean_square(x: Float[Tensor, "batch 4 h w"]) -> Float[Tensor, " batch"]:
    """‖x‖² of each example, over the number of dimensions."""
    return x.square().flatten(1).mean(dim=1)


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
