"""Faces of a system are drawn once, go on after a kill with the same bytes, and are scored as any photograph is."""

import numpy as np
import pytest
import torch
from fakes import Pack, small_judge
from PIL import Image

from v2f_core.diffusion.prior import Prior
from v2f_core.evaluation.systems import Drawing, Faces, Scorer, System, best_of, draw_faces, noise_of, rebuild_faces
from v2f_core.identity.sphere import normalise

PERSONS = [f"P{i}" for i in range(11)]
SCORER = Scorer(Pack(), small_judge())


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def prior(tiny_profile):
    return Prior.from_folder(tiny_profile.prior).requires_grad_(False)


@pytest.fixture(scope="module")
def identity():
    return normalise(torch.randn(11, 512, generator=torch.Generator().manual_seed(0)))


@pytest.fixture(scope="module")
def drawn(prior, identity, tmp_path_factory):
    """The folder of eleven persons' faces, and the faces."""
    folder = tmp_path_factory.mktemp("drawn")
    return folder, draw(prior, identity, folder)


def draw(prior, identity, folder, persons=PERSONS, scorer=SCORER, **other):
    settings = {"drawing": Drawing(steps=2, guidance=2.0), "hashes": {"prior_sha256": "0"}, **other}
    return draw_faces(prior, identity, persons, scorer, folder, **settings)


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image).astype(float)


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_everybody_gets_one_scored_face(drawn):
    _, faces = drawn
    assert faces.identities.shape == (11, 512)
    np.testing.assert_allclose(faces.posteriors.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(faces.features, axis=1), 1, atol=1e-5)
    seen = SCORER.photographs(faces.paths)  # of the stored WebP, which lost a little
    np.testing.assert_allclose((seen.identities * faces.identities).sum(axis=1), 1, atol=0.02)


def test_a_killed_run_goes_on_with_the_same_bytes(prior, identity, drawn, tmp_path):
    folder, whole = drawn
    calls = []

    class Killed(Scorer):
        def __call__(self, images):
            calls.append(len(images))
            if len(calls) == 2:
                raise KilledError
            return super().__call__(images)

    killed = Killed(Pack(), small_judge())
    with pytest.raises(KilledError):
        draw(prior, identity, tmp_path, scorer=killed)
    resumed = draw(prior, identity, tmp_path, scorer=killed)
    assert calls == [8, 3, 3]  # the first batch was not drawn again
    np.testing.assert_array_equal(resumed.identities, whole.identities)
    assert files(tmp_path) == files(folder)


def test_what_decides_the_faces_decides_the_folder(prior, identity, tmp_path):
    one, who = identity[:1], PERSONS[:1]
    others = [{}, {"draw": 1}, {"drawing": Drawing(steps=3)}, {"hashes": {"prior_sha256": "1"}}, {"persons": ["P9"]}]
    folders = {draw(prior, one, tmp_path, **{"persons": who} | other).paths[0].parent for other in others}
    folders |= {draw(prior, identity[1:2], tmp_path, who).paths[0].parent}
    assert len(folders) == len(others) + 1


def test_a_person_s_noise_is_their_own_whoever_is_drawn_beside_them(prior, identity, drawn, tmp_path):
    few, many = draw(prior, identity[5:6], tmp_path, PERSONS[5:6]), drawn[1]
    # a batch of another size moves the last bit of a float, WebP a little more
    assert np.abs(pixels(few.paths[0]) - pixels(many.paths[5])).max() <= 3
    assert not torch.equal(noise_of("P5", (4, 4, 4)), noise_of("P6", (4, 4, 4)))
    assert abs(float(noise_of("P5", (40, 40)).std()) - 1) < 0.05


def test_a_photograph_without_a_face_is_a_miss_and_nobody_s_is_not_asked_for(tmp_path):
    for name in ("black", "white"):
        Image.new("RGB", (20, 20), name).save(tmp_path / f"{name}.png")
    faces = SCORER.photographs([tmp_path / "white.png", tmp_path / "black.png"]).placed([0, 2], 3)
    assert faces.identities.any(axis=1).tolist() == [True, False, False]
    assert System("x", faces=(faces,)).undetected == 2
    assert System("x", faces=(faces,), answered=np.array([True, False, True])).undetected == 1


def test_reconstructions_are_those_of_the_vae(prior, tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (40, 32, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    faces = rebuild_faces(prior, [tmp_path / "a.png"], Scorer(Pack()), tmp_path, {})
    squared = torch.from_numpy(picture[4:36]).permute(2, 0, 1)[None].float() / 127.5 - 1  # the middle square
    with torch.no_grad():
        expected = (prior.decode(prior.encode(squared))[0].permute(1, 2, 0).numpy() + 1) * 127.5
    assert np.abs(pixels(faces.paths[0]) - expected).mean() < 12  # noise through WebP


def test_best_of_takes_the_face_most_like_the_prediction(identity):
    z = identity.numpy()
    picked = best_of([Faces.of(np.roll(z, k, axis=0)) for k in range(4)], np.roll(z, 2, axis=0))
    np.testing.assert_array_equal(picked.identities, np.roll(z, 2, axis=0))
