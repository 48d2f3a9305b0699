"""Stand-ins that several tests share: a recogniser, a face pack, and persons with random numbers."""

from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import nn

import minivox
from v2f_core.diffusion.consistency import FaceBatch
from v2f_core.diffusion.lora import lora_parameters
from v2f_core.identity.faces import TEMPLATE
from v2f_core.identity.sphere import normalise
from v2f_core.training.latents import FacePairs
from v2f_core.training.pairs import Pairs

OTHER_VOICE = Path(minivox.__file__).parent / "other_voice.ogg"
SHAPE = (4, 4, 4)  # of the tiny prior's latents


def spoken(seconds, rate=16_000, channels=1, level=0.4):
    """A voice that is no part of MiniVox, from word to word without an end; ``level`` is its peak."""
    words = soundfile.read(OTHER_VOICE, dtype="float32")[0][4_100:117_700]
    wave = np.resize(words, round(seconds * 16_000))
    if rate != 16_000:
        samples = round(seconds * rate)
        wave = np.fft.irfft(np.fft.rfft(wave), samples) * samples / len(wave)
    return np.tile((level * wave / np.abs(wave).max()).astype(np.float32)[:, None], channels)


class Recogniser(nn.Module):
    """A stand-in for f_arc: 48 coarse pixels, turned into 512 numbers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.randn(48, 512, generator=torch.Generator().manual_seed(0)))

    def forward(self, crops):
        return normalise(torch.nn.functional.adaptive_avg_pool2d(crops, 4).flatten(1) @ self.weight)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def unit(rows, seed):
    return normalise(torch.randn(rows, 512, generator=seeded(seed)))


def four_faces():
    """Three women and a man, each with landmarks of their own."""
    return FaceBatch(
        latents=torch.randn(4, *SHAPE, generator=seeded(1)),
        landmarks=torch.from_numpy(TEMPLATE * 32 / 112) + torch.arange(4).view(-1, 1, 1),
        z_arc=unit(4, 2),
        women=torch.tensor([True, True, False, True]),
    )


def wake(prior, scale=0.1):
    """Adapters that do something: B is no longer zero."""
    with torch.no_grad():
        for name, parameter in lora_parameters(prior).items():
            if "lora_B" in name:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=seeded(len(name))))


def people(persons, seed):
    g = torch.Generator().manual_seed(seed)
    z_arc = normalise(torch.randn(2 * persons, 512, generator=g))
    latents = torch.randn(2 * persons, 64, generator=g)
    landmarks = torch.from_numpy(TEMPLATE * 32 / 112).flatten().expand(2 * persons, -1)
    wide = Pairs(
        persons=[f"P{i}" for i in range(persons)],
        sexes=["f" if i % 2 else "m" for i in range(persons)],
        voice=torch.randn(3 * persons, 16, generator=g),
        voice_start=torch.arange(0, 3 * persons + 1, 3),
        face=torch.cat([z_arc, latents, landmarks], dim=1),
        face_start=torch.arange(0, 2 * persons + 1, 2),
    )
    return FacePairs(wide, SHAPE)


class Pack:
    """Sees the mean colour; finds no face in a dark picture."""

    def embed(self, images):
        found = np.array([image.mean() > 5 for image in images])
        z = np.zeros((len(images), 512), np.float32)
        z[:, :3] = [image.mean(axis=(0, 1)) + 1 for image in images]
        return z / np.linalg.norm(z, axis=1, keepdims=True) * found[:, None], found
