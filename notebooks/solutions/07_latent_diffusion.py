"""Solutions to notebook 07. Copy a function over the one in its exercise's cell, then run the checker."""

import torch


def numbers(side):
    """Exercise 1. Three colours at every pixel; four channels at every eighth pixel of every eighth row."""
    picture, latents = 3 * side**2, 4 * (side // 8) ** 2
    return picture, latents, picture / latents


def noise_from_x0(z_t, a, guess):
    """Exercise 2. z_t = √ᾱ z_0 + √(1 − ᾱ) ε, solved for ε."""
    return (z_t - a.sqrt() * guess) / (1 - a).sqrt()


def redraw(prior, z_0, c, start, generator):
    """Exercise 3. Noise to the first timestep; then guess, and noise the guess again, to the next smaller one."""
    times = torch.linspace(start, 1, 10).round().long()
    z = prior.add_noise(z_0, torch.randn(z_0.shape, generator=generator), times[:1])
    for t, after in zip(times, [*times[1:], None], strict=True):
        noise = prior.predict(z, t, c)
        guess = prior.one_step_x0(z, t[None], noise)
        z = guess if after is None else prior.add_noise(guess, noise, after[None])
    return z
