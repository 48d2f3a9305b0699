"""Hearing: any common recording becomes mono 16 kHz clips, and a bad one is refused in one line."""

import contextlib
import os
import re
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from fakes import save_m4a
from hypothesis import given, settings
from hypothesis import strategies as st

from v2f_core.errors import InputError
from v2f_core.speech.audio import SAMPLE_RATE, AudioWarning, clips, read_audio


def speech_like(seconds, rate=SAMPLE_RATE, seed=0):
    """Noise at a speaking level: everything that is read or refused here needs no real voice."""
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate)).clip(-3, 3).astype(np.float32)


def tone(hertz, seconds, rate, level=0.3):
    return level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32)


def save(path, samples, rate=SAMPLE_RATE, **kind):
    soundfile.write(path, samples, rate, **kind)
    return path


def frequency(wave):
    """The strongest frequency in Hz, from the spectrum's peak with a parabola through it."""
    spectrum = np.abs(np.fft.rfft(wave.numpy() * np.hanning(len(wave))))
    k = int(spectrum.argmax())
    a, b, c = np.log(spectrum[k - 1 : k + 2])
    return (k + 0.5 * (a - c) / (a - 2 * b + c)) * SAMPLE_RATE / len(wave)


FINE_MP3 = {"bitrate_mode": "CONSTANT", "compression_level": 0.0}

# ---- reading ----


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_resampling_keeps_length_pitch_and_level(tmp_path, rate):
    wave = read_audio(save(tmp_path / "tone.wav", tone(440, 2, rate, 0.5), rate, subtype="FLOAT"))
    assert wave.dtype == torch.float32
    assert abs(len(wave) - 2 * SAMPLE_RATE) <= 1
    assert frequency(wave) == pytest.approx(440, abs=0.1)
    assert wave[4000:-4000].abs().max().item() == pytest.approx(0.5, rel=2e-3)


@pytest.mark.parametrize("rate", [22_050, 48_000])
def test_the_band_up_to_7800_hertz_is_kept(tmp_path, rate):
    """White noise at 16 kHz, brought to another rate in its spectrum: read again, it is the same noise."""
    noise = np.random.default_rng(0).standard_normal(2 * SAMPLE_RATE)
    spectrum = np.fft.rfft(noise)
    spectrum[np.fft.rfftfreq(len(noise), 1 / SAMPLE_RATE) > 7_800] = 0
    samples = 2 * rate
    there = 0.1 * np.fft.irfft(spectrum, samples) * samples / len(noise)
    wave = read_audio(save(tmp_path / "noise.wav", there, rate, subtype="FLOAT")).numpy()
    expected = 0.1 * np.fft.irfft(spectrum)
    np.testing.assert_allclose(wave[1000:-1000], expected[1000:-1000], atol=2e-3)


def test_downsampling_folds_nothing_back(tmp_path):
    """10 kHz is above what 16 kHz can hold; a careless resampler would turn it into 6 kHz."""
    both = tone(10_000, 2, 48_000, 0.4) + tone(500, 2, 48_000, 0.01)
    wave = read_audio(save(tmp_path / "high.wav", both, 48_000, subtype="FLOAT"))
    assert frequency(wave) == pytest.approx(500, abs=0.5)
    assert wave[4000:-4000].abs().max() < 0.011


@pytest.mark.parametrize(
    ("suffix", "kind", "correlation"),
    [
        ("wav", {"subtype": "PCM_16"}, 0.9999),
        ("wav", {"subtype": "PCM_U8"}, 0.99),
        ("flac", {}, 0.9999),
        ("ogg", {"subtype": "VORBIS"}, 0.9),
        ("ogg", {"subtype": "OPUS"}, 0.9),
        ("mp3", FINE_MP3, 0.9),
    ],
)
def test_formats(tmp_path, suffix, kind, correlation):
    sound = np.convolve(speech_like(2), np.ones(8) / 2, mode="same").astype(np.float32)  # codecs spare the low band
    wave = read_audio(save(tmp_path / f"voice.{suffix}", sound, **kind)).numpy()
    assert abs(len(wave) - len(sound)) <= 1
    assert np.corrcoef(wave, sound)[0, 1] > correlation


