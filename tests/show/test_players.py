"""Cards for notebooks: the sound inside is the recording, and small."""

import base64
import io
import re

import numpy as np
import pytest
import soundfile

from v2f_core.errors import InputError
from v2f_core.show import players


def tone(seconds, pitch=300.0):
    return (0.5 * np.sin(2 * np.pi * pitch * np.arange(int(16_000 * seconds)) / 16_000)).astype(np.float32)


def embedded(page, kind):
    return [base64.b64decode(code) for code in re.findall(rf"data:{kind};base64,([\w+/=]+)", page)]


def test_the_embedded_sound_is_the_recording():
    wave, rate = soundfile.read(io.BytesIO(players.mp3(tone(1.0))))
    assert rate == 16_000
    assert 1.0 <= len(wave) / rate < 1.2  # MP3 pads to whole frames
    spectrum = np.abs(np.fft.rfft(wave))
    assert np.fft.rfftfreq(len(wave), 1 / rate)[spectrum.argmax()] == pytest.approx(300, abs=3)
    assert np.abs(wave).max() == pytest.approx(0.5, abs=0.1)


def test_a_clip_of_minivox_s_length_is_below_the_limit():
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000 * 3).astype(np.float32)  # the hardest to compress
    assert len(players.mp3(noise)) < players.MP3_LIMIT


def test_cards_hold_every_face_every_player_and_every_caption():
    from PIL import Image

    faces = [[np.full((128, 128, 3), shade, np.uint8)] for shade in (10, 200)]
    page = players.cards([tone(0.2), tone(0.3)], ["<one>", "two"], faces).data
    assert len(embedded(page, "audio/mpeg")) == 2
    pictures = [np.asarray(Image.open(io.BytesIO(data))) for data in embedded(page, "image/webp")]
    assert [int(picture.mean().round()) for picture in pictures] == pytest.approx([10, 200], abs=2)
    assert "&lt;one&gt;" in page  # a caption is text, not markup
    assert page.index("two") > page.index("&lt;one&gt;")
    assert re.findall('alt="([^"]*)"', page) == ["face: &lt;one&gt;", "face: two"]
    assert page.count('<img style="display:inline') == 2  # or some pages stack them
    assert page.count("all faces are synthetic") == 1
    assert "synthetic" not in players.cards([tone(0.2)], ["sound alone"]).data


def test_what_cannot_be_shown_is_refused():
    with pytest.raises(InputError, match="without samples"):
        players.mp3(np.zeros(0, np.float32))
    with pytest.raises(InputError, match="too long to embed"):
        players.mp3(tone(20))
    with pytest.raises(InputError, match="give as many"):
        players.cards([tone(0.1)], [])
