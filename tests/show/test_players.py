"""Cards for notebooks: the sound inside is the recording, and small."""

import base64
import io
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import soundfile

from v2f_core.errors import InputError
from v2f_core.show import players

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def tone(seconds, pitch=300.0):
    return (0.5 * np.sin(2 * np.pi * pitch * np.arange(int(16_000 * seconds)) / 16_000)).astype(np.float32)


def test_the_embedded_sound_is_the_recording():
    wave, rate = soundfile.read(io.BytesIO(players.mp3(tone(1.0))))
    assert rate == 16_000
    assert 1.0 <= len(wave) / rate < 1.2  # MP3 pads to whole frames
    spectrum = np.abs(np.fft.rfft(wave))
    assert np.fft.rfftfreq(len(wave), 1 / rate)[spectrum.argmax()] == pytest.approx(300, abs=3)
    assert np.abs(wave).max() == pytest.approx(0.5, abs=0.1)


def test_cards_hold_every_face_every_player_and_every_caption():
    faces = [[np.full((128, 128, 3), shade, np.uint8)] for shade in (10, 200)]
    page = players.cards([tone(0.2), tone(0.3)], ["<one>", "two"], faces).data
    assert page.count("data:audio/mpeg;base64,") == page.count("data:image/webp;base64,") == 2
    assert page.index("&lt;one&gt;") < page.index("two")  # a caption is text, not markup
    assert re.findall('alt="([^"]*)"', page) == ["face: &lt;one&gt;", "face: two"]
    assert page.count('<img style="display:inline') == 2  # or some pages stack them
    assert page.count("all faces are synthetic") == 1
    assert "synthetic" not in players.cards([tone(0.2)], ["sound alone"]).data


def test_the_newest_recording_or_file_is_taken_as_it_is_and_its_name_leads_nowhere_else():
    recorder = players.Recorder()
    assert recorder.path_or("stand_in.ogg") == Path("stand_in.ogg")
    _, upload, sound = recorder.children
    sound.value = "data:audio/webm;codecs=opus;base64," + base64.b64encode(b"sound").decode()
    assert recorder.path_or("stand_in.ogg").read_bytes() == b"sound"
    for name, content in (("mine.m4a", b"one"), ("../..\\away.mp3", b"two")):
        upload.value = ({"name": name, "type": "", "size": 3, "content": memoryview(content), "last_modified": NOON},)
        path = recorder.path_or("stand_in.ogg")
        assert path.read_bytes() == content
        assert path.parent.name.startswith("v2f_recording_")
    assert path.name == "away.mp3"


def test_what_was_recorded_is_gone_when_the_kernel_ends():
    script = """
from v2f_core.show.players import Recorder
recorder = Recorder()
recorder.children[-1].value = "data:audio/webm;base64,AAAA"
path = recorder.path_or("")
print(path.exists(), path)"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    existed, _, path = run.stdout.strip().partition(" ")
    assert existed == "True"
    assert not Path(path).parent.exists()


@pytest.mark.parametrize("seconds", [0, 31])
def test_a_recording_of_no_time_or_too_long_is_refused(seconds):
    with pytest.raises(InputError, match="expected 1 to 30 s"):
        players.Recorder(seconds)
