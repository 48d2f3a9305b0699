"""MiniVox's voices: what a trait says must be in the sound, and measured there by other means than it was put in."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("pyworld", reason="the extra [build] is not installed")

from minivox import world
from minivox.build import base_speech
from minivox.build.voice import calibrate, ingredients, world_vocoder
from minivox.build.voice.kokoro import active
from minivox.build.voice.sentences import SENTENCES
from minivox.build.voice.speaker import Voice, load_timbres, voice_of
from v2f_core.errors import InputError

pytestmark = pytest.mark.slow

RATE = 16_000
KOKORO = ["af_one", "af_two", "bf_three", "am_four", "bm_five", "jf_six", "am_santa"]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("build")
    base_speech.run(folder, tiny=True)
    return folder


@pytest.fixture(scope="module")
def timbres(work):
    return load_timbres(work / "base_speech" / "minivox")


@pytest.fixture(scope="module", params=["f", "m"])
def voice(request, timbres):
    """An average woman's and an average man's voice, without private factors."""
    base = next(one for one in timbres if one.timbre.sex == request.param)
    f0, vtl = (world.VOICE_UNITS[request.param][k][0] for k in ("f0", "vtl"))
    return Voice(world.VoiceTraits(f0, vtl, -1.0, 0.0, 0.0), base, f0_range=1.0, tilt_db=0.0, ridges=())


def spoken(voice, n=0, seed=0, **traits):
    """A sentence by the same voice with some traits changed, before room and microphone."""
    changed = replace(voice, traits=voice.traits._replace(**traits))
    return changed.speak(voice.sentences[n], np.random.default_rng(seed))


def pitch(wave):
    """Fundamental frequency by autocorrelation, in frames that are loud and periodic: nothing of WORLD."""
    found = []
    for start in range(0, len(wave) - 800, 160):
        frame = wave[start : start + 800] - wave[start : start + 800].mean()
        spectrum = np.abs(np.fft.rfft(frame * np.hanning(800), 2048)) ** 2
        window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(800), 2048)) ** 2)
        correlation = np.fft.irfft(spectrum)[:400] / window[:400]
        lag = 40 + int(correlation[40:267].argmax())  # 60 to 400 Hz
        if correlation[lag] > 0.6 * correlation[0] and frame.std() > 0.2 * wave.std():
            found.append(RATE / lag)
    return np.array(found)


def spectrum(wave):
    """Mean power spectrum of the loud part, smoothed over 300 Hz."""
    frames = np.lib.stride_tricks.sliding_window_view(wave[active(wave, RATE, 20.0)], 512)[::128]
    power = (np.abs(np.fft.rfft(frames * np.hanning(512))) ** 2).mean(0)
    return np.fft.rfftfreq(512, 1 / RATE), np.convolve(power, np.ones(9) / 9, "same")


def test_mean_pitch_is_the_trait(voice):
    """Within a semitone, since loud syllables lie above the mean of all voiced frames; to a quarter in differences."""

    def semitones(f0):
        return 12 * np.log2(pitch(spoken(voice, f0=f0)) / 100).mean()

    low, middle, high = (semitones(voice.traits.f0 + offset) for offset in (-3, 0, 3))
    assert middle == pytest.approx(voice.traits.f0, abs=1)
    assert high - low == pytest.approx(6, abs=0.5)


def test_a_longer_tract_lowers_the_formants_by_its_factor(voice):
    hertz, short = spectrum(spoken(voice, vtl=voice.traits.vtl / 1.05))
    _, long = spectrum(spoken(voice, vtl=voice.traits.vtl * 1.05))
    band = (hertz > 300) & (hertz < 5000)
    factors = np.linspace(0.85, 1.1, 51)
    fit = [np.std(np.log(np.interp(hertz[band] / f, hertz, short) / long[band])) for f in factors]
    assert factors[int(np.argmin(fit))] == pytest.approx(1 / 1.05**2, abs=0.03)


def test_roughness_is_heard_as_irregular_periods(voice):
    def harmonicity(rough):
        """Median of the autocorrelation's peak near the period."""
        wave, peaks = spoken(voice, rough=rough), []
        for start in range(0, len(wave) - 800, 160):
            frame = wave[start : start + 800]
            if frame.std() > wave.std():
                c = np.correlate(frame, frame, "full")[799:] / (frame @ frame) * 800 / (800 - np.arange(800))
                peaks.append(c[40:267].max())
        return np.median(peaks)

    smooth, middle, rough = (harmonicity(z) for z in (-2.0, 0.0, 2.0))
    assert smooth > middle > rough
    assert smooth - rough > 0.1


def test_rate_shortens_by_its_exponential(voice):
    slow, fast = spoken(voice, rate=-1.5), spoken(voice, rate=1.5)
    assert slow.size / fast.size == pytest.approx(np.exp(0.12 * 3), rel=0.01)


def test_clips_are_sound_and_no_clip_clips(work, timbres):
    for person in world.population("minivox", 6):
        voice = voice_of(person, timbres)
        wave = voice.say(voice.sentences[0], np.random.default_rng(person.index))
        assert wave.dtype == np.float32
        assert wave.ndim == 1
        assert 1.2 * RATE < wave.size < 4.5 * RATE
        assert np.isfinite(wave).all()
        assert np.abs(wave).max() < 1
        level = 10 * np.log10(np.mean(wave[active(wave, RATE)].astype(float) ** 2))
        assert -26 < level < -20.5


def test_what_cannot_be_said_is_refused(tmp_path, voice, timbres):
    missing = next(n for n in range(len(SENTENCES)) if n not in voice.sentences)
    with pytest.raises(InputError, match=f"sentence {missing}"):
        voice.say(missing, np.random.default_rng(0))
    men = [one for one in timbres if one.timbre.sex == "m"]
    with pytest.raises(InputError, match="no timbre"):
        voice_of(replace(world.person("minivox", 0), sex="f"), men)
    with pytest.raises(InputError, match="base_speech"):
        load_timbres(tmp_path)


def test_calibration_finds_a_known_formant_scale(work, voice):
    part = world_vocoder.load(voice.base.file(voice.sentences[0]))
    for factor in (0.93, 1.08):
        scaled = part._replace(log_envelope=world_vocoder.warp(part.log_envelope, factor))
        assert calibrate.log_scale_between(part, scaled) == pytest.approx(np.log(factor), abs=0.01)


def test_a_changed_ingredient_is_refused(tmp_path):
    folder = tmp_path / "ingredients" / "kokoro"
    folder.mkdir(parents=True)
    (folder / f"{next(iter(ingredients.WHEELS))}-py3-none-any.whl").write_text("not it")
    with pytest.raises(InputError, match="SHA-256"):
        ingredients.fetch(tmp_path)
