"""Speech in people's own recordings: found where it was put, measured as loud as it was made, doubted when little."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from fakes import spoken
from hypothesis import given
from hypothesis import strategies as st

from v2f_core.errors import InputError
from v2f_core.speech.activity import (
    BAND,
    FRAME,
    MARGIN,
    MIN_SNR,
    MIN_SPEECH,
    PAUSE,
    SILENT,
    levels,
    measure,
    read_speech,
    speech_clips,
)
from v2f_core.speech.audio import SAMPLE_RATE, AudioWarning, clips, read_audio, read_clips

STEP = FRAME / SAMPLE_RATE
g = np.random.default_rng


def noise(seconds, level, seed=0, rate=SAMPLE_RATE):
    """White noise of an RMS, in dB."""
    return (10 ** (level / 20) * g(seed).standard_normal(round(seconds * rate))).astype(np.float32)


def frames(*runs):
    """Levels of frames from (how many, dB)."""
    return np.concatenate([np.full(n, level, np.float32) for n, level in runs])


# --- levels


def test_a_level_is_the_power_within_the_band():
    """Recomputed by a spectrum of 1 Hz over one long signal, in place of short windows."""
    wave = noise(20, -20)
    spectrum = np.abs(np.fft.rfft(wave)) ** 2 * 2 / len(wave) ** 2
    frequency = np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE)
    expected = spectrum[(frequency >= BAND[0]) & (frequency <= BAND[1])].sum()
    assert (10 ** (levels([wave]) / 10)).mean() == pytest.approx(expected, rel=0.03)  # whose edges are softer


@pytest.mark.parametrize(("hertz", "heard"), [(50, False), (120, False), (440, True), (3000, True), (6000, False)])
def test_hum_and_hiss_do_not_count(hertz, heard):
    tone = np.sin(2 * np.pi * hertz * np.arange(SAMPLE_RATE) / SAMPLE_RATE).astype(np.float32)
    level = levels([tone])
    assert (abs(level + 3) < 0.1).all() if heard else (level < -30).all()


@given(st.lists(st.integers(0, 2000), max_size=8))
def test_levels_do_not_depend_on_the_blocks(places):
    wave = noise(0.1, -10)
    np.testing.assert_allclose(levels(np.split(wave, sorted(places))), levels([wave]), rtol=1e-5)
    assert len(levels([wave])) == -(-len(wave) // FRAME)


def test_silence_has_a_level_too():
    assert (levels([np.zeros(1000, np.float32)]) == SILENT).all()
    assert len(levels([])) == 0


# --- where speech is


@given(st.integers(20, 400), st.integers(15, 300), st.integers(20, 400), st.floats(-80, -50), st.floats(-30, -5))
def test_speech_is_found_where_it_was_put(before, during, after, background, speech):
    found = measure(frames((before, background), (during, speech), (after, background)))
    assert found.speech == pytest.approx(during * STEP)
    assert found.seconds == pytest.approx((before + during + after) * STEP)
    assert found.snr == pytest.approx(10 * np.log10(10 ** ((speech - background) / 10) - 1), abs=0.01)
    left = [n * STEP - MARGIN if n * STEP > PAUSE + 1e-9 else 0 for n in (before, after)]
    assert found.left_out == pytest.approx(left)


@given(st.floats(-15, 10, allow_subnormal=False), st.integers(0, 10_000))
def test_loudness_does_not_matter(gain, seed):
    silence = np.zeros(SAMPLE_RATE, np.float32)
    wave = np.concatenate([silence, spoken(2.5)[:, 0], silence]) + noise(4.5, -60, seed)
    one, other = measure(levels([wave])), measure(levels([wave * np.float32(10 ** (gain / 20))]))
    assert (other.start, other.end, other.speech) == pytest.approx((one.start, one.end, one.speech), abs=2 * STEP)
    assert other.snr == pytest.approx(one.snr, abs=0.1)


@given(st.integers(30, 5000))
def test_a_long_silence_hides_no_short_speech(silence):
    """Levels are ranked by time, not by share: 1 s in a hundred is found as well as 1 s in two."""
    assert measure(frames((silence, -70), (50, -20), (silence, -70))).speech == pytest.approx(1)


def test_clicks_are_no_speech_and_short_gaps_are():
    quiet, loud = -70, -20
    click = measure(frames((100, quiet), (2, loud), (100, quiet), (100, loud), (100, quiet)))
    assert click.speech == pytest.approx(2)
    assert click.start == pytest.approx(202 * STEP - MARGIN)
    stop = measure(frames((50, quiet), (50, loud), (14, quiet), (50, loud), (50, quiet)))
    assert stop.speech == pytest.approx(114 * STEP)
    pause = measure(frames((50, quiet), (50, loud), (16, quiet), (50, loud), (50, quiet)))
    assert pause.speech == pytest.approx(2)


@pytest.mark.parametrize("wave", [noise(3, -20), np.zeros(48_000, np.float32)], ids=["steady noise", "zeros"])
def test_where_nothing_stands_out_there_is_no_speech_and_nothing_is_left_out(wave):
    found = measure(levels([wave]))
    assert (found.speech, found.start, found.end) == (0, 0, found.seconds)
    assert np.isnan(found.snr)
    assert found.doubt == "no speech stands out from its background"


def test_muted_pauses_do_not_pass_for_a_quiet_room():
    """Digital silence at the ends is no background: the pauses between the words are."""
    wave = spoken(4)[:, 0] + noise(4, -30)
    muted = np.zeros(3 * SAMPLE_RATE, np.float32)
    alone, within = measure(levels([wave])), measure(levels([np.concatenate([muted, wave, muted])]))
    assert within.snr == pytest.approx(alone.snr, abs=0.3)
    assert within.speech == pytest.approx(alone.speech, abs=4 * STEP)


@pytest.mark.parametrize("ratio", [5, 10, 15, 20, 30])
def test_a_known_ratio_is_found(ratio):
    """Words of noise in noise; with MiniVox's voices: `benchmarks/recordings.py`."""
    wave = spoken(8)[:, 0]
    words = wave[np.abs(wave) > 0.01]
    added = noise(8, 10 * np.log10(words.var()) - ratio, seed=1)
    assert measure(levels([wave + added])).snr == pytest.approx(ratio, abs=1.5)


