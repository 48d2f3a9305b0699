"""Recordings as a microphone hears them in a room, by the image method (Allen & Berkley 1979).

A room moves GE2E's v_spk, and its weights stay as they were published. So the aligner has to learn which directions
rooms move: it meets each recording clean and in rooms. MiniVox's own recordings were made in milder ones, a short tail
of noise (`minivox.build.voice.room`).
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from scipy.signal import fftconvolve
from torch import Tensor

from minivox.build.aligner import Inputs, speech_folder
from v2f_core.artefacts.files import folder_hash
from v2f_core.artefacts.profiles import load_profile
from v2f_core.artefacts.store import extract, load
from v2f_core.data.voxceleb import read_layout
from v2f_core.speech.audio import SAMPLE_RATE, clips, read_audio
from v2f_core.speech.encoders import embed_windows, load_encoder
from v2f_core.training.pairs import Pairs, pair_up

SOUND = 343.0  # m/s
ROOMS = 150  # that the recordings are divided among
LOUD = 0.25  # the share of recordings that are driven into the recorder's limit, by up to 20 dB
METRES, ABSORBED = (0.3, 2.0), (0.15, 0.6)  # from the mouth; the share of the power that a wall takes
Point = Float[np.ndarray, " xyz"]


def impulse_response(
    size: Point, talker: Point, microphone: Point, absorbed: float, seconds: float = 0.3
) -> Float32[np.ndarray, " samples"]:
    """What a box-shaped room makes of a click. Lengths in metres; 1 at time 0, where the direct sound arrives.

    Example:
        >>> room, talker = np.array([4.0, 3.0, 2.5]), np.array([1.0, 1.0, 1.5])
        >>> response = impulse_response(room, talker, talker + [0.5, 0, 0], absorbed=1.0)  # no wall gives anything back
        >>> response[0], response[1:].any()
        (np.float32(1.0), np.False_)
    """
    metres, reach, axes = float(np.linalg.norm(microphone - talker)), SOUND * seconds, []
    for length, from_, to in zip(size, talker, microphone, strict=True):
        turns = np.arange(-int(reach / length) - 1, int(reach / length) + 2)
        # images at 2nL ± x: the way along this axis, and how many walls it met
        way = np.concatenate([2 * turns * length + from_ - to, 2 * turns * length - from_ - to])
        axes.append((way, np.concatenate([2 * np.abs(turns), np.abs(turns) + np.abs(turns - 1)])))
    (x, a), (y, b), (z, c) = axes
    distance = np.sqrt((x**2)[:, None, None] + (y**2)[None, :, None] + (z**2)[None, None, :])
    near = distance < metres + reach
    walls, distance = (a[:, None, None] + b[None, :, None] + c[None, None, :])[near], distance[near]
    sample = np.rint((distance - metres) / SOUND * SAMPLE_RATE).astype(int)
    within = sample < int(seconds * SAMPLE_RATE)
    gain = (1 - absorbed) ** (walls / 2) * metres / distance
    return np.bincount(sample[within], gain[within]).astype(np.float32)


def draw_response(rng: np.random.Generator) -> Float32[np.ndarray, " samples"]:
    """The response of a random room, with a talker and a microphone somewhere in it, at least 0.1 m from the walls."""
    low, high = np.log(METRES)
    while True:
        size, towards = rng.uniform([2.5, 2.5, 2.2], [7.0, 6.0, 3.2]), rng.standard_normal(3) * [1.0, 1.0, 0.3]
        talker = rng.uniform(0.4, size - 0.4)
        microphone = talker + np.exp(rng.uniform(low, high)) * towards / np.linalg.norm(towards)
        if (microphone > 0.1).all() and (microphone < size - 0.1).all():
            return impulse_response(size, talker, microphone, rng.uniform(*ABSORBED), seconds=0.4)


@cache
def room(index: int) -> Float32[np.ndarray, " samples"]:
    """The response of one of the rooms."""
    return draw_response(np.random.default_rng([0, index]))


def read_in_room(path: Path, seconds: float) -> Float[Tensor, "clips samples"]:
    """A recording's windows as one of the rooms changes it; the file's name decides which."""
    rng = np.random.default_rng([0, zlib.crc32("/".join(path.parts[-3:]).encode())])
    wave = read_audio(path).numpy()
    wave = fftconvolve(wave, room(int(rng.integers(ROOMS))))[: len(wave)]
    if rng.random() < LOUD:
        wave = np.clip(wave * 10 ** rng.uniform(0, 1), -1, 1)
    return clips(torch.from_numpy(wave.astype(np.float32)), seconds)


def in_rooms(inputs: Inputs, work: Path, encoder: str, root: Path, tiny: bool = False) -> Inputs:
    """The same persons, every recording heard clean and in a room; embedded once, in a store."""
    weights, seconds = speech_folder(work, encoder), load_profile("mini").clip_seconds
    manifest, folder = read_layout(root), work / "embedded" / root.name
    items = [path for split in ("train", "val") for path in manifest.voices(split).path]
    provenance = {"what": "voices in rooms", "weights_sha256": folder_hash(weights), "seconds": seconds}
    embed, read = partial(embed_windows, load_encoder(encoder, weights)), partial(read_in_room, seconds=seconds)
    how: dict[str, Any] = {"max_bad": 1.0 if tiny else 0.05, "describe": "voices in rooms"}
    voices = extract(root, items, embed, folder / f"{encoder}_in_rooms", provenance, decode=read, **how)
    faces = load(folder / "faces")
    return inputs._replace(
        training=also_heard(inputs.training, pair_up(manifest, voices, faces, "train")),
        validation=also_heard(inputs.validation, pair_up(manifest, voices, faces, "val")),
    )


def also_heard(pairs: Pairs, other: Pairs) -> Pairs:
    """The same persons with the other's rows added to their voices.

    Example:
        >>> one = Pairs(["a", "b"], ["f", "m"], torch.eye(2), torch.arange(3), torch.eye(2), torch.arange(3))
        >>> both = also_heard(one, one)
        >>> both.voice_start.tolist(), both.voice.tolist()
        ([0, 2, 4], [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    """
    assert other.persons == pairs.persons
    bounds = zip(*(pairwise(each.voice_start.tolist()) for each in (pairs, other)), strict=True)
    rows = [torch.cat([pairs.voice[a:b], other.voice[c:d]]) for (a, b), (c, d) in bounds]
    return replace(pairs, voice=torch.cat(rows), voice_start=torch.tensor([0, *map(len, rows)]).cumsum(0))