def test_a_telephone_s_memo_is_read(tmp_path):
    """Other formats that FFmpeg alone reads are in benchmarks/results/encodings.csv."""
    wave = read_audio(save_m4a(tmp_path / "voice", tone(330, 2, 44_100), 44_100))
    assert abs(len(wave) / SAMPLE_RATE - 2) < 0.15
    assert frequency(wave) == pytest.approx(330, abs=1)


def test_a_playlist_leads_nowhere(tmp_path):
    save_m4a(tmp_path / "private.m4a", speech_like(1, 44_100), 44_100)
    (tmp_path / "voice.wav").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nprivate.m4a\n#EXT-X-ENDLIST\n")
    assert "not an audio file" in refused(tmp_path / "voice.wav")


def test_full_scale_sound_stays_within_one(tmp_path):
    square = np.sign(tone(100, 1, 44_100)) * 0.998  # resampling rings at its edges
    wave = read_audio(save(tmp_path / "square.wav", square, 44_100, subtype="FLOAT"))
    assert wave.abs().max() <= 1


# ---- bad files ----


def refused(path):
    with pytest.raises(InputError) as caught:
        read_audio(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


BROKEN = {
    "a folder": (lambda p: p.mkdir(), "a folder"),
    "nothing": (lambda p: None, "no such file"),
    "no bytes": (lambda p: p.touch(), r"empty \(0 bytes\)"),
    "a letter": (lambda p: p.write_text("To whom it may concern\n" * 50), "not an audio file"),
    "12 bytes of MP4": (lambda p: p.write_bytes(b"\0\0\0\x18ftypM4A "), "not an audio file"),
    "0.05 s": (lambda p: save(p, speech_like(0.05)), r"0\.05 s of audio; expected at least 0\.3 s; record a longer"),
    "no samples": (lambda p: save(p, speech_like(0)), "no sound"),
    "zeros": (lambda p: save(p, np.zeros(16_000)), "silent"),
    "-80 dBFS": (lambda p: save(p, speech_like(1) * 1e-3, subtype="FLOAT"), "silent"),
    "an offset": (lambda p: save(p, np.full(16_000, 0.25)), "silent"),
    "a NaN": (lambda p: save(p, np.append(speech_like(1), np.nan), subtype="FLOAT"), "NaN or infinite"),
    "an infinity": (lambda p: save(p, np.append(speech_like(1), np.inf), subtype="FLOAT"), "NaN or infinite"),
    "integers as floats": (lambda p: save(p, speech_like(1) * 3e4, subtype="FLOAT"), r"expected floats in \[-1, 1\]"),
    "clipped": (lambda p: save(p, (100 * speech_like(1)).clip(-1, 1)), r"9\d% of the samples are clipped"),
    "4 kHz": (lambda p: save(p, speech_like(2, 4_000), 4_000), "4000 samples a second; expected 8,000 to 192,000"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_in_one_line(tmp_path, name):
    path = tmp_path / "voice.wav"
    write, why = BROKEN[name]
    write(path)
    assert re.search(why, refused(path))


def test_no_permission(tmp_path, monkeypatch):
    """The superuser may read everything, so the system's refusal is staged."""
    path = save(tmp_path / "private.wav", speech_like(1))

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert "Permission denied" in refused(path)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg"])
def test_a_cut_off_file_is_used_as_far_as_it_goes(tmp_path, suffix):
    whole = save(tmp_path / f"whole.{suffix}", speech_like(8))
    data = whole.read_bytes()
    half = tmp_path / f"half.{suffix}"
    half.write_bytes(data[: len(data) // 2])
    if suffix == "ogg":  # Ogg pages say nothing of the whole: half a file is a shorter file
        wave = read_audio(half)
    else:
        with pytest.warns(AudioWarning) as caught:
            wave = read_audio(half)
        assert "promises 8.0 s; used what is there" in str(caught[0].message)
    assert 2.5 * SAMPLE_RATE < len(wave) < 4.5 * SAMPLE_RATE
    half.write_bytes(data[: len(data) // 40])
    assert re.search("expected at least 0.3 s|not an audio file|no sound", refused(half))


def wav(size, samples, rate=SAMPLE_RATE, bytes_a_second=None):
    """A WAV with a header of one's own."""
    pcm = (samples * 32_767).astype("<i2").tobytes()
    form = struct.pack("<IHHIIHH", 16, 1, 1, rate, bytes_a_second or 2 * rate, 2, 16)
    riff = b"RIFF" + struct.pack("<I", min(size + 36, 0xFFFFFFFF)) + b"WAVEfmt " + form
    return riff + b"data" + struct.pack("<I", size) + pcm


@pytest.mark.parametrize(
    ("size", "rates", "said"),
    [
        (0xFFFFFFFF, {}, ""),  # FFmpeg into a pipe, which does not know the length yet: no reason to warn
        (0x7FFFF000, {}, ""),  # SoX
        (0, {}, "header that was never finished"),
        (32_000, {"rate": 22_050, "bytes_a_second": 32_000}, "header that contradicts itself"),
        (16_000, {"rate": SAMPLE_RATE}, "holds more than its header says"),
    ],
)
def test_a_wrong_header_is_told_of_and_a_pipes_is_not(tmp_path, size, rates, said):
    (tmp_path / "odd.wav").write_bytes(wav(size, speech_like(1), **rates))
    with pytest.warns(AudioWarning, match=said) if said else contextlib.nullcontext():
        wave = read_audio(tmp_path / "odd.wav")
    assert len(wave) == SAMPLE_RATE or rates


@pytest.mark.parametrize(("suffix", "kind"), [("mp3", FINE_MP3), ("ogg", {"subtype": "VORBIS"}), ("flac", {})])
def test_joined_files_are_read_whole(tmp_path, suffix, kind):
    parts = [save(tmp_path / f"{i}.{suffix}", speech_like(2, seed=i), **kind).read_bytes() for i in range(3)]
    (tmp_path / f"all.{suffix}").write_bytes(b"".join(parts))
    assert len(read_audio(tmp_path / f"all.{suffix}")) / SAMPLE_RATE == pytest.approx(6, abs=0.3)


@pytest.mark.parametrize("suffix", ["mp3", "flac"])
def test_a_rate_that_changes_on_the_way(tmp_path, suffix):
    parts = [save(tmp_path / f"{r}.{suffix}", tone(440, 2, r), r).read_bytes() for r in (16_000, 48_000)]
    (tmp_path / f"all.{suffix}").write_bytes(b"".join(parts))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AudioWarning)  # of the MP3's compression
        wave = read_audio(tmp_path / f"all.{suffix}")
    assert len(wave) / SAMPLE_RATE == pytest.approx(4, abs=0.2)
    for second in (wave[8_000:24_000], wave[-24_000:-8_000]):
        assert frequency(second) == pytest.approx(440, abs=0.5)


def test_strong_compression_is_told_of(tmp_path):
    with pytest.warns(AudioWarning, match=r"small\.mp3: is compressed to 3\d kilobits a second"):
        read_audio(save(tmp_path / "small.mp3", speech_like(3)))
    read_audio(save(tmp_path / "fine.mp3", speech_like(3), **FINE_MP3))


def test_the_default_track_is_heard(tmp_path):
    import av

    with av.open(str(tmp_path / "film.mkv"), "w") as file:
        tracks = [file.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono") for _ in range(2)]
        tracks[0].disposition = av.stream.Disposition(0)
        tracks[1].disposition = av.stream.Disposition.default
        for hertz, track in zip((200, 700), tracks, strict=True):
            samples = (32_767 * tone(hertz, 2, SAMPLE_RATE)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            for packet in [*track.encode(frame), *track.encode(None)]:
                file.mux(packet)
    assert frequency(read_audio(tmp_path / "film.mkv")) == pytest.approx(700, abs=1)


@pytest.mark.parametrize("channels", [8, 16])
def test_the_channels_of_a_film_are_told_apart(tmp_path, channels):
    """PyAV finds nine planes in a frame of eight channels; only one channel sounds."""
    samples = np.zeros((48_000, channels), np.float32)
    samples[:, 1] = tone(700, 1, 48_000)
    wave = read_audio(save(tmp_path / "film.ogg", samples, 48_000, subtype="VORBIS"))
    assert frequency(wave) == pytest.approx(700, abs=1)
    assert wave.abs().max() == pytest.approx(0.3, abs=0.05)


def test_a_code_that_nobody_knows_is_one_line(tmp_path):
    data = bytearray(wav(32_000, speech_like(1)))
    data[20:22] = struct.pack("<H", 0x4242)
    (tmp_path / "voice.wav").write_bytes(data)
    assert re.search("no sound in a code that FFmpeg knows|not an audio file", refused(tmp_path / "voice.wav"))


def test_metadata_that_is_no_utf8_does_not_matter(tmp_path):
    path = save(tmp_path / "voice.flac", speech_like(1))
    tag = b"ARTIST=J\xfcrgen \xff\xfe"
    block = struct.pack("<I", 3) + b"sox" + struct.pack("<I", 1) + struct.pack("<I", len(tag)) + tag
    data = path.read_bytes()
    path.write_bytes(data[:42] + b"\x04" + struct.pack(">I", len(block))[1:] + block + data[42:])
    assert len(read_audio(path)) == SAMPLE_RATE


@pytest.mark.parametrize("name", [b"10:30", b"file:voice.wav", b"a%20b.wav", b"$\\frac$", b"J\xfcrgen", b"x" * 250])
def test_names_of_all_kinds(tmp_path, name):
    save(tmp_path / "voice.wav", speech_like(1)).rename(tmp_path / os.fsdecode(name))
    assert len(read_audio(tmp_path / os.fsdecode(name))) == SAMPLE_RATE


@pytest.mark.parametrize("name", [b"x" * 300, b"two\nlines", b"J\xfcrgen", b"zero\0byte"])
def test_a_file_of_an_odd_name_that_is_not_there_is_one_printable_line(tmp_path, name):
    with pytest.raises(InputError) as caught:
        read_audio(tmp_path / os.fsdecode(name))
    assert str(caught.value).isprintable()


def test_nothing_is_printed_by_the_libraries(tmp_path, capfd):
    rng = np.random.default_rng(0)
    for suffix in ("mp3", "ogg", "flac", "wav"):
        data = bytearray(save(tmp_path / f"voice.{suffix}", speech_like(2)).read_bytes())
        for place in rng.integers(len(data) // 2, len(data), 40):
            data[place] ^= 0xFF
        (tmp_path / f"voice.{suffix}").write_bytes(data[: len(data) * 9 // 10])
        with warnings.catch_warnings(), contextlib.suppress(InputError):
            warnings.simplefilter("ignore", AudioWarning)
            read_audio(tmp_path / f"voice.{suffix}")
    assert capfd.readouterr() == ("", "")


# ---- clips ----


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 60), st.sampled_from([None, 2, 5]))
def test_clips_equal_a_loop(n, length, most):
    """Short recordings are repeated; of too many clips every second, fourth, … one is kept."""
    wave, hop = torch.arange(n, dtype=torch.float32), max(1, round(length / 2))
    samples = wave.tolist() * (1 if n >= length else -(-length // n))
    samples = samples if n >= length else samples[:length]
    expected = [samples[i : i + length] for i in range(0, len(samples), hop) if i + length <= len(samples)]
    while most and len(expected) > most:
        expected = expected[::2]
    cut = clips(wave, length / SAMPLE_RATE, most)
    assert cut.tolist() == expected
    assert cut.is_contiguous()  # overlapping views of one memory would change each other


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_impossible_clips_are_refused(seconds):
    with pytest.raises(InputError, match="expected seconds > 0"):
        clips(torch.zeros(100), seconds)
    with pytest.raises(InputError, match="without samples"):
        clips(torch.zeros(0))


def test_of_more_than_an_hour_the_first_hour_is_read(tmp_path):
    """A WAV whose samples are a hole in the file system: it is silent, which shows when its hour is over."""
    path, size = tmp_path / "meeting.wav", 3700 * SAMPLE_RATE * 2
    header = wav(size, np.zeros(0, np.float32))
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + size)
    with pytest.warns(AudioWarning, match="only the first 3600 s were read"):
        assert "silent" in refused(path)
