"""Solutions to notebook 11. Copy a function over the one in its exercise's cell, then run the checker."""

import numpy as np


def is_the_caller(hit, false, others):
    """Exercise 1. Expected true matches over all expected matches."""
    return hit / (hit + false * others)


def same_or_mirrored(ours, theirs, embed, limit=0.999):
    """Exercise 2. The better of two cosines; left and right are the third axis of (n, height, width, 3)."""
    mine = embed(ours)
    likeness = np.maximum(mine @ embed(theirs).T, mine @ embed(theirs[:, :, ::-1]).T)
    return [(int(i), int(j)) for i, j in np.argwhere(likeness > limit)]


def power(gap, n, runs=60, seed=0):
    """Exercise 3. Experiments whose truth is known, each put through the same test (`by_lot` is the notebook's)."""
    lots = np.random.default_rng(seed)
    codes = np.arange(n) % 2
    found = [by_lot(lots.normal(0, 0.3, n) + gap * codes, codes, times=99, seed=run) < 0.05 for run in range(runs)]
    return float(np.mean(found))
