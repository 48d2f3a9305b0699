"""The portrait generator: framing, determinism, landmarks, and that each trait moves what it says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from minivox import world
from minivox.build.portrait import raster
from minivox.build.portrait.basis import LEFT_EYE, RIGHT_EYE, SKIN, basis
from minivox.build.portrait.camera import NOSE_TIP, head_at_rest, stage
from minivox.build.portrait.looks import Look, View, look_of
from minivox.build.portrait.render import landmarks

pytestmark = pytest.mark.slow

PEOPLE = world.population("portrait-tests", 20)


def with_trait(person: world.Person, **traits: float) -> Look:
    return look_of(dataclasses.replace(person, face=person.face._replace(**traits)))


def width(look: Look, low: float, high: float) -> float:
    """Half the width of the skin between two heights of the mean head, over the distance between the eyes."""
    b, v = basis(), head_at_rest(look)
    band = (b.vertex_part == SKIN) & (b.template[:, 1] > low) & (b.template[:, 1] < high) & (b.ears < 0.1)
    return float(np.abs(v[band, 0]).max() / eye_distance(v))


def eye_distance(v: np.ndarray) -> float:
    b = basis()
    return float(np.linalg.norm(v[b.vertex_part == LEFT_EYE].mean(0) - v[b.vertex_part == RIGHT_EYE].mean(0)))


def test_eyes_are_as_far_apart_as_in_ffhq():
    for person in PEOPLE:
        points = landmarks(look_of(person), View())
        assert 32 <= np.linalg.norm(points[1] - points[0]) <= 128 / 3


def test_landmarks_are_where_the_eyes_and_the_nose_are_drawn():
    b, size = basis(), 192
    for k, person in enumerate(PEOPLE[:6]):
        scene = stage(look_of(person), View.sample(np.random.default_rng(k), spread=0.5), size)
        fragments = raster.scan(scene.screen, scene.space[:, 2], b.triangles, size)
        front, _ = raster.nearest(fragments, size)
        part = np.full(size * size, -1)
        part[front.pixel] = b.triangle_part[front.triangle]
        xy = np.stack([front.pixel % size, front.pixel // size], 1)
        for eye, point in zip((RIGHT_EYE, LEFT_EYE), scene.landmarks[:2], strict=True):
            seen = xy[part[front.pixel] == eye]
            assert len(seen) > 10
            assert np.linalg.norm(seen.mean(0) - point) < 4  # of 192 pixels
        assert np.allclose(scene.landmarks[2], scene.screen[NOSE_TIP], atol=1e-3)


@pytest.mark.parametrize("person", PEOPLE[:4], ids=lambda p: p.sex + str(p.index))
def test_shared_traits_move_their_part_of_the_face(person):
    def change(measure, trait):
        low, high = (measure(with_trait(person, **{trait: z})) for z in (-1.5, 1.5))
        return (high - low) / low

    def length(look):
        v = head_at_rest(look)
        chin = v[(np.abs(basis().template[:, 0]) < 0.1) & (basis().template[:, 1] > -1.3), 1].min()
        return -chin / eye_distance(v)

    def cheeks(look):
        at = basis().template
        face = (basis().vertex_part == SKIN) & (np.abs(at[:, 1] + 0.6) < 0.3) & (at[:, 2] > -0.5)
        v = head_at_rest(look)
        return np.abs(v[face, 0]).mean() / eye_distance(v)

    def nose(look):
        v = head_at_rest(look)
        between = (np.abs(basis().template[:, 0]) < 0.02) & (np.abs(basis().template[:, 1] - 0.05) < 0.06)
        return v[NOSE_TIP, 2] - v[between & (basis().vertex_part == SKIN), 2].max()

    assert change(lambda look: width(look, -0.95, -0.6), "jaw") > 0.04
    assert change(cheeks, "fat") > 0.02
    assert change(length, "length") > 0.05
    assert change(nose, "nose") > 0.1


def test_private_factors_do_not_follow_the_shared_ones():
    person = PEOPLE[3]
    a, b = look_of(person), with_trait(person, jaw=2.0, nose=-2.0, length=1.0)
    assert (a.skin, a.iris, a.hair, a.length) == (b.skin, b.iris, b.hair, b.length)
    assert a.sliders["eyebrows-angle"] == b.sliders["eyebrows-angle"]


# the rasteriser, against a loop


def test_scan_and_nearest_agree_with_a_loop():
    g = np.random.default_rng(4)
    size, count = 24, 12
    xy, z = g.uniform(-3, 27, (3 * count, 2)).astype(np.float32), g.normal(size=3 * count).astype(np.float32)
    triangles = np.arange(3 * count).reshape(count, 3).astype(np.int32)
    front, depth = raster.nearest(raster.scan(xy, z, triangles, size, two_sided=True), size)
    expected = np.full(size * size, -np.inf)
    for t in triangles:
        matrix = np.vstack([xy[t].T.astype(float), np.ones(3)])
        for pixel in range(size * size):
            w = np.linalg.solve(matrix, [pixel % size + 0.5, pixel // size + 0.5, 1])
            if (w > 0).all():
                expected[pixel] = max(expected[pixel], w @ z[t])
    assert np.array_equal(np.isfinite(depth), np.isfinite(expected))
    seen = np.isfinite(expected)
    assert np.allclose(depth[seen], expected[seen], atol=1e-3)
    assert len(np.unique(front.pixel)) == len(front.pixel) == seen.sum()
