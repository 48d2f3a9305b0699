"""Augmentation of clips in training: noise of random loudness and colour, and masked parts of the spectrogram.

Pitch, formants and tempo are not changed: they carry information about the speaker's body.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from v2f_core.errors import InputError

COLOURS = (0.0, 2.0)  # noise of power ∝ 1 / f^colour: from white over pink to brown


@dataclass(frozen=True)
class Augmentation:
    """How clips are changed in training. Not in the paper.

    Attributes:
        noise: signal-to-noise ratios in dB, drawn evenly between these two; ``(inf, inf)`` adds no noise.
        mask: the largest share of the frames, and of the mel bands, that is masked; 0 masks none. SpecAugment (Park et
            al. 2019) masks at most 27 of 80 bands, AST's own training (Gong et al. 2021) 48 of 128.
    Raises:
        InputError: the ratios are not two ascending numbers, or the share lies outside [0, 1).

    Example:
        >>> Augmentation(noise=(40.0, 10.0))
        Traceback (most recent call last):
        v2f_core.errors.InputError: noise=(40.0, 10.0): expected two ratios in dB, the louder noise (the lower) first, …
    """

    noise: tuple[float, float] = (10.0, 40.0)
    mask: float = 0.15

    def __post_init__(self) -> None:
        low, high = self.noise
        if not low <= high or not (low == torch.inf or math.isfinite(high - low)):
            raise InputError(
                f"noise={self.noise}: expected two ratios in dB, the louder noise (the lower) first, such as 10 40; or "
                "inf inf for none"
            )
        if not 0 <= self.mask < 1:
            raise InputError(f"mask={self.mask}: expected a share from 0 up to 1, such as 0.15")

    def of_waves(
        self, waves: Float[Tensor, "batch samples"], generator: torch.Generator
    ) -> Float[Tensor, "batch samples"]:
        """The clips with noise added."""
        low, high = self.noise
        if low == torch.inf:
            return waves
        ratio = low + (high - low) * torch.rand(len(waves), generator=generator)
        return add_noise(waves, ratio.to(waves), generator)

    def of_spectrum(self, generator: torch.Generator) -> Callable[[Tensor], Tensor] | None:
        """A function that masks an encoder's log-mel spectrogram; None where nothing is masked."""
        return partial(mask, share=self.mask, generator=generator) if self.mask else None


def add_noise(
    waves: Float[Tensor, "batch samples"],
    ratio: Float[Tensor, " batch"],
    generator: torch.Generator,
    colours: tuple[float, float] = COLOURS,
) -> Float[Tensor, "batch samples"]:
    """Add Gaussian noise, ``ratio`` dB below the clip's mean power; its colour is drawn between two for each clip.

    A sum beyond full scale is scaled down, not clipped: clipping would distort it.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> wave = 0.1 * torch.randn(1, 16_000, generator=g)
        >>> noise = add_noise(wave, torch.tensor([20.0]), g) - wave
        >>> round(float(10 * (wave.square().mean() / noise.square().mean()).log10()), 2)
        20.0
    """
    batch, samples = waves.shape
    low, high = colours
    colour = low + (high - low) * torch.rand(batch, 1, generator=generator)
    spectrum = torch.fft.rfft(torch.randn(batch, samples, generator=generator))
    frequency = torch.arange(spectrum.shape[1]).clamp(min=1)
    noise = torch.fft.irfft(spectrum * frequency ** (-colour / 2), samples).to(waves)
    power = waves.square().mean(1) / noise.square().mean(1)
    sum_ = waves + noise * (power.sqrt() * 10 ** (-ratio / 20))[:, None]
    return sum_ / sum_.abs().amax(1, keepdim=True).clamp(min=1)


def mask(
    spectrum: Float[Tensor, "batch frames mels"], share: float, generator: torch.Generator
) -> Float[Tensor, "batch frames mels"]:
    """Mask one stretch of frames and one of bands in each spectrogram by the spectrogram's mean.

    The length of a stretch is drawn from 0 to ``share`` of the axis, then its place. This is SpecAugment without time
    warping, which would change the tempo.

    Example:
        >>> hidden = mask(torch.randn(2, 100, 40), 0.2, torch.Generator().manual_seed(0))
        >>> hidden.shape
        torch.Size([2, 100, 40])
    """
    batch, frames, mels = spectrum.shape
    hidden = _stretch(batch, frames, share, generator)[:, :, None] | _stretch(batch, mels, share, generator)[:, None]
    return torch.where(hidden.to(spectrum.device), spectrum.mean((1, 2), keepdim=True), spectrum)


def _stretch(batch: int, size: int, share: float, generator: torch.Generator) -> Tensor:
    width = (torch.rand(batch, 1, generator=generator) * (int(share * size) + 1)).floor()
    first = (torch.rand(batch, 1, generator=generator) * (size - width + 1)).floor()
    place = torch.arange(size)
    return (place >= first) & (place < first + width)
