"""The causal graph: every arrow acts with the strength that the table states, and nothing else links face and voice."""

import numpy as np
import pytest

from minivox import world

PEOPLE = world.population("tests", 2000)
SEX = np.array([p.sex == world.MALE for p in PEOPLE])
AGE = world.standard_age(np.array([p.age for p in PEOPLE]))
CAUSES = {name: np.array([getattr(p, name) for p in PEOPLE]) for name in world.SHARED} | {"age": AGE}
VOICE = world.voice_z(np.array([p.voice for p in PEOPLE]), np.array([p.sex for p in PEOPLE]))
EFFECTS = {f"face.{t}": np.array([getattr(p.face, t) for p in PEOPLE]) for t in world.FACE_Z}
EFFECTS |= {f"voice.{t}": VOICE[:, i] for i, t in enumerate(world.VOICE_Z)}


@pytest.mark.parametrize("effect", EFFECTS)
def test_links_are_regression_weights(effect):
    design = np.stack([*CAUSES.values()], 1)
    weights, *_ = np.linalg.lstsq(design, EFFECTS[effect], rcond=None)
    stated = dict.fromkeys(CAUSES, 0.0) | {k.cause: k.strength for k in world.LINKS if k.effect == effect}
    np.testing.assert_allclose(weights, list(stated.values()), atol=0.085)


def test_face_and_voice_meet_only_in_the_shared_factors():
    """Once the causes are taken out, what is left of the face knows nothing of what is left of the voice."""
    design = np.stack([*CAUSES.values()], 1)
    left = {}
    for name, value in EFFECTS.items():
        left[name] = value - design @ np.linalg.lstsq(design, value, rcond=None)[0]
    for face in (v for n, v in left.items() if n.startswith("face.")):
        for voice in (v for n, v in left.items() if n.startswith("voice.")):
            assert abs(np.corrcoef(face, voice)[0, 1]) < 0.085


def test_persons_are_reproducible_and_pools_disjoint():
    assert world.person("a", 5) == world.person("a", 5)
    one, other = world.population("a", 40), world.population("b", 40)
    assert {p.face_seed for p in one}.isdisjoint(p.face_seed for p in other)
    assert {p.voice_seed for p in one}.isdisjoint(p.face_seed for p in one)


def test_minivox_v1_is_frozen():
    """The shipped data were drawn from these persons: a change of the world is a new version of MiniVox."""
    first = world.person("minivox", 0, world.FEMALE)
    assert (round(first.age, 3), round(first.robust, 3), round(first.voice.vtl, 3)) == (38.484, -1.722, 14.537)
