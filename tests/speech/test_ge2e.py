"""GE2E: the published encoder from our own code, against reference values that Resemblyzer itself computed.

``tests/data/ge2e.npz`` holds them for four of the real clips beside it. They were made once by Resemblyzer 0.1.4 with
librosa 0.11: ``embed_utterance`` of a clip as it is (NAME/raw), of its first 0.5, 1.6 and 2.5 s (NAME/8000 and so on),
and of a clip 30 dB quieter after ``normalize_volume(…, -30, increase_only=True)`` (NAME/quiet); librosa's mel filters
(bank) and the spectrogram of one clip's first second (mel).
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from minivox.build import ge2e as stage
from v2f_core.artefacts.profiles import MINI_ASSETS
from v2f_core.errors import InputError
from v2f_core.speech.encoders import layers, load_encoder, save_encoder, unfreeze
from v2f_core.speech.ge2e import GE2EEncoder, at_level, partials

DATA = Path(__file__).parents[1] / "data"
VOICES = ("121_0", "1284_0", "61_0", "7176_0")


def voice(name: str) -> torch.Tensor:
    wave, rate = soundfile.read(DATA / "real_voices" / f"{name}.flac", dtype="float32")
    assert rate == 16_000
    return torch.from_numpy(wave)


def noise(*shape: int) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(DATA / "ge2e.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def encoder() -> GE2EEncoder:
    """The shipped one."""
    return GE2EEncoder.from_folder(MINI_ASSETS / "ge2e")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped folder."""
    return shutil.copytree(MINI_ASSETS / "ge2e", tmp_path / "ge2e")


# ---- equal to Resemblyzer ----


@pytest.mark.parametrize("name", VOICES)
@pytest.mark.parametrize("samples", [8_000, 25_600, 40_000, None])
def test_the_embedding_equals_resemblyzers(encoder, reference, name, samples):
    """Shorter than a partial utterance, exactly one, one and a half, and seven seconds."""
    encoder.level, level = None, encoder.level
    v = encoder.embed(voice(name)[None, :samples])[0]
    encoder.level = level
    np.testing.assert_allclose(v.numpy(), reference[f"{name}/{samples or 'raw'}"], atol=1e-4)


@pytest.mark.parametrize("name", VOICES)
def test_a_quiet_recording_is_raised_to_resemblyzers_level(encoder, reference, name):
    quiet = voice(name)[None] * 10 ** (-30 / 20)
    np.testing.assert_allclose(encoder.embed(quiet)[0].numpy(), reference[f"{name}/quiet"], atol=1e-4)


def test_the_filters_equal_librosas(encoder, reference):
    np.testing.assert_allclose(encoder.mel.numpy(), reference["bank"], atol=1e-7)


def test_the_spectrogram_equals_librosas(encoder, reference):
    ours = encoder.features(voice("61_0")[None, :16_000])[0].numpy()
    np.testing.assert_allclose(ours, reference["mel"], rtol=1e-3, atol=1e-6)


# ---- by hand ----


def test_v_spk_is_the_normalised_mean_over_partial_utterances(folder):
    encoder = GE2EEncoder.from_folder(folder)
    encoder.level = None
    wave = noise(1, 48_000)
    mel = encoder.features(torch.nn.functional.pad(wave, (0, (154 + 160) * 160 - 48_000)))
    parts = []
    for start in (0, 77, 154):
        _, (hidden, _) = encoder.lstm(mel[:, start : start + 160])
        part = torch.relu(encoder.linear(hidden[-1]))[0]
        parts.append(part / part.norm())
    mean = torch.stack(parts).mean(0)
    torch.testing.assert_close(encoder.embed(wave)[0], mean / mean.norm(), atol=1e-6, rtol=1e-5)


def test_a_last_part_is_heard_if_three_quarters_of_it_are_recorded():
    """A second partial utterance begins at 0.77 s and ends at 2.37 s: it needs the recording up to 1.97 s."""
    assert partials(round(1.96 * 16_000)) == [0]
    assert partials(round(1.98 * 16_000)) == [0, 77]


def test_the_level_does_not_matter(folder):
    encoder = GE2EEncoder.from_folder(folder)
    wave = noise(1, 30_000)
    torch.testing.assert_close(encoder.embed(100 * wave), encoder.embed(wave), atol=1e-5, rtol=1e-4)
    assert float(at_level(wave, -30.0).square().mean().log10() * 10) == pytest.approx(-30, abs=1e-3)


