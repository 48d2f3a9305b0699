"""L_self: value and gradient by hand, where its gradient goes, and a critic of one's own."""

import pytest
import torch
import torch.nn.functional as F
from fakes import seeded, unit, wake

from v2f_core.diffusion.consistency import SelfConsistency, denoise, paper, teacher
from v2f_core.diffusion.lora import lora_parameters, without_lora
from v2f_core.errors import InputError
from v2f_core.identity.arcface_torch import align_batch

PSI = {"unet A", "unet B", "text_encoder A", "text_encoder B"}


# --- by hand


def test_the_papers_loss_and_its_gradient_by_hand(prior, arcface, faces):
    """Eq. 11 to 14, face by face, with w(t) = 1 − ᾱ_t; z_self and the whole second branch are constants."""
    wake(prior)
    consistency = SelfConsistency(prior, arcface, paper, weight=lambda alpha: 1 - alpha)
    view, identity = consistency.look(faces, seeded(4)), unit(4, 3).requires_grad_()
    each, weights = [], []
    for i in range(4):
        t, a = view.t[i], prior.alphas_cumprod[view.t[i]]
        z_t = (a.sqrt() * faces.latents[i] + (1 - a).sqrt() * view.noise[i])[None]
        prediction = prior.unet(z_t, t, prior.condition(identity[i : i + 1])).sample
        x_0 = (z_t - (1 - a).sqrt() * prediction) / a.sqrt()
        image = prior.vae.decode(x_0 / prior.vae.config.scaling_factor).sample.clamp(-1, 1)
        z_self = arcface(align_batch(image, faces.landmarks[i : i + 1]))
        target = prior.unet(z_t, t, prior.condition(z_self)).sample
        each.append((prediction - target.detach()).square().mean())
        weights.append(1 - a)
    terms = consistency(identity, faces, seeded(4))
    torch.testing.assert_close(terms.each, torch.stack(each).detach(), atol=1e-6, rtol=1e-3)
    by_hand = sum(w * e for w, e in zip(weights, each, strict=True)) / 4
    torch.testing.assert_close(terms.loss, by_hand, atol=1e-6, rtol=1e-3)
    trained = [identity, *lora_parameters(prior).values()]
    gradients, expected = (torch.autograd.grad(loss, trained) for loss in (terms.loss, by_hand))
    assert all(gradient.any() for gradient in expected)
    torch.testing.assert_close(gradients, expected, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("critic", [denoise, teacher])
def test_both_controls_by_hand(critic, prior, arcface, faces):
    wake(prior)
    identity, view = unit(4, 3), SelfConsistency(prior, arcface).look(faces, seeded(4))
    with torch.no_grad():
        prediction, target = prior.predict(view.z_t, view.t, prior.condition(identity)), view.noise
        if critic is teacher:
            with without_lora(prior):
                target = prior.predict(view.z_t, view.t, prior.condition(faces.z_arc))
    terms = SelfConsistency(prior, arcface, critic)(identity, faces, seeded(4))
    expected = torch.stack([(prediction[i] - target[i]).square().mean() for i in range(4)])
    torch.testing.assert_close(terms.each, expected, atol=1e-7, rtol=1e-3)
    torch.testing.assert_close(terms.loss.detach(), terms.each.mean())


def test_your_own_critic_is_passed_like_the_papers(prior, arcface, faces):
    """It gets the view, the identities and the faces, and gives a loss an example."""

    def mine(view, identity, faces):
        assert view.t.tolist() == [7, 7, 7, 7]
        return (1 - (identity * faces.z_arc).sum(1)) * torch.tensor([1.0, 0.0, 0.0, 2.0])

    identity = unit(4, 3).requires_grad_()
    terms = SelfConsistency(prior, arcface, mine, t_min=7, t_max=7)(identity, faces, seeded())
    terms.loss.backward()
    cosines = F.cosine_similarity(identity, faces.z_arc).detach()
    torch.testing.assert_close(terms.loss.detach(), ((1 - cosines[0]) + 2 * (1 - cosines[3])) / 4)
    torch.testing.assert_close(identity.grad[3], -2 * faces.z_arc[3] / 4)
    assert not identity.grad[1].any()


def test_timesteps_that_the_prior_does_not_have_are_refused(prior, arcface):
    for t_min, t_max in ((0, 1000), (9, 8), (-1, 5)):
        with pytest.raises(InputError, match=f"t_min={t_min}, t_max={t_max}: expected .* from 0 to 999"):
            SelfConsistency(prior, arcface, t_min=t_min, t_max=t_max)


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
