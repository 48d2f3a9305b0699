"""One voice, many faces: what the pipeline, its files and the command line do with p(z | v)."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from fakes import spoken

from v2f_core.app.generate import generate
from v2f_core.artefacts.files import folder_hash
from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.posterior import IdentityPosterior
from v2f_core.pipeline import Vox2FacePipeline


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pixels(output):
    return [np.asarray(image) for image in output.images]


@pytest.fixture(scope="module")
def profile(tiny_profile, tmp_path_factory):
    """The tiny profile with a posterior whose numbers mean nothing, and a file in place of the face net."""
    folder, g = tmp_path_factory.mktemp("posterior"), seeded()
    faces = tmp_path_factory.mktemp("faces")
    (faces / "net.onnx").write_bytes(b"never loaded")
    tiny_profile = replace(tiny_profile, faces=faces)
    aligner = Aligner.from_pretrained(tiny_profile.aligner)
    basis = torch.linalg.qr(torch.randn(512, 8, generator=g))[0]
    small = [torch.randn(*shape, generator=g) for shape in ((2, 1, 8), (2, 1), (2, 8), (2, 8, 8), (8, 8), (9,))]
    made_from = {f"{part}_sha256": folder_hash(tiny_profile.part(part)) for part in ("ast", "faces")}
    IdentityPosterior(aligner, basis, *small).save_pretrained(folder, made_from)
    return replace(tiny_profile, posterior=folder)


@pytest.fixture(scope="module")
def pipe(profile):
    return Vox2FacePipeline.from_profile(profile)


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    path = tmp_path_factory.mktemp("voice") / "voice.wav"
    soundfile.write(path, spoken(3), 16_000)
    return path


def test_each_face_is_of_an_identity_of_its_own(pipe, voice):
    output = pipe(voice, 3, generator=seeded())
    assert output.truncation == 1
    assert output.identities.shape == (3, 512)
    assert torch.unique(output.identities, dim=0).shape == (3, 512)
    assert torch.equal(output.identity, pipe.identify(voice)[0])


def test_truncation_zero_is_the_papers_point_estimate(pipe, voice, tiny_profile):
    without = Vox2FacePipeline.from_profile(tiny_profile)
    output = pipe(voice, 2, truncation=0, generator=seeded())
    assert torch.equal(output.identities, output.identity.expand(2, -1))
    assert output.truncation == 0
    assert np.array_equal(pixels(output), pixels(without(voice, 2, truncation=0, generator=seeded())))


def test_a_face_of_its_own_generator_can_be_drawn_again_alone(pipe, voice):
    together = pipe(voice, 10, generator=[seeded(i) for i in range(10)])  # more than are drawn at once
    alone = pipe(voice, 1, generator=[seeded(9)])
    torch.testing.assert_close(together.identities[9], alone.identities[0])
    assert np.abs(pixels(together)[9].astype(int) - pixels(alone)[0]).max() <= 1


def test_without_a_posterior_all_faces_are_of_the_point_estimate_and_it_says_so(tiny_profile, voice, caplog):
    with caplog.at_level(logging.WARNING):
        output = Vox2FacePipeline.from_profile(tiny_profile)(voice, 2, generator=seeded())
    assert output.truncation == 0
    assert torch.equal(output.identities, output.identity.expand(2, -1))
    assert "all faces are of the point estimate" in caplog.text


def test_a_truncation_outside_zero_and_one_is_refused_before_anything_is_drawn(pipe):
    with pytest.raises(InputError, match=r"truncation=1\.5: expected 0"):
        pipe("no such file", 2, truncation=1.5)


def test_a_posterior_of_another_encoder_is_refused(profile, tmp_path):
    other = IdentityPosterior.from_pretrained(profile.posterior, Aligner.from_pretrained(profile.aligner))
    other.save_pretrained(tmp_path, {**other.provenance, "ast_sha256": "another"})
    with pytest.raises(InputError, match=r"a posterior of other parts \(ast_sha256 differ"):
        Vox2FacePipeline.from_profile(replace(profile, posterior=tmp_path))


def test_a_pipeline_and_its_posterior_share_one_aligner(profile, pipe):
    parts = {**pipe.components, "aligner": Aligner.from_pretrained(profile.aligner)}
    with pytest.raises(InputError, match="expected one for both"):
        Vox2FacePipeline(**parts, posterior=pipe.posterior)


def test_stage_twos_aligner_has_no_posterior_until_one_is_trained_for_it(profile, tmp_path):
    torch.manual_seed(1)
    Aligner(16, 8, 512).save_pretrained(tmp_path / "aligner")
    assert Vox2FacePipeline.from_profile(replace(profile, adapted=tmp_path)).posterior is None


def test_saved_and_loaded_the_pipeline_draws_the_same(pipe, voice, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = Vox2FacePipeline.from_pretrained(tmp_path)
    assert np.array_equal(pixels(again(voice, 2, generator=seeded())), pixels(pipe(voice, 2, generator=seeded())))
    assert "p(z | v)" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(("truncation", "says"), [(1.0, "drawn from p(z | v)"), (0.0, "the point estimate")])
def test_the_json_says_whom_the_faces_show(profile, pipe, voice, tmp_path, truncation, says):
    path = generate(voice, 2, seed=3, out=tmp_path, profile=profile, truncation=truncation)
    report = json.loads(path.read_text())
    assert report["truncation"] == truncation
    assert says in report["faces_show"]
    seeds = [image["seed"] for image in report["images"]]
    expected = pipe(voice, 2, truncation, generator=[seeded(seed) for seed in seeds])
    beside = tmp_path / f"{Path(voice).stem}_estimate.png"
    assert beside.exists() == (truncation > 0), "the face of ẑ stands beside draws, and only there"
    found = torch.tensor([image["identity"] for image in report["images"]])
    torch.testing.assert_close(found, expected.identities, atol=1e-6, rtol=0)
    from PIL import Image

    assert f'"truncation": {truncation}' in Image.open(tmp_path / report["images"][0]["file"]).text["v2f_core"]
