"""The same voice is the same identity, whatever it comes in; what cannot be trusted is said in one line."""

import warnings

import numpy as np
import pytest
import soundfile
import torch
from fakes import spoken

from v2f_core.artefacts.profiles import load_profile
from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner
from v2f_core.speech.audio import MAX_WINDOWS, AudioWarning, hear
from v2f_core.speech.encoders import load_encoder

RATE = 16_000


@pytest.fixture(scope="module")
def identify():
    """The miniature: a voice in; ẑ, how many windows, and what was said."""
    profile = load_profile("mini")
    encoder = load_encoder(profile.encoder, profile.part(profile.encoder), profile.ast_frames)
    aligner = Aligner.from_pretrained(profile.part("aligner"))

    @torch.no_grad()
    def identity(voice):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            windows, _ = hear(voice)
            z = aligner(encoder.embed(windows).mean(0))
        return z, len(windows), [str(warning.message) for warning in caught]

    return identity


@pytest.fixture(scope="module")
def voices(minivox):
    """All recordings of each of two persons of MiniVox, a woman and a man, one after the other."""
    rows = minivox.voices("val")
    files = [minivox.absolute(rows[rows.person == person]) for person in rows.drop_duplicates("sex").person]
    return [np.concatenate([soundfile.read(path, dtype="float32")[0] for path in paths]) for paths in files]


@pytest.fixture(scope="module", params=range(2), ids=["a woman", "a man"])
def voice(request, voices):
    return voices[request.param]


@pytest.fixture(scope="module")
def own(identify, voice):
    """The identity of ``voice`` as it is."""
    return identify(voice)[0]


def at(rate, wave):
    """The same sound at another rate, by its spectrum."""
    samples = round(len(wave) * rate / RATE)
    return (np.fft.irfft(np.fft.rfft(wave.astype(float)), samples) * samples / len(wave)).astype(np.float32)


def saved(path, wave, rate=RATE, **kind):
    soundfile.write(path, wave, rate, **({"subtype": "FLOAT"} | kind))
    return path


def paused(voice, seconds, level):
    pause = level * np.random.default_rng(0).standard_normal(seconds * RATE)
    half = len(voice) // 2
    return np.concatenate([pause, voice[:half], pause, voice[half:], pause])


