"""L_self: by hand, by finite differences, where its gradient goes, and a critic of one's own."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from fakes import seeded, unit, wake
from torch import nn

from v2f_core.diffusion.consistency import FaceBatch, SelfConsistency, View, denoise, describe, paper, teacher
from v2f_core.diffusion.lora import lora_parameters, without_lora
from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError
from v2f_core.identity.arcface_torch import align_batch
from v2f_core.identity.faces import TEMPLATE
from v2f_core.identity.sphere import normalise

PSI = {"unet A", "unet B", "text_encoder A", "text_encoder B"}


# --- by hand


def test_the_papers_loss_by_hand(prior, arcface, faces):
    """Eq. 11 to 14, face by face, with w(t) = 1 − ᾱ_t."""
    wake(prior)
    identity = unit(4, 3)
    consistency = SelfConsistency(prior, arcface, paper, weight=lambda alpha: 1 - alpha)
    view = consistency.look(faces, seeded(4))
    terms = consistency(identity, faces, seeded(4))
    each, weights = [], []
    for i in range(4):
        t, a = view.t[i], prior.alphas_cumprod[view.t[i]]
        z_t = (a.sqrt() * faces.latents[i] + (1 - a).sqrt() * view.noise[i])[None]
        prediction = prior.unet(z_t, t, prior.condition(identity[i : i + 1])).sample
        x_0 = (z_t - (1 - a).sqrt() * prediction) / a.sqrt()
        image = prior.vae.decode(x_0 / prior.vae.config.scaling_factor).sample.clamp(-1, 1)
        z_self = arcface(align_batch(image, faces.landmarks[i : i + 1]))
        target = prior.unet(z_t, t, prior.condition(z_self)).sample
        each.append((prediction - target).square().mean())
        weights.append(1 - a)
    torch.testing.assert_close(terms.each, torch.stack(each).detach(), atol=1e-6, rtol=1e-3)
    by_hand = sum(w * e for w, e in zip(weights, each, strict=True)) / 4
    torch.testing.assert_close(terms.loss, by_hand, atol=1e-6, rtol=1e-3)


def test_both_controls_by_hand(prior, arcface, faces):
    wake(prior)
    identity = unit(4, 3)
    view = SelfConsistency(prior, arcface).look(faces, seeded(4))
    found = {
        critic: SelfConsistency(prior, arcface, critic)(identity, faces, seeded(4)) for critic in (denoise, teacher)
    }
    with torch.no_grad():
        prediction = prior.predict(view.z_t, view.t, prior.condition(identity))
        with without_lora(prior):
            target = prior.predict(view.z_t, view.t, prior.condition(faces.z_arc))
    for i in range(4):
        noise, own = view.noise[i], prediction[i]
        torch.testing.assert_close(found[denoise].each[i], (own - noise).square().mean(), atol=1e-7, rtol=1e-4)
        torch.testing.assert_close(found[teacher].each[i], (own - target[i]).square().mean(), atol=1e-7, rtol=1e-3)
    torch.testing.assert_close(found[denoise].loss.detach(), found[denoise].each.mean())


def test_your_own_critic_is_passed_like_the_papers(prior, arcface, faces):
    """It gets the view, the identities and the faces, and gives a loss an example."""
    seen = []

    def mine(view, identity, faces):
        seen.append((view, identity, faces))
        return (1 - (identity * faces.z_arc).sum(1)) * torch.tensor([1.0, 0.0, 0.0, 2.0])

    identity = unit(4, 3).requires_grad_()
    terms = SelfConsistency(prior, arcface, mine, t_min=7, t_max=7)(identity, faces, seeded())
    terms.loss.backward()
    (view, given, shown) = seen[0]
    assert isinstance(view, View)
    assert given is identity
    assert shown is faces
    assert view.t.tolist() == [7, 7, 7, 7]
    cosines = F.cosine_similarity(identity, faces.z_arc).detach()
    torch.testing.assert_close(terms.loss.detach(), ((1 - cosines[0]) + 2 * (1 - cosines[3])) / 4)
    torch.testing.assert_close(identity.grad[3], -2 * faces.z_arc[3] / 4)
    assert not identity.grad[1].any()
    assert describe(mine) == "mine"
    assert describe(partial(mine, beta=0.5)) == "mine(beta=0.5)"


@pytest.mark.parametrize(("t_min", "t_max"), [(0, 1000), (9, 8), (-1, 5)])
def test_timesteps_that_the_prior_does_not_have_are_refused(t_min, t_max, prior, arcface):
    with pytest.raises(InputError, match=f"t_min={t_min}, t_max={t_max}: expected .* from 0 to 999"):
        SelfConsistency(prior, arcface, t_min=t_min, t_max=t_max)


@pytest.mark.parametrize("critic", [paper, denoise, teacher])
def test_parts_of_a_batch_are_judged_as_in_the_whole(critic, prior, arcface, faces):
    """So several processes can share a batch: each draws the noise of all and judges its own rows."""
    wake(prior)
    consistency, identity = SelfConsistency(prior, arcface, critic), unit(4, 3)
    whole, view = consistency(identity, faces, seeded(4)), consistency.look(faces, seeded(4))
    halves = [consistency.judge(view[rows], identity[rows], faces[rows]) for rows in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(torch.cat([half.each for half in halves]), whole.each, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close((halves[0].loss + halves[1].loss) / 2, whole.loss, atol=1e-6, rtol=1e-4)


# --- gradients


def reached(prior, arcface, faces, critic):
    """What gets a gradient other than 0 from L_self."""
    prior.zero_grad(set_to_none=True)
    identity = unit(4, 3).requires_grad_()
    SelfConsistency(prior, arcface, critic)(identity, faces, seeded(4)).loss.backward()
    parts = {"identity"} if identity.grad is not None and identity.grad.any() else set()
    for part in ("unet", "text_encoder"):
        for name, parameter in lora_parameters(getattr(prior, part)).items():
            if parameter.grad is not None and parameter.grad.any():
                parts.add(f"{part} {'A' if 'lora_A' in name else 'B'}")
    return parts


@pytest.mark.parametrize("critic", [paper, denoise, teacher])
def test_gradient_reaches_the_identity_and_the_adapters_and_nothing_else(critic, prior, arcface, faces):
    assert reached(prior, arcface, faces, critic) == {"identity", "unet B", "text_encoder B"}  # B = 0 hides A
    wake(prior)
    assert reached(prior, arcface, faces, critic) == PSI | {"identity"}
    assert all(p.grad is None for name, p in prior.named_parameters() if "lora_" not in name)


def test_autocast_loses_no_gradient_and_predictions_are_subtracted_in_float32(prior, arcface, faces):
    """In bfloat16 each prediction has three digits; their difference would have hardly one left."""
    wake(prior)
    predictions = []
    watch = prior.unet.register_forward_hook(lambda net, given, output: predictions.append(output.sample))
    with torch.autocast("cpu", torch.bfloat16):
        assert reached(prior, arcface, faces, teacher) == PSI | {"identity"}
        terms = SelfConsistency(prior, arcface, teacher)(unit(4, 3), faces, seeded())
    watch.remove()
    assert {prediction.dtype for prediction in predictions} == {torch.bfloat16}
    one, other = (prediction.detach().double() for prediction in predictions[-2:])
    by_hand = torch.stack([row.square().mean() for row in one - other])
    torch.testing.assert_close(terms.each.double(), by_hand, atol=0, rtol=1e-5)


class Toy(Prior):
    """A prior of two layers in float64; what it answers without gradient can be recorded and played back."""

    def __init__(self):
        nn.Module.__init__(self)
        self.register_buffer("alphas_cumprod", torch.linspace(0.95, 0.2, 20))
        self.words, self.first, self.second = nn.Linear(512, 6), nn.Linear(23, 12), nn.Linear(12, 16)
        self.picture = nn.Linear(16, 192)
        self.tape, self.playing = [], None

    def _constant(self, value):
        if torch.is_grad_enabled():
            return value
        if self.playing is not None:
            return next(self.playing)
        self.tape.append(value)
        return value

    def condition(self, identity):
        return self._constant(4 * self.words(identity)[:, None])

    def predict(self, z_t, t, c):
        seen = torch.cat([z_t.flatten(1), c[:, 0], t[:, None] / 20], dim=1)
        return self._constant(self.second(torch.tanh(self.first(seen))).view(-1, 4, 2, 2))

    def decode(self, latents):
        return torch.tanh(self.picture(latents.flatten(1))).view(-1, 3, 8, 8)


class ToyArcFace(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(48, 512)

    def forward(self, crops):
        return F.normalize(self.net(F.adaptive_avg_pool2d(crops, 4).flatten(1)), dim=1)


@pytest.fixture(scope="module")
def toys():
    from peft import LoraConfig, inject_adapter_in_model

    with torch.random.fork_rng():
        torch.manual_seed(0)
        toy, arcface = Toy(), ToyArcFace().double().requires_grad_(False)
        toy.requires_grad_(False)
        inject_adapter_in_model(LoraConfig(r=2, lora_alpha=3, target_modules=["second"]), toy)
        toy.double()
        for parameter in lora_parameters(toy).values():
            nn.init.normal_(parameter, std=0.5)
    faces = FaceBatch(
        torch.randn(4, 4, 2, 2, generator=seeded(1)).double(),
        torch.from_numpy(TEMPLATE * 8 / 112).repeat(4, 1, 1),
        normalise(torch.randn(4, 512, generator=seeded(2)).double()),
        torch.tensor([True, True, True, False]),
    )
    return toy, arcface, faces


def seen_as_the_speaker(view, identity, faces):
    """A critic whose gradient goes through f_arc and the decoder."""
    return 1 - (view.recognise(view.predict(identity)) * faces.z_arc).sum(1)


@pytest.mark.parametrize("critic", [paper, denoise, teacher, seen_as_the_speaker])
def test_gradients_agree_with_finite_differences(critic, toys):
    toy, arcface, faces = toys
    consistency = SelfConsistency(toy, arcface, critic, weight=lambda alpha: 1 - alpha, t_min=0, t_max=19)
    raw = torch.randn(4, 512, generator=seeded(3)).double().requires_grad_()
    parameters = [raw, *lora_parameters(toy).values()]
    toy.tape, toy.playing = [], None
    gradient = torch.autograd.grad(consistency(normalise(raw), faces, seeded(4)).loss, parameters)
    generator = seeded(5)
    directions = [torch.randn(p.shape, generator=generator).double() for p in parameters]

    def loss_at(step):
        toy.playing = iter(toy.tape)  # what is detached stays as it was
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p.add_(step * d)
        value = consistency(normalise(raw), faces, seeded(4)).loss.item()
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p.sub_(step * d)
        return value

    numeric = (loss_at(1e-5) - loss_at(-1e-5)) / 2e-5
    analytic = sum((a * d).sum().item() for a, d in zip(gradient, directions, strict=True))
    assert abs(analytic) > 1e-6
    assert analytic == pytest.approx(numeric, rel=1e-5, abs=1e-9)
