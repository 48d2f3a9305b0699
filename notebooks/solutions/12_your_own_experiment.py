"""Solutions to notebook 12. Copy a function over the one in its exercise's cell, then run the checker."""

import torch


def leaks(table):
    """Exercise 1. Too many splits in a group of one person, or of one file."""
    found = set()
    for column in ("person", "sha256"):
        splits = table.groupby(column)["split"].transform("nunique")
        found |= set(table.person[splits > 1])
    return found


def embed_pitch(waves):
    """Exercise 2. The autocorrelation is the inverse transform of the power spectrum (zeros keep it from wrapping)."""
    power = torch.fft.rfft(waves, 2 * waves.shape[1]).abs().square()
    shortest, longest = 16_000 // 400, 16_000 // 80
    lag = torch.fft.irfft(power)[:, shortest : longest + 1].argmax(dim=1) + shortest
    return (16_000 / lag).log()[:, None]


def luck(seeds, sd):
    """Exercise 3. The mean of the largest of some normal numbers, by numerical integration."""
    x = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    density = seeds * normal.log_prob(x).exp() * normal.cdf(x) ** (seeds - 1)
    return sd * float(torch.trapezoid(x * density, x))