def test_silence_has_an_embedding_that_is_finite(encoder):
    assert encoder.embed(torch.zeros(1, 20_000)).isfinite().all()


def test_a_clip_does_not_hear_its_neighbours(folder):
    encoder = GE2EEncoder.from_folder(folder)
    waves = noise(4, 20_000) * torch.tensor([1.0, 9.0, 0.01, 0.3])[:, None]
    alone = torch.cat([encoder.embed(wave[None]) for wave in waves])
    torch.testing.assert_close(encoder.embed(waves), alone, atol=2e-5, rtol=1e-4)


# ---- training ----


def test_frozen_until_its_projection_is_unfrozen(folder):
    encoder = GE2EEncoder.from_folder(folder)
    assert len(layers(encoder)) == 2
    trained = unfreeze(encoder, 1)
    encoder(noise(2, 20_000)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained.parameters())
    assert all(p.grad is None for p in encoder.lstm.parameters())


def test_what_was_trained_is_saved_and_loaded(folder, tmp_path):
    encoder = GE2EEncoder.from_folder(folder)
    with torch.no_grad():
        encoder.linear.bias += 0.1
    save_encoder(encoder, folder, tmp_path / "trained")
    wave = noise(1, 20_000)
    torch.testing.assert_close(load_encoder("ge2e", tmp_path / "trained").embed(wave), encoder.embed(wave))


# ---- borders ----


def test_loading_draws_no_random_number(folder):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load_encoder("ge2e", folder)
    assert torch.equal(torch.rand(1), expected)


def test_too_short_a_clip_is_refused(folder):
    with pytest.raises(InputError, match="clips of 100 samples: expected at least 400"):
        load_encoder("ge2e", folder).embed(noise(1, 100))


def test_missing_files_are_named(folder, tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no such folder; expected a GE2E folder with config\.json"):
        load_encoder("ge2e", tmp_path / "nowhere")
    for name in ("config.json", "model.safetensors"):
        copy = shutil.copytree(folder, tmp_path / f"without {name}")
        (copy / name).unlink()
        with pytest.raises(InputError, match=f"lacks {name}; copy it whole"):
            load_encoder("ge2e", copy)


@pytest.mark.parametrize("config", ["{", "[]", "{}", '{"level_dbfs": "loud"}', '{"level_dbfs": NaN}'])
def test_a_damaged_config_is_refused_in_one_line(folder, config):
    (folder / "config.json").write_text(config)
    with pytest.raises(InputError, match=r"ge2e.*: (cannot be read as|level_dbfs is nan)") as refused:
        load_encoder("ge2e", folder)
    assert "\n" not in str(refused.value)


def test_damaged_weights_are_refused_in_one_line(folder):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:1000])
    with pytest.raises(InputError, match=r"ge2e.*: (cannot be read as|level_dbfs is nan)") as refused:
        load_encoder("ge2e", folder)
    assert "\n" not in str(refused.value)


def test_weights_that_do_not_fit_or_are_not_finite_are_refused(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "linear.weight": torch.zeros(2, 2)}, folder / "model.safetensors")
    with pytest.raises(InputError, match="cannot be read as a GE2E"):
        load_encoder("ge2e", folder)
    save_file({**weights, "linear.bias": torch.full((256,), torch.nan)}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"linear\.bias holds NaN or infinite numbers"):
        load_encoder("ge2e", folder)


def test_the_shipped_folder_says_where_it_comes_from():
    config = json.loads((MINI_ASSETS / "ge2e" / "config.json").read_text())
    assert config == stage.CONFIG
    assert config["licence"] == "Apache-2.0"


def test_a_tiny_build_makes_a_folder_that_loads(tmp_path):
    stage.run(tmp_path, tiny=True)
    assert load_encoder("ge2e", tmp_path / "ge2e" / "assets").embed(noise(2, 20_000)).shape == (2, 256)


def test_a_changed_package_is_refused(tmp_path):
    wheel = tmp_path / "ingredients" / "ge2e" / "Resemblyzer-0.1.4-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    wheel.write_text("not it")
    with pytest.raises(InputError, match="SHA-256"):
        stage.run(tmp_path)
