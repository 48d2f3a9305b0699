"""p(z | v) is trained: the world that it is taught comes back out of it, and bad input is named."""

from dataclasses import replace

import numpy as np
import pytest
import torch

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


def persons(count, aligner, seed, kappa=3.0, sexes="fm"):
    """A world in which faces really follow from ẑ as the posterior supposes, photographs scattered about them."""
    g = torch.Generator().manual_seed(seed)
    sex = [sexes[i % len(sexes)] for i in range(count)]
    man = torch.tensor([s == "m" for s in sex])
    voice = torch.randn(count, 5, generator=g) + torch.where(man, 2.0, -2.0)[:, None]
    with torch.no_grad():
        heard = aligner(voice)
    mean = torch.zeros(2, DIM)
    mean[0, 0] = mean[1, 1] = 3.0
    centre = torch.stack(
        [heard[~man].mean(dim=0) if (~man).any() else heard[0], heard[man].mean(dim=0) if man.any() else heard[0]]
    )
    spread = torch.diag(torch.tensor([0.6, 0.6, 0.5, 0.4, 0.3, 0.2])) ** 2
    truth = mean[man.long()] + kappa * (heard - centre[man.long()]) @ spread
    truth = truth + torch.randn(count, DIM, generator=g) @ spread.sqrt()
    photos = truth[:, None] + 0.1 * torch.randn(count, VIEWS, DIM, generator=g)
    return Pairs(
        persons=[f"P{i}" for i in range(count)],
        sexes=sex,
        voice=voice,
        voice_start=torch.arange(count + 1),
        face=normalise(photos.reshape(-1, DIM)),
        face_start=torch.arange(count + 1) * VIEWS,
    )


@pytest.fixture(scope="module")
def world(aligner):
    return persons(400, aligner, seed=1), persons(120, aligner, seed=2), persons(400, aligner, seed=3)


@pytest.fixture(scope="module")
def telling_world(aligner):
    return [persons(count, aligner, seed, kappa=12.0) for count, seed in ((300, 1), (120, 2), (200, 3))]


@pytest.fixture(scope="module")
def trained(world, aligner):
    return train_posterior(*world[:2], aligner, {"ast_sha256": "a"})


def test_it_tells_voices_from_faces_that_it_never_met(telling_world, aligner):
    training, validation, test = telling_world
    trained = train_posterior(training, validation, aligner)
    first = test.gallery()
    told = trained.log_ratio(first, test.pooled_voices()).diagonal().mean()
    deaf = trained.log_ratio(first, test.pooled_voices().roll(2, dims=0)).diagonal().mean()  # of the same sex
    assert trained.kappa > 0
    assert told > np.log(2) - 0.05  # at the least the sex
    assert told > deaf + 0.05
    assert trained.provenance["validation"]["nats that a voice tells"] == pytest.approx(float(told), abs=0.15)


def test_draws_are_spread_as_the_photographs_are(world, trained):
    test = world[2]
    drawn = trained.sample(test.pooled_voices(), 20, generator=torch.Generator().manual_seed(0))
    for sex in "fm":
        of = [i for i, s in enumerate(test.sexes) if s == sex]
        real = test.only(of).face
        torch.testing.assert_close(drawn[of].reshape(-1, DIM).mean(dim=0), real.mean(dim=0), atol=0.03, rtol=0)
        torch.testing.assert_close(torch.cov(drawn[of].reshape(-1, DIM).T), torch.cov(real.T), atol=0.03, rtol=0)


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
    """Two clumps in each sex: validation persons choose more than one part, and draws lie in both clumps."""

    def clumped(pairs):
        kind = torch.arange(len(pairs.persons)) // 2 % 2
        push = torch.zeros(DIM)
        push[3] = 1.5
        face = pairs.face.reshape(-1, VIEWS, DIM) + torch.where(kind == 1, 1.0, -1.0)[:, None, None] * push
        return Pairs(**{**pairs.__dict__, "face": normalise(face.reshape(-1, DIM))})

    training, validation = (clumped(persons(count, aligner, seed)) for count, seed in ((240, 1), (100, 2)))
    trained = train_posterior(training, validation, aligner)
    assert trained.provenance["chosen"]["parts"] > 1
    side = trained.sample(validation.pooled_voices(), 10, generator=torch.Generator().manual_seed(0))[..., 3]
    assert float((side > 0).float().mean()) == pytest.approx(0.5, abs=0.1)
    assert float((side.abs() < 0.3).float().mean()) < 0.1


def test_principal_axes_hold_the_share_that_was_asked_for():
    x = np.random.default_rng(0).standard_normal((200, 8)) * np.array([5, 4, 3, 1, 0.1, 0.1, 0.01, 0.01])
    axes = principal_axes(x, 0.99)
    np.testing.assert_allclose(axes.T @ axes, np.eye(axes.shape[1]), atol=1e-9)
    kept = ((x @ axes) ** 2).sum() / (x**2).sum()
    fewer = ((x @ axes[:, :-1]) ** 2).sum() / (x**2).sum()
    assert fewer < 0.99 <= kept


def test_persons_with_one_photograph_each_will_do(aligner):
    few = persons(100, aligner, seed=4)
    one = Pairs(**{**few.__dict__, "face": few.gallery(), "face_start": torch.arange(101)})
    drawn = train_posterior(one, few, aligner).sample(few.voice[0], 4, generator=torch.Generator().manual_seed(0))
    assert bool(drawn.isfinite().all())


def test_few_persons_get_few_axes_and_very_few_are_refused(world, aligner):
    few = train_posterior(world[0].only(list(range(9))), world[1].only(list(range(8))), aligner)
    assert few.basis.shape == (DIM, 4)
    assert bool(few.sample(world[2].voice[0], 5, generator=torch.Generator().manual_seed(0)).isfinite().all())
    assert bool(few.log_ratio(world[2].gallery(), world[2].pooled_voices()).isfinite().all())
    with pytest.raises(InputError, match="6 training persons: expected at least 8"):
        train_posterior(world[0].only(list(range(6))), world[1], aligner)


def test_what_no_posterior_can_be_trained_from_is_named(world, aligner):
    training, validation = world[:2]
    unknown, broken = training.only(list(range(20))), replace(training, face=training.face.clone())
    unknown.sexes[3], broken.face[4, 2] = "u", torch.nan
    for pairs, of, message in (
        ((persons(50, aligner, 5, sexes="f"), validation), aligner, "persons of one sex alone"),
        ((training, persons(50, aligner, 5, sexes="m")), aligner, "persons of one sex alone"),
        ((unknown, validation), aligner, r"P3: of unknown sex \(1 persons are\)"),
        ((broken, validation), aligner, "P1: an embedding of the face is zero, infinite or NaN"),
        ((training, validation), Aligner(5, 8, 7), "identities of width 6, an aligner for 7"),
        ((training, validation), Aligner(4, 8, DIM), "speaker embedding of width 5"),
    ):
        with pytest.raises(InputError, match=message):
            train_posterior(*pairs, of)
