"""The whole way, on tiny random models: what goes in, what comes out, and that nothing else decides it."""

import json
import logging
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from fakes import pixels, seeded, wake
from PIL import Image

from v2f_core.app.generate import generate
from v2f_core.artefacts.profiles import ENCODERS, load_profile
from v2f_core.diffusion.lora import add_lora, lora_parameters, save_lora
from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.posterior import IdentityPosterior
from v2f_core.identity.sphere import check_unit, normalise
from v2f_core.pipeline import Vox2FacePipeline, made_from
from v2f_core.speech.audio import clips, read_audio


def drawn(pipe, voice, count=1, seed=0, **settings):
    return np.stack(pixels(pipe(voice, count, generator=seeded(seed), **settings)))


def test_a_recording_gives_faces_and_a_unit_identity(pipe, voice):
    output = pipe(str(voice), num_images=3, generator=seeded())
    assert isinstance(pipe, diffusers.DiffusionPipeline)
    assert [(type(image), image.size, image.mode) for image in output.images] == [(Image.Image, (32, 32), "RGB")] * 3
    check_unit(output.identity)
    assert output.windows == 3  # 3 s: from 0, 0.625, 1.25 s


def test_seed_guidance_and_steps_decide_the_pixels(pipe, voice):
    usual = drawn(pipe, voice, 2)
    assert np.array_equal(usual, drawn(pipe, voice, 2))
    assert not np.array_equal(usual[0], usual[1])
    for settings in ({"seed": 1}, {"num_steps": 5}, {"guidance": 9.0}):
        assert not np.array_equal(usual, drawn(pipe, voice, 2, **settings))


def test_the_identity_is_the_aligner_of_the_mean_window_of_a_path_its_samples_or_its_windows(pipe, voice):
    wave = read_audio(voice)
    windows = clips(wave)
    expected = pipe.aligner(torch.stack([pipe.speech_encoder.embed(w[None])[0] for w in windows]).mean(0)).detach()
    for form in (voice, str(voice), wave, windows):
        torch.testing.assert_close(pipe.identify(form)[0], expected, atol=1e-5, rtol=0)


def test_the_identity_alone_decides_what_is_drawn(pipe, voice):
    """Two voices with one identity give the same faces: nothing but ẑ crosses from sound to image."""

    class Deaf(Aligner):
        def forward(self, speaker_embedding):
            return normalise(torch.ones(512))

    deaf = Vox2FacePipeline(**{**pipe.components, "aligner": Deaf(speaker_width=16, hidden_width=8)}, num_steps=2)
    other = clips(0.1 * torch.randn(32_000, generator=seeded(5)))
    assert np.array_equal(drawn(deaf, voice), drawn(deaf, other))
    assert not np.array_equal(drawn(pipe, voice), drawn(deaf, voice))


# --- after Stage II


@pytest.fixture(scope="module")
def adapted(tiny_profile, tmp_path_factory):
    """The tiny profile with another aligner and adapters that do something, as Stage II writes them."""
    folder = tmp_path_factory.mktemp("adapted")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        aligner = Aligner(16, 8, 512)
    aligner.save_pretrained(folder / "aligner")
    prior = Prior.from_folder(tiny_profile.prior)
    add_lora(prior, rank=2, alpha=3.0, generator=seeded())
    wake(prior, 1.0)
    save_lora(prior, folder / "lora")
    return replace(tiny_profile, adapted=folder), aligner.eval(), prior.requires_grad_(False)


def test_faces_are_drawn_by_what_stage_two_made(adapted, pipe, voice, tiny_profile, tmp_path):
    profile, aligner, prior = adapted
    second, first = Vox2FacePipeline.from_profile(profile), Vox2FacePipeline.from_profile(profile, stage=1)
    windows = clips(read_audio(voice))
    identity, _ = second.identify(windows)
    torch.testing.assert_close(identity, aligner(second.speaker(windows)), atol=1e-3, rtol=0)
    how = {"num_steps": 2, "guidance": 2.0}
    expected, found, plain = (
        p.sample(identity[None], **how, generator=seeded(3)) for p in (prior, second.prior, pipe.prior)
    )
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    assert (found - plain).abs().max() > 1e-2
    assert np.array_equal(drawn(first, voice), drawn(pipe, voice))
    with pytest.raises(InputError, match="adapted"):  # not replaced by Stage I in silence
        Vox2FacePipeline.from_profile(tiny_profile, stage=2)
    assert not lora_parameters(second.prior)  # fused: a plain prior, which is saved as one
    second.save_pretrained(tmp_path)
    assert np.array_equal(drawn(Vox2FacePipeline.from_pretrained(tmp_path), voice), drawn(second, voice))


# --- one voice, many faces


@pytest.fixture(scope="module")
def profile(tiny_profile, tmp_path_factory):
    """The tiny profile with a posterior whose numbers mean nothing, and a file in place of the face net."""
    folder, faces, g = tmp_path_factory.mktemp("posterior"), tmp_path_factory.mktemp("faces"), seeded()
    (faces / "net.onnx").write_bytes(b"never loaded")
    tiny_profile = replace(tiny_profile, faces=faces)
    basis = torch.linalg.qr(torch.randn(512, 8, generator=g))[0]
    small = [torch.randn(*shape, generator=g) for shape in ((2, 1, 8), (2, 1), (2, 8), (2, 8, 8), (8, 8), (9,))]
    posterior = IdentityPosterior(Aligner.from_pretrained(tiny_profile.aligner), basis, *small)
    posterior.save_pretrained(folder, made_from(tiny_profile))
    return replace(tiny_profile, posterior=folder)


