"""The critics of the study: by hand from what the networks answer, and where their gradient goes."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from fakes import seeded, unit, wake

from v2f_core.diffusion.consistency import SelfConsistency, describe, mean_square, paper, teacher
from v2f_core.diffusion.lora import lora_parameters, without_lora
from v2f_core.identity.arcface_torch import align_batch
from v2f_core.studies.critics import BALANCED, CRITICS, anchored, contrast, cycle, generated, innermost, likeness

NEGATIVES = [[1, 3], [0, 3], [], [0, 1]]  # of the four faces' persons: others of the same sex


def looked(prior, arcface, faces, critic, identity=None, seed=4, **settings):
    """The losses of the four faces."""
    identity = unit(4, 3) if identity is None else identity
    return SelfConsistency(prior, arcface, critic, **settings)(identity, faces, seeded(seed))


def view_of(prior, arcface, faces, seed=4, **settings):
    return SelfConsistency(prior, arcface, **settings).look(faces, seeded(seed))


# --- by hand


def test_contrast_and_its_gradient_by_hand(prior, arcface, faces):
    """One man among three women: his only negative is null. Negatives are constants for LoRA, not for the identity."""
    wake(prior)
    identity, view = unit(4, 3).requires_grad_(), view_of(prior, arcface, faces)
    terms = looked(prior, arcface, faces, partial(contrast, negatives=3, temperature=0.05), identity)
    terms.loss.backward()

    def by_hand(constant_negatives, z):
        rows = []
        for i, rivals in enumerate(NEGATIVES):
            residuals = []
            for j in (i, *rivals, None):
                c = prior.null(1) if j is None else prior.condition(z[j : j + 1])
                r = (prior.predict(view.z_t[i : i + 1], view.t[i : i + 1], c) - view.noise[i]).square().mean()
                residuals.append(r.detach() if constant_negatives and j != i else r)
            rows.append(-torch.log_softmax(-torch.stack(residuals) / 0.05, 0)[0])
        return torch.stack(rows)

    torch.testing.assert_close(terms.each, by_hand(False, identity).detach(), atol=1e-4, rtol=1e-3)
    parameters = list(lora_parameters(prior).values())
    expected = torch.autograd.grad(by_hand(True, identity.detach()).mean(), parameters)
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-2)
    z = identity.detach().requires_grad_()
    torch.testing.assert_close(identity.grad, torch.autograd.grad(by_hand(False, z).mean(), z)[0], atol=1e-5, rtol=1e-2)


@pytest.mark.parametrize("critic", [cycle, likeness])
def test_a_generated_face_is_recognised_by_hand(critic, prior, arcface, faces):
    """The face of P(ẑ) is compared with ẑ, which as the target is a constant, or with the speaker's own."""
    wake(prior)
    identity = unit(4, 3).requires_grad_()
    looked(prior, arcface, faces, partial(generated, critic=critic, steps=2), identity).loss.backward()
    generator = seeded(4)
    view = SelfConsistency(prior, arcface).look(faces, generator)
    start = torch.randn(faces.latents.shape, generator=generator)
    with torch.no_grad():
        drawn = prior.denoise(start, prior.condition(identity), 2, guidance=1.0)
    points = faces.landmarks.mean(0).expand(4, 5, 2)

    def by_hand(z):
        z_t = prior.add_noise(drawn, view.noise, view.t)
        x_0 = prior.one_step_x0(z_t, view.t, prior.predict(z_t, view.t, prior.condition(z)))
        seen = arcface(align_batch(prior.decode(x_0), points))
        return (1 - F.cosine_similarity(seen, identity.detach() if critic is cycle else faces.z_arc)).mean()

    z = identity.detach().requires_grad_()
    parameters = list(lora_parameters(prior).values())
    expected = torch.autograd.grad(by_hand(z), [z, *parameters])
    for gradient, other in zip([identity.grad, *(p.grad for p in parameters)], expected, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-5, rtol=1e-2)


@pytest.mark.parametrize("critic", [cycle, likeness])
@pytest.mark.parametrize("tau", [0.0, 0.2])
def test_what_is_recognised_is_compared_alone_or_among_rivals(critic, tau, prior, arcface, faces):
    """By a loop over what f_arc recognises; rivals are the other speakers of the same sex."""
    found, identity = looked(prior, arcface, faces, partial(critic, rival_temperature=tau)).each, unit(4, 3)
    view = view_of(prior, arcface, faces)
    with torch.no_grad():
        z_self = view.recognise(view.predict(identity))
    target = identity if critic is cycle else faces.z_arc
    for i in range(4):
        rivals = [j for j in range(4) if faces.women[j] == faces.women[i] and j != i]
        scores = torch.stack([z_self[i] @ target[j] for j in [i, *rivals]])
        by_hand = (scores / tau).logsumexp(0) - scores[0] / tau if tau else 1 - scores[0]
        torch.testing.assert_close(found[i], by_hand, atol=1e-5, rtol=1e-4)


def test_the_anchor_is_what_the_adapters_changed(prior, arcface, faces):
    held = partial(anchored, critic=teacher, weight=3.0)
    assert torch.equal(looked(prior, arcface, faces, held).each, looked(prior, arcface, faces, teacher).each)  # B = 0
    wake(prior)
    view, identity = view_of(prior, arcface, faces), unit(4, 3)
    with torch.no_grad():
        prediction = view.predict(identity)
        with without_lora(prior):
            changed = mean_square(prediction - view.predict(identity))
    assert changed.min() > 1e-6
    expected = looked(prior, arcface, faces, teacher).each + 3 * changed
    torch.testing.assert_close(looked(prior, arcface, faces, held).each, expected, atol=1e-6, rtol=1e-4)


# --- gradients, and what gains nothing


@pytest.mark.parametrize("name", CRITICS)
def test_every_critic_trains_the_identity_and_the_adapters(name, prior, arcface, faces):
    wake(prior)
    identity = unit(4, 3).requires_grad_()
    looked(prior, arcface, faces, CRITICS[name], identity).loss.backward()
    assert identity.grad.any(dim=1).all()
    assert all(parameter.grad.any() for parameter in lora_parameters(prior).values())
    assert CRITICS.keys() == BALANCED.keys()


def test_under_autocast_generating_without_gradient_costs_the_adapters_none(prior, arcface, faces):
    """torch keeps casts of weights; one made without gradient must not be used where there should be one."""
    wake(prior)
    with torch.autocast("cpu", torch.bfloat16):
        looked(prior, arcface, faces, partial(generated, critic=paper, steps=1)).loss.backward()
    assert all(parameter.grad.any() for parameter in lora_parameters(prior).values())


def test_a_critic_of_critics_tells_its_name_and_its_heart():
    critic = partial(generated, critic=partial(anchored, critic=partial(cycle, rival_temperature=0.1)), steps=5)
    assert describe(critic) == "generated(critic=anchored(critic=cycle(rival_temperature=0.1)), steps=5)"
    assert innermost(critic) == "cycle"
    assert innermost(partial(contrast, negatives=5)) == "contrast"
