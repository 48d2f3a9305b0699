"""Solutions to notebook 05. Copy a function over the one in its exercise's cell, then run the checker."""

from dataclasses import replace

import numpy as np


def loss_of_sex(n, a, b, tau):
    """Exercise 1. The sum of Eq. 9 has n/2 terms of each sex; for τ → 0 this is ln(n/2)."""
    return np.log(n / 2) + np.log1p(np.exp((b - a) / tau))


def recall_within(scores, sexes, k):
    """Exercise 2. Rank the own face among those of the own sex only; whatever is not below it stands before it."""
    not_below = (scores >= np.diag(scores)[:, None]) & (sexes[:, None] == sexes)
    return float((not_below.sum(1) <= k).mean())


def only_cosine(settings):
    """Exercise 3. λ_AM = λ_Info = 0."""
    return replace(settings, weight_am=0.0, weight_info=0.0)
