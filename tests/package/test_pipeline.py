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
from v2f_core.artefacts.files import folder_hash
from v2f_core.artefacts.profiles import ENCODERS, load_profile
from v2f_core.diffusion.lora import add_lora, lora_parameters, save_lora
from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.posterior import IdentityPosterior
from v2f_core.identity.sphere import check_unit, normalise
from v2f_core.pipeline import Vox2FacePipeline
from v2f_core.speech.audio import clips, read_audio


def test_a_recording_gives_faces_and_a_unit_identity(pipe, voice):
    output = pipe(str(voice), num_images=3, generator=seeded())
    assert isinstance(pipe, diffusers.DiffusionPipeline)
    assert [type(image) for image in output.images] == [Image.Image] * 3
    assert {(image.size, image.mode) for image in output.images} == {((32, 32), "RGB")}
    assert output.identity.shape == (512,)
    check_unit(output.identity)
    assert output.windows == 3  # 3 s: from 0, 0.625, 1.25 s


def test_the_same_seed_gives_the_same_pixels_and_another_seed_others(pipe, voice):
    a, b, c = (pixels(pipe(voice, 2, generator=seeded(seed))) for seed in (0, 0, 1))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert not np.array_equal(a[0], a[1])


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
    assert np.array_equal(pixels(deaf(voice, 1, generator=seeded())), pixels(deaf(other, 1, generator=seeded())))
    heard = pixels(pipe(voice, 1, generator=seeded()))
    assert not np.array_equal(heard, pixels(deaf(voice, 1, generator=seeded())))


def test_guidance_and_steps_are_settings(pipe, voice):
    usual = pixels(pipe(voice, 1, generator=seeded()))
    assert pipe.config.num_steps == 2
    assert not np.array_equal(usual, pixels(pipe(voice, 1, num_steps=5, generator=seeded())))
    assert not np.array_equal(usual, pixels(pipe(voice, 1, guidance=9.0, generator=seeded())))


# --- what Stage II made


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


def test_faces_are_drawn_by_what_stage_two_made(adapted, pipe, voice):
    profile, aligner, prior = adapted
    second, first = Vox2FacePipeline.from_profile(profile), Vox2FacePipeline.from_profile(profile, stage=1)
    assert (profile.last_stage, replace(profile, adapted=None).last_stage) == ("adapted", "aligner")
    windows = clips(read_audio(voice))
    identity, _ = second.identify(windows)
    embedded = second.speech_encoder.embed(windows).mean(dim=0)
    torch.testing.assert_close(identity, aligner(embedded), atol=1e-3, rtol=0)
    assert (identity - pipe.aligner(embedded)).abs().max() > 1e-2
    how = {"num_steps": 2, "guidance": 2.0}
    expected, found, plain = (
        p.sample(identity[None], **how, generator=seeded(3)) for p in (prior, second.prior, pipe.prior)
    )
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    assert (found - plain).abs().max() > 1e-2
    assert np.array_equal(pixels(first(voice, 1, generator=seeded())), pixels(pipe(voice, 1, generator=seeded())))


def test_stage_two_is_not_replaced_by_stage_one_in_silence(tiny_profile):
    with pytest.raises(InputError, match="adapted"):
        Vox2FacePipeline.from_profile(tiny_profile, stage=2)


def test_fused_adapters_leave_a_plain_prior(adapted, voice, tmp_path):
    pipe = Vox2FacePipeline.from_profile(adapted[0])
    assert not lora_parameters(pipe.prior)
    assert pipe.prior.state_dict().keys() == Prior.from_folder(adapted[0].prior).state_dict().keys()
    pipe.save_pretrained(tmp_path)
    again = Vox2FacePipeline.from_pretrained(tmp_path)
    assert np.array_equal(pixels(again(voice, 1, generator=seeded())), pixels(pipe(voice, 1, generator=seeded())))


# --- one voice, many faces


@pytest.fixture(scope="module")
def profile(tiny_profile, tmp_path_factory):
    """The tiny profile with a posterior whose numbers mean nothing, and a file in place of the face net."""
    folder, faces, g = tmp_path_factory.mktemp("posterior"), tmp_path_factory.mktemp("faces"), seeded()
    (faces / "net.onnx").write_bytes(b"never loaded")
    tiny_profile = replace(tiny_profile, faces=faces)
    basis = torch.linalg.qr(torch.randn(512, 8, generator=g))[0]
    small = [torch.randn(*shape, generator=g) for shape in ((2, 1, 8), (2, 1), (2, 8), (2, 8, 8), (8, 8), (9,))]
    made_from = {f"{part}_sha256": folder_hash(tiny_profile.part(part)) for part in ("ast", "faces")}
    IdentityPosterior(Aligner.from_pretrained(tiny_profile.aligner), basis, *small).save_pretrained(folder, made_from)
    return replace(tiny_profile, posterior=folder)


