"""Solutions to notebook 08. Copy a function over the one in its exercise's cell, then run the checker."""

import torch


def largest_useful_rank(width_in, width_out):
    """Exercise 1. r (in + out) < in · out; in whole numbers, and strictly."""
    return (width_in * width_out - 1) // (width_in + width_out)


def quick_lesson():
    """Exercise 2. A wider detour learns faster at the same rate."""
    return 16, 20


def distil(change, rank, alpha):
    """Exercise 3. The largest singular values and their vectors; α/r is taken out, since the LoRA multiplies by it."""
    u, s, v = torch.linalg.svd(change, full_matrices=False)
    return v[:rank], u[:, :rank] * s[:rank] * rank / alpha
