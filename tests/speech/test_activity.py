"""Speech in people's own recordings: found where it is, measured as loud as it is, doubted when there is little."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fakes import spoken
from hypothesis import given, settings
from hypothesis import strategies as st

from v2f_core.speech import activity
from v2f_core.speech.activity import FRAME, MARGIN, SAMPLE_RATE, STEP, levels, measure

SOFT = 0.2  # s; words begin and end softly, so that nobody can say more exactly where


def noise(seconds, level, seed=0):
    """White noise of an RMS, in dB."""
    rng = np.random.default_rng(seed)
    return (10 ** (level / 20) * rng.standard_normal(round(seconds * SAMPLE_RATE))).astype(np.float32)


def voice(seconds=3):
    return spoken(seconds)[:, 0]


# --- levels


def test_a_level_is_the_power_within_the_band():
    """Recomputed by a spectrum of 1 Hz over one long signal, in place of short windows."""
    wave = noise(20, -20)
    spectrum = np.abs(np.fft.rfft(wave)) ** 2 * 2 / len(wave) ** 2
    frequency = np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE)
    expected = spectrum[(frequency >= 300) & (frequency <= 3400)].sum()
    assert (10 ** (levels(wave) / 10)).mean() == pytest.approx(expected, rel=0.03)  # whose edges are softer


# --- where speech is


def test_the_detector_is_the_publishers_own():
    """Silero's loop over single frames, each with its context and the state of the one before."""
    import onnxruntime

    wave = voice(20)
    folder = Path(find_spec("silero_vad").origin).parent
    session = onnxruntime.InferenceSession(folder / "data/silero_vad.onnx", providers=["CPUExecutionProvider"])
    state, context, expected = np.zeros((2, 1, 128), np.float32), np.zeros((1, 64), np.float32), []
    for frame in wave.reshape(-1, FRAME):
        given = np.concatenate([context, frame[None]], 1)
        value, state = session.run(None, {"input": given, "state": state, "sr": np.array(SAMPLE_RATE)})
        expected.append(value.item())
        context = given[:, -64:]
    np.testing.assert_allclose(activity.speech_probability(wave), expected, atol=1e-4)


@settings(deadline=None, max_examples=10)
@given(st.floats(0.9, 3), st.floats(0.9, 3), st.floats(0.9, 3), st.floats(-80, -58))
def test_speech_is_found_where_it_was_put(before, between, after, background):
    """Two stretches of 2 s; pauses are cut down to their margins. Louder white noise is speech to Silero at times."""
    pauses = [noise(seconds, background, seed) for seed, seconds in enumerate((before, between, after))]
    found = measure(np.concatenate([pauses[0], voice(2), pauses[1], voice(2), pauses[2]]))
    assert found.seconds == pytest.approx(4 + before + between + after, abs=0.001)
    assert found.speech == pytest.approx(4, abs=3 * SOFT)
    assert len(found.kept) == 2
    assert found.left_out == pytest.approx((before - MARGIN, between - 2 * MARGIN, after - MARGIN), abs=2 * SOFT)


@settings(deadline=None, max_examples=10)
@given(st.floats(-35, 10, allow_subnormal=False))  # which onnxruntime switches off in its threads
def test_loudness_does_not_matter(gain):
    wave = np.concatenate([noise(1, -75, 1), voice(), noise(1, -75, 2)])
    one, other = measure(wave), measure(wave * np.float32(10 ** (gain / 20)))
    assert (other.speech, *other.left_out) == pytest.approx((one.speech, *one.left_out), abs=2 * STEP)
    assert other.level == pytest.approx(one.level + gain, abs=0.2)


@pytest.mark.parametrize(
    "wave",
    [
        noise(3, -20),
        np.zeros(48_000, np.float32),
        np.sin(np.arange(48_000) / 6).astype(np.float32) / 3,
        noise(3, -20) * (np.arange(48_000) % 16_000 < 12_000),
        np.where(np.arange(48_000) // 100 == 200, np.float32(0.8), noise(3, -70)),
    ],
    ids=["steady noise", "zeros", "a tone", "bursts of noise", "a click"],
)
def test_what_is_no_voice_is_no_speech_and_nothing_is_left_out(wave):
    found = measure(wave)
    assert (found.speech, found.left_out) == (0, (0, 0, 0))
    assert np.isnan([found.snr, found.level, found.band]).all()
    assert found.doubt == "no speech is found in it"


def test_muted_pauses_do_not_pass_for_a_quiet_room():
    """Digital silence at the ends is no background: the pauses between the words are."""
    wave = voice(4) + noise(4, -40)
    muted = np.zeros(3 * SAMPLE_RATE, np.float32)
    alone, within = measure(wave), measure(np.concatenate([muted, wave, muted]))
    assert within.snr == pytest.approx(alone.snr, abs=1)


@pytest.mark.parametrize("ratio", [10, 20])
def test_a_known_ratio_is_found(ratio):
    """With MiniVox's voices and two noises: `benchmarks/recordings.py`."""
    wave = voice(6)
    spoken_power = (10 ** (levels(wave) / 10)).mean()
    added = noise(6, 0, seed=1)
    added *= np.sqrt(spoken_power / (10 ** (levels(added) / 10)).mean() / 10 ** (ratio / 10))
    assert measure(wave + added).snr == pytest.approx(ratio, abs=2)


@pytest.mark.parametrize("hertz", [3000, 4000, 5500])
def test_the_band_is_found(hertz):
    spectrum = np.fft.rfft(voice(4))
    spectrum[np.fft.rfftfreq(64_000, 1 / SAMPLE_RATE) > hertz] = 0
    narrow = np.fft.irfft(spectrum).astype(np.float32)
    assert measure(narrow).band == pytest.approx(hertz, abs=250)
    assert measure(voice(4)).band == 8000


# --- the limits


def results(name):
    root = Path(__file__).parents[2]
    return (root / "docs/recordings.md").read_text(), pd.read_csv(root / f"benchmarks/results/{name}.csv")


def test_the_guide_shows_what_was_measured():
    """docs/recordings.md rests on benchmarks/results/recordings.csv, which benchmarks/recordings.py writes."""
    page, table = results("recordings")
    for row in table.to_dict("records"):
        likeness = f"{row['cosine to the face']:.3f} [{row['cosine low']:.3f}, {row['cosine high']:.3f}]"
        whole, nearest = row["cosine to the whole"], row["nearest of all to the whole"]
        assert f" | {likeness} | {whole:.3f} | {nearest:.0%} |\n" in page
    for ratio, found in table.dropna(subset="dB").groupby("dB"):
        white, pink = (found[found.condition == f"{c} noise"]["dB found"].item() for c in ("white", "pink"))
        assert f"| {ratio:g} dB | {white:.1f} dB | {pink:.1f} dB |\n" in page
    assert f"Speech under {activity.MIN_SPEECH:g} s" in page
    assert f"less than {activity.MIN_SNR:g} dB above" in page


def test_no_encoding_changes_the_person_without_a_word():
    page, table = results("encodings")
    assert len(table) >= 50
    assert not ((table.cosine < 0.95) & (table.warned < 1)).any()
    for row in table.to_dict("records"):
        line = f"| {row['encoding']} | {row['cosine']:.3f} | {row['least']:.3f} | {row['warned']:.0%} |\n"
        assert line in page
