"""Spectrograms of the training recordings, computed once, and their augmentation, done anew at every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from minivox.build.speech_folders import AST_FRAMES, ECAPA_MELS

LN, DECIBEL = 1.0, 10 / np.log(10)  # a natural logarithm of power, in the units of each filter bank


class Spectrograms(NamedTuple):
    """Log-mel spectrograms of many recordings, end to end, as float16 to keep them in memory."""

    frames: Float[Tensor, "frames mels"]
    start: Int[Tensor, " recordings"]
    length: Int[Tensor, " recordings"]

    def crops(
        self, which: Int[Tensor, " batch"], frames: int, g: torch.Generator
    ) -> Float[Tensor, "batch frames mels"]:
        """A random stretch of each of the chosen recordings.

        Example:
            >>> s = Spectrograms(torch.arange(20.0)[:, None], torch.tensor([0, 8]), torch.tensor([8, 12]))
            >>> s.crops(torch.tensor([0]), 8, torch.Generator()).flatten().tolist()
            [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
        """
        room = self.length[which] - frames + 1
        first = self.start[which] + (torch.rand(len(which), generator=g) * room).long()
        return self.frames[first[:, None] + torch.arange(frames)].float()


def ast_filter_bank() -> Callable[[Tensor], Tensor]:
    """AST's log-mel spectrogram before its normalisation (natural logarithm)."""
    from v2f_core.speech.encoders import kaldi_mel, log_mel

    mel = kaldi_mel(128)
    return lambda waves: log_mel(waves, mel)


def ecapa_filter_bank() -> Callable[[Tensor], Tensor]:
    """ECAPA's log-mel spectrogram before the mean is taken off (decibels)."""
    from speechbrain.lobes.features import Fbank

    return Fbank(n_mels=ECAPA_MELS)


def spectrograms(waves: Sequence[np.ndarray], filter_bank: Callable[[Tensor], Tensor], least: int) -> Spectrograms:
    """Those of all ``waves`` (int16, 16 kHz); a wave of fewer than ``least`` frames is repeated until it has them."""
    parts = []
    for wave in tqdm(waves, desc="spectrograms"):
        repeats = -(-(least + 3) * 160 // len(wave))
        whole = torch.from_numpy(np.tile(wave, repeats).astype(np.float32) / 32_768)
        with torch.no_grad():
            parts.append(filter_bank(whole[None])[0].half())
    length = torch.tensor([len(part) for part in parts])
    return Spectrograms(torch.cat(parts), length.cumsum(0) - length, length)


def augment(
    x: Float[Tensor, "batch frames mels"], unit: float, g: torch.Generator
) -> Float[Tensor, "batch frames mels"]:
    """Another loudness, microphone and background for each clip, then a masked stretch of time and of frequency.

    Noise adds in power, so it fills the valleys and leaves the peaks: log(e^speech + e^noise). Pitch and vocal-tract
    length are left alone: they are what the encoder shall hear.

    Args:
        x: log-mel spectrograms.
        unit: what a natural logarithm of 1 is in x's units.
        g: draws everything.
    """
    batch, frames, mels = x.shape
    x = x / unit
    level = x.flatten(1).logsumexp(1) - np.log(frames * mels)
    snr = (10 + 35 * torch.rand(batch, generator=g)) * np.log(10) / 10  # 10 to 45 dB
    hiss = 0.5 * torch.randn(x.shape, generator=g)
    x = torch.logaddexp(x, (level - snr)[:, None, None] + 1.2 * _smooth(batch, mels, g)[:, None] + hiss)
    x = x + 0.2 * _smooth(batch, mels, g)[:, None] + 3 * (torch.rand(batch, generator=g)[:, None, None] - 0.5)
    mean = x.mean((1, 2), keepdim=True)
    x = torch.where(_masked(batch, frames, 16, g)[:, :, None] | _masked(batch, mels, 10, g)[:, None], mean, x)
    return x * unit


def _smooth(batch: int, mels: int, g: torch.Generator) -> Tensor:
    """A random curve over frequency from four slow cosines."""
    waves = torch.cos(torch.pi * torch.arange(1, 5)[:, None] * (torch.arange(mels) + 0.5) / mels)
    return torch.randn(batch, 4, generator=g) @ waves


def _masked(batch: int, size: int, longest: int, g: torch.Generator) -> Tensor:
    width = torch.rand(batch, 1, generator=g) * longest
    first = torch.rand(batch, 1, generator=g) * (size - width)
    place = torch.arange(size)
    return (place >= first) & (place < first + width)


def to_ast(x: Float[Tensor, "batch frames mels"]) -> Float[Tensor, "batch padded mels"]:
    """Pad and normalise as ``ASTFeatureExtractor`` does by default."""
    padded = torch.nn.functional.pad(x, (0, 0, 0, AST_FRAMES - x.shape[1]))
    return (padded + 4.2677393) / (2 * 4.5689974)


def to_ecapa(x: Float[Tensor, "batch frames mels"]) -> Float[Tensor, "batch frames mels"]:
    """Take the mean over time off, as ``InputNormalization`` does per sentence."""
    return x - x.mean(1, keepdim=True)
