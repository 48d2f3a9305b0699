"""GE2E: the published encoder from our own code, against reference values that Resemblyzer itself computed.

``tests/data/ge2e.npz`` holds them for four of the real clips beside it. They were made once by Resemblyzer 0.1.4 with
librosa 0.11: ``embed_utterance`` of a clip as it is (NAME/raw), of its first 0.5, 1.6 and 2.5 s (NAME/8000 and so on),
and of a clip 30 dB quieter after ``normalize_volume(…, -30, increase_only=True)`` (NAME/quiet); librosa's mel filters
(bank) and the spectrogram of one clip's first second (mel).
"""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from v2f_core.artefacts.profiles import MINI_ASSETS
from v2f_core.speech.encoders import GE2EEncoder

DATA = Path(__file__).parents[1] / "data"
VOICES = ("121_0", "1284_0", "61_0", "7176_0")


def voice(name):
    return torch.from_numpy(soundfile.read(DATA / "real_voices" / f"{name}.flac", dtype="float32")[0])


@pytest.fixture(scope="module")
def reference():
    with np.load(DATA / "ge2e.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def encoder():
    """The shipped one."""
    return GE2EEncoder.from_folder(MINI_ASSETS / "ge2e")


@pytest.fixture
def unlevelled(encoder, monkeypatch):
    """The same, to which the level of a recording matters."""
    monkeypatch.setattr(encoder, "level", None)
    return encoder


# ---- equal to Resemblyzer ----


@pytest.mark.parametrize("name", VOICES)
@pytest.mark.parametrize("samples", [8_000, 25_600, 40_000, None])
def test_the_embedding_equals_resemblyzers(unlevelled, reference, name, samples):
    """Shorter than a partial utterance, exactly one, one and a half, and seven seconds."""
    v = unlevelled.embed(voice(name)[None, :samples])[0]
    np.testing.assert_allclose(v.numpy(), reference[f"{name}/{samples or 'raw'}"], atol=1e-4)


@pytest.mark.parametrize("name", VOICES)
def test_a_quiet_recording_is_raised_to_resemblyzers_level(encoder, reference, name):
    quiet = voice(name)[None] * 10 ** (-30 / 20)
    np.testing.assert_allclose(encoder.embed(quiet)[0].numpy(), reference[f"{name}/quiet"], atol=1e-4)


def test_filters_and_spectrogram_equal_librosas(encoder, reference):
    np.testing.assert_allclose(encoder.mel.numpy(), reference["bank"], atol=1e-7)
    ours = encoder.features(voice("61_0")[None, :16_000])[0].numpy()
    np.testing.assert_allclose(ours, reference["mel"], rtol=1e-3, atol=1e-6)


# ---- by hand ----


def test_v_spk_is_the_normalised_mean_over_partial_utterances(unlevelled):
    wave, encoder = voice("61_0")[None, :48_000], unlevelled
    mel = encoder.features(torch.nn.functional.pad(wave, (0, (154 + 160) * 160 - 48_000)))
    parts = []
    for start in (0, 77, 154):
        _, (hidden, _) = encoder.lstm(mel[:, start : start + 160])
        part = torch.relu(encoder.linear(hidden[-1]))[0]
        parts.append(part / part.norm())
    mean = torch.stack(parts).mean(0)
    torch.testing.assert_close(encoder.embed(wave)[0], mean / mean.norm(), atol=1e-6, rtol=1e-5)


def test_silence_has_an_embedding_that_is_finite(encoder):
    assert encoder.embed(torch.zeros(1, 20_000)).isfinite().all()
