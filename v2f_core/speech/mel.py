"""Kaldi's log-mel filter bank, batched: what an AST hears of a clip."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

HOP, WINDOW, FFT = 160, 400, 512  # 10 ms, 25 ms: Kaldi's filter bank at 16 kHz


def log_mel(
    waves: Float[Tensor, "batch samples"], mel: Float[Tensor, "mels bins"]
) -> Float[Tensor, "batch frames mels"]:
    """Kaldi's log-mel filter bank of whole 25 ms windows every 10 ms, for a batch at once.

    Example:
        >>> log_mel(torch.randn(2, 20_000), torch.rand(128, 257)).shape  # 1 + (20,000 − 400) // 160 frames
        torch.Size([2, 123, 128])
    """
    frames = waves.unfold(1, WINDOW, HOP)
    frames = frames - frames.mean(-1, keepdim=True)
    frames = torch.cat([frames[..., :1] * (1 - 0.97), frames[..., 1:] - 0.97 * frames[..., :-1]], -1)  # pre-emphasis
    window = torch.hann_window(WINDOW, periodic=False, device=waves.device)
    power = torch.fft.rfft(frames * window, FFT).abs().square()
    return (power @ mel.T).clamp_min(torch.finfo(torch.float32).eps).log()


def kaldi_mel(bins: int, sample_rate: int) -> Float[Tensor, "mels bins"]:
    """Kaldi's triangular mel filters from 20 Hz up, one row a filter, over the 257 bins of the spectrum."""
    from torchaudio.compliance.kaldi import get_mel_banks

    banks, _ = get_mel_banks(bins, FFT, sample_rate, 20.0, 0.0, 100.0, -500.0, 1.0)
    return nn.functional.pad(banks, (0, 1))  # Kaldi leaves out the last bin