@pytest.fixture(scope="module")
def drawing(profile):
    """The pipeline that draws from p(z | v)."""
    return Vox2FacePipeline.from_profile(profile)


def test_each_face_is_of_an_identity_of_its_own_and_can_be_drawn_again_alone(drawing, voice):
    together = drawing(voice, 10, generator=[seeded(i) for i in range(10)])  # more than are drawn at once
    assert together.truncation == 1
    assert torch.unique(together.identities, dim=0).shape == (10, 512)
    assert torch.equal(together.identity, drawing.identify(voice)[0])
    alone = drawing(voice, 1, generator=[seeded(9)])
    torch.testing.assert_close(together.identities[9], alone.identities[0])
    assert np.abs(pixels(together)[9].astype(int) - pixels(alone)[0]).max() <= 1


def test_truncation_zero_or_no_posterior_is_the_papers_point_estimate(drawing, pipe, voice, caplog):
    with caplog.at_level(logging.WARNING):
        without = pipe(voice, 2, generator=seeded())
    assert "all faces are of the point estimate" in caplog.text
    for output in (without, drawing(voice, 2, truncation=0, generator=seeded())):
        assert output.truncation == 0
        assert torch.equal(output.identities, output.identity.expand(2, -1))
        assert np.array_equal(pixels(output), pixels(without))


def test_the_json_says_whom_the_faces_show(profile, drawing, voice, tmp_path):
    report = json.loads(generate(voice, 2, seed=3, out=tmp_path, profile=profile).read_text())
    assert report["truncation"] == 1
    assert "drawn from p(z | v)" in report["faces_show"]
    generators = [seeded(image["seed"]) for image in report["images"]]
    found = torch.tensor([image["identity"] for image in report["images"]])
    torch.testing.assert_close(found, drawing(voice, 2, generator=generators).identities, atol=1e-6, rtol=0)
    assert (tmp_path / f"{voice.stem}_estimate.png").exists()  # the face of ẑ stands beside draws
    assert '"truncation": 1.0' in Image.open(tmp_path / report["images"][0]["file"]).text["v2f_core"]


def test_a_posterior_of_other_parts_is_refused_or_left_aside(profile, drawing, tmp_path):
    other = IdentityPosterior.from_pretrained(profile.posterior, Aligner.from_pretrained(profile.aligner))
    other.save_pretrained(tmp_path / "other", {**other.provenance, "ast_sha256": "another"})
    with pytest.raises(InputError, match=r"a posterior of other parts \(ast_sha256 differ"):
        Vox2FacePipeline.from_profile(replace(profile, posterior=tmp_path / "other"))
    parts = {**drawing.components, "aligner": Aligner.from_pretrained(profile.aligner)}
    with pytest.raises(InputError, match="expected one for both"):
        Vox2FacePipeline(**parts, posterior=drawing.posterior)
    Aligner(16, 8, 512).save_pretrained(tmp_path / "aligner")  # Stage II's has none until one is trained for it
    assert Vox2FacePipeline.from_profile(replace(profile, adapted=tmp_path)).posterior is None


# --- saved, and bad input


def test_a_saved_pipeline_draws_the_same(drawing, voice, tmp_path):
    drawing.save_pretrained(tmp_path)
    back = Vox2FacePipeline.from_pretrained(tmp_path)
    assert back.config.num_steps == 2
    assert np.array_equal(drawn(back, voice, 2), drawn(drawing, voice, 2))
    assert "p(z | v)" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert not list(tmp_path.rglob("*.bin"))  # no pickles
    # the index of version 0.1 had a setting more: how AST's positions were shortened
    index = tmp_path / "model_index.json"
    written = json.loads(index.read_text())
    index.write_text(json.dumps({**written, "ast_positions": "cut"}))
    Vox2FacePipeline.from_pretrained(tmp_path)
    index.write_text(json.dumps({**written, "ast_frames": 128, "ast_positions": "interpolate"}))
    with pytest.raises(InputError, match=f"{tmp_path}: its AST has interpolated positions"):
        Vox2FacePipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_saved_pipeline_of_any_encoder_comes_back_the_same(encoder, voice, tmp_path):
    """Of the miniature, with the aligner and the posterior that ship for the encoder."""
    pipe = Vox2FacePipeline.from_profile(load_profile("mini").with_encoder(encoder))
    pipe.save_pretrained(tmp_path)
    back = Vox2FacePipeline.from_pretrained(tmp_path)
    assert back.config.encoder == encoder
    found = [p.identities(p.speaker(clips(read_audio(voice))), 2, generator=seeded()) for p in (pipe, back)]
    torch.testing.assert_close(*found)
    assert ("Resemblyzer" in (tmp_path / "README.md").read_text(encoding="utf-8")) == (encoder == "ge2e")


def test_numbers_and_parts_that_make_no_sense_are_refused(drawing, pipe, tmp_path):
    for given, said in (
        ({"num_images": 0}, "num_images=0: expected at least 1"),
        ({"num_images": 2, "generator": [seeded()] * 3}, "num_images=2: .* one generator or a list of as many"),
        ({"truncation": 1.5}, r"truncation=1\.5: expected 0"),
    ):
        with pytest.raises(InputError, match=said):  # before anything is read
            drawing("no such file", **given)
    with pytest.raises(InputError, match="width 16, aligner for 192"):
        Vox2FacePipeline(**{**pipe.components, "aligner": Aligner(speaker_width=192, hidden_width=8)})
    with pytest.raises(InputError, match=r"model_index\.json: cannot be read as JSON .*give a saved pipeline's folder"):
        Vox2FacePipeline.from_pretrained(tmp_path)
