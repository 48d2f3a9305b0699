"""Recordings in rooms, on which GE2E's aligner is trained beside clean ones."""

import shutil

import numpy as np
import soundfile
import torch

from minivox.build.rooms import SOUND, draw_response, impulse_response, read_in_room


def test_one_wall_alone_gives_the_echo_of_one_mirror_image():
    """Talker and microphone 1 m apart, 2 m from a wall that gives back a quarter; all other walls are far away."""
    far = np.array([2000.0, 2000.0, 2000.0])
    talker, microphone = np.array([2.0, 1000.0, 1000.0]), np.array([2.0, 1001.0, 1000.0])
    response = impulse_response(far, talker, microphone, absorbed=0.75, seconds=0.02)
    path = np.hypot(4.0, 1.0)
    expected = np.zeros(320)
    expected[0], expected[round((path - 1) / SOUND * 16_000)] = 1, 0.5 / path
    np.testing.assert_allclose(response, np.trim_zeros(expected, "b"), atol=1e-6)


def test_every_room_keeps_the_direct_sound_first_and_loudest():
    rng = np.random.default_rng(0)
    for _ in range(5):
        response = draw_response(rng)
        assert response[0] >= 1  # a wall close by may answer within the same sample
        assert response[0] == response.max()
        assert 1 < (response**2).sum() < 100


def test_a_recording_is_heard_in_the_same_room_again_and_under_another_name_in_another(tmp_path):
    wave = 0.1 * np.random.default_rng(0).standard_normal(48_000)
    soundfile.write(tmp_path / "a.wav", wave, 16_000, subtype="FLOAT")
    shutil.copy(tmp_path / "a.wav", tmp_path / "b.wav")
    once, again, other = (read_in_room(tmp_path / name, 1.25) for name in ("a.wav", "a.wav", "b.wav"))
    assert once.shape == (3, 20_000)
    assert torch.equal(once, again)
    assert not torch.allclose(once, other, atol=1e-3)
