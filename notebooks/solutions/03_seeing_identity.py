"""Solutions to notebook 03. Copy a function over the one in its exercise's cell, then run the checker."""

import numpy as np

from v2f_core.identity import sphere


def largest_l2(mean_cosine):
    """Exercise 1. L2² = 2 − 2·cos; a mean of roots is at most the root of the mean (Jensen: the root is concave)."""
    return np.sqrt(2 - 2 * mean_cosine)


def mean_angle(margin):
    """Exercise 2. `train` is the notebook's. The angle falls with the margin until the net can do no better."""
    points, centres, label = train(margin)
    return sphere.angle(points, centres[label]).rad2deg().mean().item()


def without_direction(z, direction):
    """Exercise 3. Project onto what is at right angles to the direction, and back onto the sphere.

    The probe still tells the sex: one direction is where two means differ, not all that a net knows of sex. What is
    spread over many directions, or is not linear, stays.
    """
    unit = direction / np.linalg.norm(direction)
    left = z - np.outer(z @ unit, unit)
    return left / np.linalg.norm(left, axis=1, keepdims=True)
