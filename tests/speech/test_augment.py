"""Noise has the drawn loudness and colour, and masks one stretch of frames and one of bands."""

import numpy as np
import pytest
import torch

from v2f_core.errors import InputError
from v2f_core.speech.augment import Augmentation, add_noise, mask

OFF = (float("inf"), float("inf"))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def voices(batch=4, samples=20_000, level=0.05):
    return level * torch.randn(batch, samples, generator=generator(9))


# --- noise


def test_each_clip_gets_the_ratio_it_was_given():
    waves, ratio = voices(), torch.tensor([0.0, 10.0, 25.0, 60.0])
    noise = add_noise(waves, ratio, generator()) - waves
    assert not add_noise(torch.zeros(2, 1000), torch.tensor([0.0, 10.0]), generator()).any()  # silence stays silent
    found = 10 * np.log10((waves**2).mean(1).numpy() / (noise**2).mean(1).numpy())
    np.testing.assert_allclose(found, ratio, atol=0.05)


@pytest.mark.parametrize("colour", [0.0, 1.0, 2.0])
def test_power_falls_with_frequency_as_the_colour_says(colour):
    waves = voices(16)
    noise = (add_noise(waves, torch.full((16,), 20.0), generator(), (colour, colour)) - waves).numpy()
    power = (np.abs(np.fft.rfft(noise)) ** 2).mean(0)
    octaves = [power[low : 2 * low].mean() for low in (250, 500, 1000, 2000, 4000)]
    slope = np.polyfit(range(5), np.log2(octaves), 1)[0]
    assert slope == pytest.approx(-colour, abs=0.1)


def test_what_is_too_loud_is_turned_down_not_clipped():
    waves = torch.sin(torch.arange(20_000) / 9.0)[None]  # full scale
    quiet, loud = (add_noise(scale * waves, torch.tensor([6.0]), generator()) for scale in (0.01, 1.0))
    assert loud.abs().max() == pytest.approx(1.0)
    torch.testing.assert_close(loud / loud.abs().max(), quiet / quiet.abs().max(), atol=1e-4, rtol=1e-3)


def test_ratios_are_drawn_between_the_two_and_none_means_none():
    waves = voices(200, 500)
    noise = Augmentation(noise=(5.0, 30.0)).of_waves(waves, generator()) - waves
    found = 10 * torch.log10(waves.square().mean(1) / noise.square().mean(1))
    assert 4.9 < found.min() < 7
    assert 28 < found.max() < 30.1
    assert Augmentation(noise=OFF).of_waves(waves, generator()) is waves


# --- masks


def test_one_stretch_of_frames_and_one_of_bands_becomes_the_mean():
    spectra = torch.randn(40, 50, 30, generator=generator(1))
    found = mask(spectra, 0.2, generator())
    widths = set()
    for before, after in zip(spectra, found, strict=True):
        hidden = (before != after).numpy()
        frames, bands = np.flatnonzero(hidden.all(1)), np.flatnonzero(hidden.all(0))
        for stretch, most in ((frames, 10), (bands, 6)):
            assert len(stretch) <= most
            assert not len(stretch) or stretch[-1] - stretch[0] == len(stretch) - 1
        assert (hidden == (np.isin(np.arange(50), frames)[:, None] | np.isin(np.arange(30), bands))).all()
        np.testing.assert_allclose(after.numpy()[hidden], float(before.mean()), atol=1e-6)
        widths.add(len(frames))
    assert {0, 10} <= widths  # both ends are drawn


def test_no_mask_is_no_change_at_all():
    assert Augmentation(mask=0.0).of_spectrum(generator()) is None


def test_the_same_generator_gives_the_same_clips():
    both = [Augmentation().of_waves(voices(), generator(3)) for _ in range(2)]
    assert torch.equal(*both)
    change = [Augmentation().of_spectrum(generator(3))(torch.ones(2, 5, 5).cumsum(1)) for _ in range(2)]
    assert torch.equal(*change)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"noise": (20.0, 10.0)}, "expected two ratios in dB"),
        ({"noise": (10.0, float("inf"))}, "expected two ratios in dB"),
        ({"mask": 1.0}, "expected a share"),
        ({"mask": float("nan")}, "expected a share"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        Augmentation(**wrong)
