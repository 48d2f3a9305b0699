"""Ranking faces by what their identities tell of a voice."""

import numpy as np
import pytest
import torch

from minivox import readable, world
from v2f_core.identity.sphere import normalise
from v2f_core.training.pairs import Pairs

TRAIN, TEST = range(0, 400), range(400, 480)


def pairs(indices, noise, photos=2, seed=0):
    """Persons whose identities show their voices, through noise."""
    sexes = ["f" if i % 2 == 0 else "m" for i in indices]
    names = [f"Mini_{i:04d}" for i in indices]
    z = world.voice_z(np.array([world.named(n, s).voice for n, s in zip(names, sexes, strict=True)]), np.array(sexes))
    mix, g = np.random.default_rng(0).normal(size=(5, 16)), np.random.default_rng(seed)
    shown = np.repeat(z @ mix, photos, 0) + noise * g.normal(size=(photos * len(z), 16)) + 20
    start = torch.arange(0, photos * len(z) + 1, photos)
    one_each = torch.arange(len(z) + 1)
    identities = normalise(torch.tensor(shown, dtype=torch.float32))
    return Pairs(names, sexes, torch.zeros(len(z), 1), one_each, identities, start)


def found(noise):
    scores = readable.rank_scores(pairs(TRAIN, noise), pairs(TEST, noise, seed=1))
    return scores, (scores.argmax(1) == np.arange(len(scores))).mean()


def test_where_faces_show_voices_plainly_everybody_is_found():
    scores, right = found(0.02)
    assert right > 0.9
    assert (scores[::2, 1::2] == readable.IMPOSSIBLE).all()  # no man is taken for a woman
    assert found(1e3)[1] < 0.15  # where they show nothing there is chance


@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_ranking_by_likelihood_is_ranking_by_distance_in_units_of_what_is_missed(noise):
    """Against the exact posterior of the linear world that these identities come from."""
    training, test = pairs(TRAIN, noise), pairs(TEST, noise, seed=1)
    ranks = np.array([(row >= row[i]).sum() for i, row in enumerate(readable.rank_scores(training, test))])
    mix = np.random.default_rng(0).normal(size=(5, 16))
    # u | shown: ridge with the true noise, on identities undone to what was shown
    shown = test.gallery().numpy()
    shown = shown / shown.mean(1, keepdims=True) * 20 - 20
    precision = np.eye(5) + mix @ mix.T / noise**2
    mean = shown @ mix.T / noise**2 @ np.linalg.inv(precision)
    u = readable.voices(test)
    away = u[:, None] - mean[None]
    exact = -0.5 * np.einsum("ijk,kl,ijl->ij", away, precision, away)
    women = np.arange(len(u)) % 2 == 0
    exact[women[:, None] != women] = -np.inf
    best = np.array([(row >= row[i]).sum() for i, row in enumerate(exact)])
    assert (ranks <= 5).mean() > (best <= 5).mean() - 0.1
