"""Solutions to notebook 10. Copy a function over the one in its exercise's cell, then run the checker."""

import numpy as np


def recall_of_sex(women, men, k):
    """Exercise 1. Within each half it is chance, and a half of k or fewer is found surely."""
    found = women * min(1, k / women) + men * min(1, k / men)
    return found / (women + men)


def interval(values, person):
    """Exercise 2. First one value a person, then resample persons."""
    means = np.array([values[person == one].mean() for one in np.unique(person)])
    drawn = np.random.default_rng(0).integers(0, len(means), (4000, len(means)))
    return tuple(np.quantile(means[drawn].mean(axis=1), [0.025, 0.975]))


def possible(cosine, l2, r5, r10, vfs, persons):
    """Exercise 3. Jensen's bound, nested sets, a split's images, and whole persons."""
    bound = np.sqrt(2 - 2 * (cosine - 0.0005))
    split = persons // 5 + (persons % 5 > 0)
    whole = all(any(round(100 * n / persons, 1) == r for n in range(persons + 1)) for r in (r5, r10))
    return bool(l2 - 0.005 <= bound and r5 <= r10 and vfs <= split and whole)
