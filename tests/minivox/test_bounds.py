"""What Stage I could reach on MiniVox: the ceilings of its test, and an aligner that hears the true voice."""

import numpy as np
import pytest
import torch

from minivox import ceilings as of_the_world
from minivox import readable, world
from v2f_core.evaluation.protocols import ALL, WITHIN
from v2f_core.identity.sphere import normalise
from v2f_core.training.pairs import Pairs

TRAIN, TEST = range(0, 240), range(240, 300)


def pairs(indices, identities):
    """Persons of MiniVox, women and men in turn, with given identities and voices that nobody asks for."""
    sexes = ["f" if i % 2 == 0 else "m" for i in indices]
    one_each = torch.arange(len(indices) + 1)
    names = [f"Mini_{i:04d}" for i in indices]
    return Pairs(names, sexes, torch.zeros(len(indices), 1), one_each, identities, one_each)


def persons(indices):
    return of_the_world.people(pairs(indices, torch.zeros(len(indices), 8)))


def faces(indices, look):
    """Unit identities by a function of a person's standardised voice, face and sex."""
    rows = []
    for person in persons(indices):
        voice = world.voice_z(np.array([person.voice]), np.array([person.sex]))[0]
        rows.append(look(voice, np.array(person.face), person.sex == world.MALE))
    return normalise(torch.tensor(np.array(rows), dtype=torch.float32))


def test_the_persons_behind_the_names_are_those_of_the_world():
    expected = [world.person("minivox", i, world.FEMALE if i % 2 == 0 else world.MALE) for i in (3, 4)]
    assert persons(range(3, 5)) == expected


def test_a_world_is_known_where_all_names_are_of_it():
    some = pairs(range(3), torch.zeros(3, 8))
    assert of_the_world.known(some)
    some.persons[1] = "A.J._Buckley"
    assert not of_the_world.known(some)


def test_faces_that_follow_from_the_voice_are_predicted_from_it():
    mix = np.random.default_rng(0).normal(size=(5, 8))

    def look(voice, face, man):
        return (1 if man else -1) * np.ones(8) + 0.3 * voice @ mix

    training, test = pairs(TRAIN, faces(TRAIN, look)), pairs(TEST, faces(TEST, look))
    predicted = readable.from_true_voices(training, test)
    np.testing.assert_allclose(np.linalg.norm(predicted, axis=1), 1, atol=1e-5)
    assert (predicted * test.gallery().numpy()).sum(1).mean() > 0.97


def test_faces_that_have_nothing_to_do_with_the_voice_are_not():
    g = np.random.default_rng(1)
    training, test = (pairs(i, faces(i, lambda *_: g.normal(size=64))) for i in (TRAIN, TEST))
    assert abs((readable.from_true_voices(training, test) * test.gallery().numpy()).sum(1).mean()) < 0.06


@pytest.fixture(scope="module")
def ceilings():
    def look(voice, face, man):
        return np.concatenate([[3.0 if man else -3.0], (face - np.mean(face)) / 5])

    return of_the_world.bounds(pairs(TEST, faces(TEST, look)), pairs(TRAIN, faces(TRAIN, look)))


def test_ceilings_are_harder_within_sex_and_above_chance(ceilings):
    assert 0.5 < ceilings[WITHIN].matching < ceilings[ALL].matching < 1
    assert ceilings[ALL].recall > 10 / 60
    assert ceilings[WITHIN].recall > 10 / 30
    assert ceilings[ALL].cosine == ceilings[WITHIN].cosine < 1