@pytest.fixture(scope="module")
def drawing(profile):
    """The pipeline that draws from p(z | v)."""
    return Vox2FacePipeline.from_profile(profile)


def test_each_face_is_of_an_identity_of_its_own(drawing, voice):
    output = drawing(voice, 3, generator=seeded())
    assert output.truncation == 1
    assert torch.unique(output.identities, dim=0).shape == (3, 512)
    assert torch.equal(output.identity, drawing.identify(voice)[0])


def test_a_face_of_its_own_generator_can_be_drawn_again_alone(drawing, voice):
    together = drawing(voice, 10, generator=[seeded(i) for i in range(10)])  # more than are drawn at once
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


@pytest.mark.parametrize(("truncation", "says"), [(1.0, "drawn from p(z | v)"), (0.0, "the point estimate")])
def test_the_json_says_whom_the_faces_show(profile, drawing, voice, tmp_path, truncation, says):
    report = json.loads(generate(voice, 2, seed=3, out=tmp_path, profile=profile, truncation=truncation).read_text())
    assert report["truncation"] == truncation
    assert says in report["faces_show"]
    seeds = [image["seed"] for image in report["images"]]
    expected = drawing(voice, 2, truncation, generator=[seeded(seed) for seed in seeds])
    beside = tmp_path / f"{voice.stem}_estimate.png"
    assert beside.exists() == (truncation > 0), "the face of ẑ stands beside draws, and only there"
    found = torch.tensor([image["identity"] for image in report["images"]])
    torch.testing.assert_close(found, expected.identities, atol=1e-6, rtol=0)
    assert f'"truncation": {truncation}' in Image.open(tmp_path / report["images"][0]["file"]).text["v2f_core"]


def test_a_posterior_of_other_parts_is_refused_or_left_aside(profile, drawing, tmp_path):
    other = IdentityPosterior.from_pretrained(profile.posterior, Aligner.from_pretrained(profile.aligner))
    other.save_pretrained(tmp_path / "other", {**other.provenance, "ast_sha256": "another"})
    with pytest.raises(InputError, match=r"a posterior of other parts \(ast_sha256 differ"):
        Vox2FacePipeline.from_profile(replace(profile, posterior=tmp_path / "other"))
    parts = {**drawing.components, "aligner": Aligner.from_pretrained(profile.aligner)}
    with pytest.raises(InputError, match="expected one for both"):
        Vox2FacePipeline(**parts, posterior=drawing.posterior)
    torch.manual_seed(1)
    Aligner(16, 8, 512).save_pretrained(tmp_path / "aligner")  # Stage II's has none until one is trained for it
    assert Vox2FacePipeline.from_profile(replace(profile, adapted=tmp_path)).posterior is None


# --- saved, and bad input


def test_a_saved_pipeline_draws_the_same(drawing, voice, tmp_path):
    drawing.save_pretrained(tmp_path)
    back = Vox2FacePipeline.from_pretrained(tmp_path)
    assert back.config.num_steps == 2
    assert np.array_equal(pixels(back(voice, 2, generator=seeded())), pixels(drawing(voice, 2, generator=seeded())))
    assert "p(z | v)" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert not list(tmp_path.rglob("*.bin"))  # no pickles


def test_a_pipeline_of_version_0_1_is_read_or_refused_by_name(pipe, voice, tmp_path):
    """Its index had a setting more: how AST's positions were shortened."""
    pipe.save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    written = json.loads(index.read_text())
    index.write_text(json.dumps({**written, "ast_positions": "cut"}))
    torch.testing.assert_close(Vox2FacePipeline.from_pretrained(tmp_path).identify(voice), pipe.identify(voice))
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
    torch.testing.assert_close(back.identify(voice)[0], pipe.identify(voice)[0])
    drawn = [p.identities(p.speaker(clips(read_audio(voice))), 2, generator=seeded()) for p in (pipe, back)]
    torch.testing.assert_close(*drawn)
    assert ("Resemblyzer" in (tmp_path / "README.md").read_text(encoding="utf-8")) == (encoder == "ge2e")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_images": 0}, "num_images"),
        ({"num_images": 2, "generator": [seeded()] * 3}, "generator"),
        ({"truncation": 1.5}, r"truncation=1\.5: expected 0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_before_anything_is_read(drawing, given, said):
    with pytest.raises(InputError, match=said):
        drawing("no such file", **given)


def test_parts_that_do_not_fit_together_are_refused(pipe, tmp_path):
    with pytest.raises(InputError, match="width 16, aligner for 192"):
        Vox2FacePipeline(**{**pipe.components, "aligner": Aligner(speaker_width=192, hidden_width=8)})
    with pytest.raises(InputError, match=r"model_index\.json is missing"):
        Vox2FacePipeline.from_pretrained(tmp_path)
