"""The whole way, on tiny random models: what goes in, what comes out, and that nothing else decides it."""

from dataclasses import replace

import diffusers
import numpy as np
import pytest
import soundfile
import torch
from fakes import spoken
from PIL import Image

from v2f_core.artefacts.profiles import ENCODERS, load_profile
from v2f_core.diffusion.lora import add_lora, lora_parameters, save_lora
from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.sphere import check_unit, normalise
from v2f_core.pipeline import Vox2FacePipeline
from v2f_core.speech.audio import clips, read_audio


@pytest.fixture(scope="module")
def pipe(tiny_profile):
    return Vox2FacePipeline.from_profile(tiny_profile)


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    path = tmp_path_factory.mktemp("voice") / "voice.wav"
    soundfile.write(path, spoken(3), 16_000)
    return path


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pixels(output):
    return [np.asarray(image) for image in output.images]


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
    for name, parameter in lora_parameters(prior).items():
        if "lora_B" in name:
            parameter.data.normal_(generator=seeded(len(name)))
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
    expected = prior.sample(identity[None], num_steps=2, guidance=2.0, generator=seeded(3))
    found = second.prior.sample(identity[None], num_steps=2, guidance=2.0, generator=seeded(3))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    plain = pipe.prior.sample(identity[None], num_steps=2, guidance=2.0, generator=seeded(3))
    assert (found - plain).abs().max() > 1e-2
    assert np.array_equal(pixels(first(voice, 1, generator=seeded())), pixels(pipe(voice, 1, generator=seeded())))


def test_fused_adapters_leave_a_plain_prior(adapted, voice, tmp_path):
    pipe = Vox2FacePipeline.from_profile(adapted[0], stage=2)
    assert not lora_parameters(pipe.prior)
    plain = Prior.from_folder(adapted[0].prior).state_dict()
    assert pipe.prior.state_dict().keys() == plain.keys()
    pipe.save_pretrained(tmp_path)
    again = Vox2FacePipeline.from_pretrained(tmp_path)
    assert np.array_equal(pixels(again(voice, 1, generator=seeded())), pixels(pipe(voice, 1, generator=seeded())))


def test_stage_two_is_missing_where_it_was_asked_for(tiny_profile, tmp_path):
    with pytest.raises(InputError, match="adapted: the tiny profile has none"):
        Vox2FacePipeline.from_profile(replace(tiny_profile, name="tiny", adapted=None), stage=2)
    with pytest.raises(InputError, match="nowhere"):
        Vox2FacePipeline.from_profile(replace(tiny_profile, adapted=tmp_path / "nowhere"), stage=2)


def test_the_identity_is_the_aligner_of_the_mean_window(pipe, voice):
    windows = clips(read_audio(voice))
    expected = pipe.aligner(torch.stack([pipe.speech_encoder.embed(w[None])[0] for w in windows]).mean(0))
    torch.testing.assert_close(pipe(voice, 1).identity, expected.detach(), atol=1e-5, rtol=0)


def test_a_path_its_samples_and_its_windows_are_the_same_voice(pipe, voice):
    wave = read_audio(voice)
    for form in (str(voice), wave, clips(wave)):
        torch.testing.assert_close(pipe.identify(form)[0], pipe.identify(voice)[0])


def test_the_identity_alone_decides_what_is_drawn(pipe, voice, tiny_profile):
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
    assert np.array_equal(usual, pixels(pipe(voice, 1, guidance=3.0, num_steps=2, generator=seeded())))


def test_a_saved_pipeline_comes_back_the_same(pipe, voice, tmp_path):
    pipe.save_pretrained(tmp_path)
    back = Vox2FacePipeline.from_pretrained(tmp_path)
    assert back.config.num_steps == 2
    np.testing.assert_array_equal(
        pixels(pipe(voice, 2, generator=seeded())), pixels(back(voice, 2, generator=seeded()))
    )
    assert {path.name for path in tmp_path.iterdir()} == {
        *(
            "README.md",
            "model_index.json",
            "vae",
            "unet",
            "text_encoder",
            "tokenizer",
            "scheduler",
            "aligner",
            "speech_encoder",
        ),
    }
    assert not list(tmp_path.rglob("*.bin"))  # no pickles


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


def test_a_folder_without_a_pipeline_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"model_index\.json is missing"):
        Vox2FacePipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize(("number", "generators"), [(0, None), (2, 3)])
def test_numbers_that_make_no_sense_are_refused(pipe, voice, number, generators):
    given = None if generators is None else [seeded()] * generators
    with pytest.raises(InputError):
        pipe(voice, number, generator=given)


def test_an_aligner_of_another_encoder_is_refused(pipe):
    with pytest.raises(InputError, match="width 16, aligner for 192"):
        Vox2FacePipeline(**{**pipe.components, "aligner": Aligner(speaker_width=192, hidden_width=8)})
