"""p(z | v) is trained: the world that it is taught comes back out of it, and bad input is named."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import seeded

from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.sphere import normalise
from v2f_core.training.pairs import Pairs
from v2f_core.training.posterior import principal_axes, train_posterior

DIM, VIEWS = 6, 3


@pytest.fixture(scope="module")
def aligner():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Aligner(speaker_width=5, hidden_width=8, identity_width=DIM).eval()


def persons(count, aligner, seed, kappa=12.0, kinds=0.0):
    """A world in which faces really follow from ẑ as the posterior supposes, photographs scattered about them.

    With ``kinds`` each sex has two kinds of faces, that far from each other along the fourth axis.
    """
    g, i, axes = seeded(seed), torch.arange(count), torch.eye(DIM)
    man, kind = i % 2, i // 2 % 2 - 0.5
    voice = torch.randn(count, 5, generator=g) + torch.where(man == 1, 2.0, -2.0)[:, None]
    with torch.no_grad():
        heard = aligner(voice)
    mean, spread = 3 * axes[:2], torch.diag(torch.tensor([0.6, 0.6, 0.5, 0.4, 0.3, 0.2])) ** 2
    typical = torch.stack([heard[man == s].mean(dim=0) for s in (0, 1)])
    truth = mean[man] + kappa * (heard - typical[man]) @ spread
    truth += torch.randn(count, DIM, generator=g) @ spread.sqrt() + kinds * kind[:, None] * axes[3]
    photos = truth[:, None] + 0.1 * torch.randn(count, VIEWS, DIM, generator=g)
    return Pairs(
        persons=[f"P{number}" for number in range(count)],
        sexes=["fm"[s] for s in man],
        voice=voice,
        voice_start=torch.arange(count + 1),
        face=normalise(photos.reshape(-1, DIM)),
        face_start=torch.arange(count + 1) * VIEWS,
    )


@pytest.fixture(scope="module")
def world(aligner):
    return [persons(count, aligner, seed) for count, seed in ((300, 1), (120, 2), (300, 3))]


@pytest.fixture(scope="module")
def trained(world, aligner):
    return train_posterior(*world[:2], aligner, {"ast_sha256": "a"})


def test_it_tells_voices_from_faces_that_it_never_met(world, trained):
    faces, voices = world[2].gallery(), world[2].pooled_voices()
    told = trained.log_ratio(faces, voices).diagonal().mean()
    deaf = trained.log_ratio(faces, voices.roll(2, dims=0)).diagonal().mean()  # of the same sex
    assert trained.kappa > 0
    assert told > np.log(2) - 0.05  # at the least the sex
    assert told > deaf + 0.05
    assert trained.provenance["ast_sha256"] == "a"
    assert trained.provenance["validation"]["nats that a voice tells"] == pytest.approx(float(told), abs=0.15)


def test_draws_are_spread_as_the_photographs_are(world, trained):
    drawn = trained.sample(world[2].pooled_voices(), 20, generator=seeded())
    for sex in (0, 1):
        real, faces = world[2].face.reshape(-1, VIEWS, DIM)[sex::2].flatten(0, 1), drawn[sex::2].flatten(0, 1)
        torch.testing.assert_close(faces.mean(dim=0), real.mean(dim=0), atol=0.08, rtol=0)
        torch.testing.assert_close(torch.cov(faces.T), torch.cov(real.T), atol=0.03, rtol=0)


def test_within_and_between_are_told_apart(world, trained):
    """The photographs' scatter about their persons comes back, and the persons' own is the larger."""
    photos = (world[0].face.double() @ trained.basis.double()).reshape(-1, VIEWS, trained.basis.shape[1])
    photos = photos / photos.norm(dim=-1, keepdim=True)
    about = (photos - photos.mean(dim=1, keepdim=True)).flatten(0, 1)
    expected = about.T @ about / (len(photos) * (VIEWS - 1))
    within = trained.within.double() @ trained.within.double().T
    torch.testing.assert_close(within, expected, atol=1e-6, rtol=1e-3)
    assert all((b @ b.T).trace() > 5 * within.trace() for b in trained.between)


def test_several_gaussians_are_taken_where_faces_are_of_several_kinds(aligner):
    """Validation persons choose more than one part, and draws are of both kinds."""
    training, validation = (persons(count, aligner, seed, 0.0, kinds=5.0) for count, seed in ((240, 1), (100, 2)))
    trained = train_posterior(training, validation, aligner)
    assert trained.provenance["chosen"]["parts"] > 1
    side = trained.sample(validation.pooled_voices(), 10, generator=seeded())[..., 3]
    assert float((side > 0).float().mean()) == pytest.approx(0.5, abs=0.1)
    assert float((side.abs() < 0.3).float().mean()) < 0.1


def test_principal_axes_hold_the_share_of_the_squared_length_that_they_should():
    x = np.random.default_rng(0).standard_normal((200, 8)) * np.array([5, 4, 3, 1, 0.1, 0.1, 0.01, 0.01])
    axes = principal_axes(x)
    np.testing.assert_allclose(axes.T @ axes, np.eye(axes.shape[1]), atol=1e-9)
    kept, fewer = (((x @ some) ** 2).sum() / (x**2).sum() for some in (axes, axes[:, :-1]))
    assert fewer < 0.999 <= kept


def test_few_persons_with_a_photograph_each_get_few_axes_and_very_few_are_refused(world, aligner):
    few = world[0].only(list(range(9)))
    few = replace(few, face=few.gallery(), face_start=torch.arange(10))
    trained = train_posterior(few, world[1].only(list(range(8))), aligner)
    assert trained.basis.shape == (DIM, 4)
    assert bool(trained.sample(world[2].voice[0], 5, generator=seeded()).isfinite().all())
    assert bool(trained.log_ratio(world[2].gallery(), world[2].pooled_voices()).isfinite().all())
    with pytest.raises(InputError, match="6 training persons: expected at least 8"):
        train_posterior(world[0].only(list(range(6))), world[1], aligner)


def test_what_no_posterior_can_be_trained_from_is_named(world, aligner):
    training, validation = world[:2]
    women, broken = training.only(list(range(0, 40, 2))), replace(training, face=training.face.clone())
    unknown = replace(validation, sexes=["u", *validation.sexes[1:]])
    broken.face[4, 2] = torch.nan
    for pairs, of, message in (
        ((women, validation), aligner, r"training persons of sex f: expected women \(f\) and men"),
        ((training, unknown), aligner, "validation persons of sex f, m, u: expected women"),
        ((broken, validation), aligner, "P1: an embedding of the face is zero, infinite or NaN"),
        ((training, validation), Aligner(5, 8, 7), "identities of width 6, an aligner for 7"),
        ((training, validation), Aligner(4, 8, DIM), "speaker embedding of width 5"),
    ):
        with pytest.raises(InputError, match=message):
            train_posterior(*pairs, of)
