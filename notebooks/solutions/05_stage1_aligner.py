"""Solutions to notebook 05. Copy a function over the one in its exercise's cell, then run the checker."""

import numpy as np
import torch


def loss_of_sex(n, a, b, tau):
    """Exercise 1. The sum of Eq. 9 has n/2 terms of each sex; for τ → 0 this is ln(n/2)."""
    return np.log(n / 2) + np.log1p(np.exp((b - a) / tau))


def recall_within(scores, sexes, k):
    """Exercise 2. Rank the own face among those of the own sex only."""
    better = (scores > np.diag(scores)[:, None]) & (sexes[:, None] == sexes)
    return float((better.sum(1) < k).mean())


def two_sided(z_hat, z, person, tau):
    """Exercise 3. Who is no negative of whom is symmetric, so that one mask serves both directions."""
    logits = z_hat @ z.T / tau
    same = (person[:, None] == person) & ~torch.eye(len(person), dtype=torch.bool)
    logits = logits.masked_fill(same, -torch.inf)
    return ((torch.logsumexp(logits, 0) + torch.logsumexp(logits, 1)) / 2 - logits.diagonal()).mean()
