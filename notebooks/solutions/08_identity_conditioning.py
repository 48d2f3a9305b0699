"""Solutions to notebook 08. Copy a function over the one in its exercise's cell, then run the checker."""

import torch

from v2f_core.identity import sphere


def largest_useful_rank(width_in, width_out):
    """Exercise 1. r (in + out) < in · out; in whole numbers, and strictly."""
    return (width_in * width_out - 1) // (width_in + width_out)


def walk_degrees(a, b, degrees):
    """Exercise 2. Equal shares are equal angles, so that the share is the angle over the whole angle."""
    return sphere.slerp(a, b, torch.deg2rad(torch.tensor(degrees)) / sphere.angle(a, b))


def distil(change, rank, alpha):
    """Exercise 3. The largest singular values and their vectors; α/r is taken out, since the LoRA multiplies by it."""
    u, s, v = torch.linalg.svd(change, full_matrices=False)
    return v[:rank], u[:, :rank] * s[:rank] * rank / alpha