SAME = {  # at a rate a changed voice, its least likeness to the voice, and what may be said of it
    "10 s of silence in it": (lambda voice: (RATE, paused(voice, 10, 0)), 0.97, None),
    "10 s of faint noise in it": (lambda voice: (RATE, paused(voice, 10, 0.001)), 0.97, None),
    "5 s of noise in it": (lambda voice: (RATE, paused(voice, 5, 0.0056)), 0.97, None),
    "45 dB fainter": (lambda voice: (RATE, voice * 10 ** (-45 / 20)), 0.98, "above its background"),
    "15 dB fainter": (lambda voice: (RATE, voice * 10 ** (-15 / 20)), 0.98, "above its background"),
    "6 dB louder, clipped": (lambda voice: (RATE, (2 * voice).clip(-0.99, 0.99)), 0.95, "above its background"),
    "6 dB beyond full scale": (lambda voice: (RATE, 2 * voice / np.abs(voice).max()), 0.99, "clipped"),
    "17 dB beyond full scale": (lambda voice: (RATE, 7 * voice / np.abs(voice).max()), 0.99, "clipped"),
    "a constant": (lambda voice: (RATE, voice + 0.2), 0.99, "clipped"),
    "22,050 Hz": (lambda voice: (22_050, at(22_050, voice)), 0.98, None),
    "48,000 Hz": (lambda voice: (48_000, at(48_000, voice)), 0.98, None),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_voice_is_the_same_identity(identify, voice, own, name, tmp_path):
    change, least, allowed = SAME[name]
    rate, changed = change(voice)
    z, _, said = identify(saved(tmp_path / "voice.wav", changed.astype(np.float32), rate))
    assert z @ own > least
    assert said == [] if allowed is None else all(allowed in line for line in said)


def test_a_recording_as_in_training_is_heard_bit_for_bit(voice):
    windows, activity = hear(voice)
    assert activity.left_out == (0, 0, 0)
    assert torch.equal(windows.reshape(-1)[:20_000], torch.from_numpy(voice[:20_000]))


def stereo(voice):
    rng = np.random.default_rng(0)
    yield "delayed by 0.25 ms", np.roll(voice, 4)
    yield "delayed by 1 ms", np.roll(voice, 16)
    yield "inverted", -voice
    yield "inverted and fainter", -0.944 * voice
    yield "silent", np.zeros_like(voice)
    yield "hiss", 0.05 * rng.standard_normal(len(voice)).astype(np.float32)
    yield "noisier and louder", 1.5 * voice + 0.02 * rng.standard_normal(len(voice)).astype(np.float32)
    yield "of a narrow band", below(3_400, voice)


def test_one_voice_in_two_channels_is_heard_from_the_better_one(identify, voices, voice, own, tmp_path):
    order = 1 if voice is voices[0] else -1
    for name, other in stereo(voice):
        z, _, said = identify(saved(tmp_path / "voice.wav", np.stack([voice, other][::order], 1)))
        assert z @ own > 0.97, name
        assert said == [], name


@pytest.mark.parametrize("turns", [False, True], ids=["at once", "in turns"])
@pytest.mark.parametrize("crosstalk", [0, 0.3])
def test_two_talkers_are_told_of(identify, voices, crosstalk, turns, tmp_path):
    one, other = voices[0], np.resize(voices[1], len(voices[0]))
    if turns:
        one, other = np.concatenate([one, 0 * other]), np.concatenate([0 * one, other])
    channels = np.stack([one + crosstalk * other, other + crosstalk * one], 1)
    (line,) = identify(saved(tmp_path / "call.wav", channels))[2]
    assert "call.wav: its channels hold different voices" in line
    if not crosstalk:
        heard = identify(saved(tmp_path / "call.wav", channels))[0]
        assert max(heard @ identify(talker)[0] for talker in (one, other)) > 0.97


def below(hertz, wave):
    """A voice without what lies above so many Hz."""
    spectrum = np.fft.rfft(wave)
    spectrum[np.fft.rfftfreq(len(wave), 1 / RATE) > hertz] = 0
    return np.fft.irfft(spectrum, len(wave)).astype(np.float32)


@pytest.mark.parametrize(("rate", "stored"), [(8_000, 8_000), (8_000, 48_000), (11_025, 44_100), (14_000, 14_000)])
def test_a_narrow_band_is_named(identify, voice, rate, stored, tmp_path):
    wave = at(stored, below(rate / 2 - 200, voice))
    (line,) = identify(saved(tmp_path / "call.wav", wave, stored, subtype="PCM_16"))[2]
    assert f"nothing above {rate // 500 / 4:g} kHz" in line


@pytest.mark.parametrize("noise", [-60, -30])
def test_faint_noise_does_not_hide_a_narrow_band(identify, voice, own, noise, tmp_path):
    """As of a line, a loudspeaker or a converter. Of a voice that reaches far up the same noise changes nothing."""
    hiss = voice.std() * np.float32(10 ** (noise / 20)) * np.random.default_rng(0).standard_normal(3 * len(voice))
    call = at(48_000, below(3_400, voice)) + np.resize(hiss, 3 * len(voice))
    (line,) = identify(saved(tmp_path / "call.wav", call, 48_000, subtype="PCM_24"))[2]
    assert "nothing above 3.5 kHz" in line
    z, _, said = identify(saved(tmp_path / "wide.wav", voice + hiss[: len(voice)]))
    assert z @ own > 0.95
    assert said == []


@pytest.mark.parametrize(("gain", "subtype"), [(12, "ULAW"), (8, "PCM_16")])
def test_a_loud_telephone_call_is_told_of_too(identify, voice, gain, subtype, tmp_path):
    """At full scale a resampled wave overshoots; cut off, its tops would fill the band."""
    call = at(8_000, below(3_800, np.tanh(gain * voice))).clip(-0.998, 0.998)
    said = identify(saved(tmp_path / "call.wav", call, 8_000, subtype=subtype))[2]
    assert "nothing above 4 kHz" in said[-1]


# --- samples


KINDS = {
    "a tensor": torch.from_numpy,
    "an array": lambda wave: wave,
    "float64": lambda wave: wave.astype(np.float64),
    "int16": lambda wave: torch.from_numpy((wave * 32_767).astype(np.int16)),
    "int32": lambda wave: (wave * (2**31 - 1)).astype(np.int32),
    "unsigned bytes": lambda wave: (wave * 127 + 128).round().astype(np.uint8),
    "bfloat16": lambda wave: torch.from_numpy(wave).bfloat16(),
    "(1, n)": lambda wave: torch.from_numpy(wave)[None],
    "(2, n)": lambda wave: torch.from_numpy(np.stack([wave, wave])),
    "(n, 2)": lambda wave: np.stack([wave, -wave], 1),
    "a gradient's": lambda wave: torch.from_numpy(wave).requires_grad_(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_any_kind_are_heard_as_their_file_is(identify, voices, kind, tmp_path):
    wave = np.concatenate([1e-3 * np.random.default_rng(0).standard_normal(RATE), voices[0]]).astype(np.float32)
    z, windows, said = identify(KINDS[kind](wave))
    reference, count, told = identify(saved(tmp_path / "voice.wav", wave))
    assert z @ reference > (0.9 if kind in ("unsigned bytes", "bfloat16") else 0.999)
    assert windows == count
    assert said == told == []


def test_an_upload_is_heard_as_the_file_is(identify, voices, tmp_path):
    path = saved(tmp_path / "voice.flac", voices[0], subtype="PCM_16")
    content = path.read_bytes()
    for upload in (content, bytearray(content), memoryview(content)):
        assert torch.equal(identify(upload)[0], identify(path)[0])


WRONG = {  # beside what is refused in files
    "integers as floats": (lambda wave: wave * 32_768, "rescale it"),
    "nothing": (lambda wave: wave[:0], "expected at least 0.3 s"),
    "truth values": (lambda wave: wave > 0, "samples of type bool"),
    "complex": (lambda wave: wave.astype(np.complex64), "samples of type complex64"),
    "no channels": (lambda wave: wave[:9000].reshape(90, 100), "expected (samples,), (channels, samples)"),
    "three dimensions": (lambda wave: wave[None, None], "expected (samples,)"),
    "windows with NaN": (lambda wave: np.full((2, 20_000), np.nan, np.float32), "windows: has NaN"),
    "windows of zeros": (lambda wave: np.zeros((2, 20_000), np.float32), "windows: silent"),
    "integers in windows": (lambda wave: wave[:40_000].reshape(2, -1) * 32_768, "windows: samples reach"),
    "no windows": (lambda wave: np.zeros((0, 20_000), np.float32), "windows: 0.00 s of audio"),
    "a sparse tensor": (lambda wave: torch.from_numpy(wave).to_sparse(), "samples: cannot be read as an array"),
    "no memory": (lambda wave: torch.empty(16_000, device="meta"), "samples: cannot be read as an array"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_samples_that_are_no_recording_are_refused_in_one_line(kind):
    change, why = WRONG[kind]
    with pytest.raises(InputError) as caught:
        hear(change(spoken(3)[:, 0]))
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_windows_that_were_cut_are_given_back():
    windows = torch.rand(3, 20_000)
    again, activity = hear(windows)
    assert torch.equal(again, windows)
    assert activity is None


@pytest.mark.parametrize(("wave", "why"), [(spoken(0.6), "s of speech"), (0.1 * np.ones((9, 1)), "")])
def test_a_doubt_is_one_line_that_names_the_file(tmp_path, wave, why):
    faint = 1e-3 * np.random.default_rng(0).standard_normal((2 * RATE, 1))
    path = saved(tmp_path / "hm.wav", np.concatenate([faint, wave, faint]))
    with pytest.warns(AudioWarning) as caught:
        hear(path)
    (said,) = [str(warning.message) for warning in caught]
    assert said.startswith(f"{path}: {'only' if why else 'no speech is found'}")
    assert why in said
    assert "\n" not in said


def test_of_a_long_recording_windows_are_spread_evenly():
    wave = spoken(165)[:, 0]
    windows, _ = hear(wave)
    every = [wave[start : start + 20_000] for start in range(0, len(wave) - 19_999, 10_000)]
    assert MAX_WINDOWS / 2 <= len(windows) <= MAX_WINDOWS
    stride = -(-len(every) // MAX_WINDOWS)
    for window, expected in zip(windows, every[::stride], strict=True):
        np.testing.assert_allclose(window.numpy(), expected, atol=1e-6)
