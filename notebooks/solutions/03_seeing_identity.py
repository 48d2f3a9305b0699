"""Solutions to notebook 03. Copy a function over the one in its exercise's cell, then run the checker."""

import numpy as np
import torch

from v2f_core.identity import sphere


def largest_l2(mean_cosine):
    """Exercise 1. L2² = 2 − 2·cos; a mean of roots is at most the root of the mean (Jensen: the root is concave)."""
    return np.sqrt(2 - 2 * mean_cosine)


def found_when_enrolled(views, query):
    """Exercise 2. Pool the views on the sphere; a person whose views disagree must not have a shorter vector for it."""
    gallery = sphere.mean_direction(torch.from_numpy(np.ascontiguousarray(views))).numpy()
    return float(((query @ gallery.T).argmax(1) == np.arange(len(query))).mean())


def without_direction(z, direction):
    """Exercise 3. Project onto what is at right angles to the direction, and back onto the sphere.

    The probe still tells the sex: one direction is where two means differ, not all that a net knows of sex. What is
    spread over many directions, or is not linear, stays.
    """
    unit = direction / np.linalg.norm(direction)
    left = z - np.outer(z @ unit, unit)
    return left / np.linalg.norm(left, axis=1, keepdims=True)