def test_what_is_wanted_is_told_with_what_was_found():
    enough, quiet, loud = round(MIN_SPEECH / STEP) + 1, -60, -20
    assert measure(frames((100, quiet), (enough, loud))).doubt == ""
    assert "s of speech" in measure(frames((100, quiet), (enough - 10, loud))).doubt
    assert "above its background" in measure(frames((100, loud - MIN_SNR), (enough, loud))).doubt


# --- recordings


def stereo(wave):
    return np.stack([wave, 0.5 * wave], 1)


def save(path, wave, rate):
    if path.suffix != ".m4a":
        soundfile.write(path, wave, rate)
        return path
    import av

    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=rate, layout="stereo")
        planes = np.ascontiguousarray(wave.T, np.float32)
        frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout="stereo")
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return path


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "m4a"])
def test_silence_is_left_out_of_any_format(tmp_path, suffix, rate):
    parts = [noise(2, -65, 0, rate), spoken(3, rate)[:, 0], noise(1, -65, 1, rate)]
    path = save(tmp_path / f"voice.{suffix}", stereo(np.concatenate(parts)), rate)
    windows, found = read_speech(path)
    assert found.left_out == pytest.approx((2 - MARGIN, 1 - MARGIN), abs=0.12)  # codecs smear, AAC adds a frame
    assert found.speech == pytest.approx(3, abs=0.1)
    assert len(windows) == 4  # 3.5 s with both margins


def test_a_recording_without_silence_is_heard_as_it_is(tmp_path):
    path = save(
        tmp_path / "voice.wav", np.concatenate([noise(0.4, -65), spoken(3)[:, 0], noise(0.4, -65)]), SAMPLE_RATE
    )
    windows, found = read_speech(path)
    assert found.left_out == (0, 0)
    assert torch.equal(windows, read_clips(path))


def test_samples_and_their_file_give_the_same_clips(tmp_path):
    path = save(tmp_path / "voice.wav", np.concatenate([noise(2, -65), spoken(3)[:, 0], noise(3, -65)]), SAMPLE_RATE)
    (ours, one), (theirs, other) = speech_clips(read_audio(path)), read_speech(path)
    assert torch.equal(ours, theirs)
    assert one == other
    cut = read_audio(path)[round(one.start * SAMPLE_RATE) : round(one.end * SAMPLE_RATE)]
    assert torch.equal(ours, clips(cut))


def test_the_samples_at_hand_decide_even_where_no_frame_ends(tmp_path):
    """1.25 s and half a frame: the last window is not lost to rounding."""
    path = save(tmp_path / "voice.wav", spoken(3)[: 3 * 10_000 + 30], SAMPLE_RATE)
    windows, _ = read_speech(path)
    assert torch.equal(windows, read_clips(path))
    assert len(windows) == 2


def test_a_doubt_is_one_line_that_names_the_file(tmp_path):
    path = save(tmp_path / "hm.wav", np.concatenate([noise(2, -65), spoken(0.7)[:, 0], noise(2, -65)]), SAMPLE_RATE)
    with pytest.warns(AudioWarning) as caught:
        read_speech(path)
    (said,) = [str(warning.message) for warning in caught]
    assert said.startswith(f"{path}: only 0.70 s of speech")
    assert "\n" not in said


def test_all_silence_is_refused(tmp_path):
    path = save(tmp_path / "off.wav", np.zeros(48_000), SAMPLE_RATE)
    with pytest.raises(InputError, match=r"off\.wav: silent"):
        read_speech(path)
    path = save(tmp_path / "faint.wav", noise(3, -80), SAMPLE_RATE)
    with pytest.raises(InputError, match=r"faint\.wav: silent"):
        read_speech(path)


def test_a_clipped_recording_is_told_of_once(tmp_path):
    wave = (spoken(3)[:, 0] * 5).clip(-1, 1)
    with pytest.warns(AudioWarning) as caught:
        read_speech(save(tmp_path / "loud.wav", wave, SAMPLE_RATE))
    (said,) = [str(warning.message) for warning in caught]
    assert "clipped" in said


def test_a_long_recording_is_thinned_between_its_ends(tmp_path):
    path = save(tmp_path / "long.wav", np.concatenate([noise(5, -65), spoken(60)[:, 0], noise(5, -65)]), SAMPLE_RATE)
    windows, found = read_speech(path, max_clips=32)
    every, _ = read_speech(path)
    assert (len(every), len(windows)) == (95, 24)
    assert torch.equal(windows, every[::4])
    assert found.left_out == pytest.approx((5 - MARGIN, 5 - MARGIN), abs=0.03)


def test_good_speech_raises_no_doubt(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_speech(save(tmp_path / "voice.wav", spoken(3), SAMPLE_RATE))


# --- the limits


def test_the_guide_shows_what_was_measured():
    """docs/recordings.md rests on benchmarks/results/recordings.csv, which benchmarks/recordings.py writes."""
    root = Path(__file__).parents[2]
    page, table = (root / "docs/recordings.md").read_text(), pd.read_csv(root / "benchmarks/results/recordings.csv")
    for row in table.to_dict("records"):
        likeness = f"{row['cosine to the face']:.3f} [{row['cosine low']:.3f}, {row['cosine high']:.3f}]"
        whole, nearest = row["cosine to the whole"], row["nearest of all to the whole"]
        assert f" | {likeness} | {whole:.3f} | {nearest:.0%} |\n" in page
    for ratio, found in table.dropna(subset="dB").groupby("dB"):
        white, pink = (found[found.condition == f"{c} noise"]["dB found"].item() for c in ("white", "pink"))
        assert f"| {ratio:g} dB | {white:.1f} dB | {pink:.1f} dB |\n" in page
    assert f"Speech under {MIN_SPEECH:g} s" in page
    assert f"less than {MIN_SNR:g} dB above" in page


def test_the_limits_lie_where_the_voice_still_counts():
    """At the limits ẑ is nearer to its speaker's face than another person's of the same sex is."""
    table = pd.read_csv(Path(__file__).parents[2] / "benchmarks/results/recordings.csv")
    other = table[table.condition == "another of the same sex"]["cosine to the face"].item()
    at = table[((table.condition == "cut") & (table.seconds == MIN_SPEECH)) | (table.dB == MIN_SNR)]
    assert len(at) == 3
    assert (at["cosine to the face"] > other).all()
