"""Solutions to notebook 01. Copy an answer over the one in its exercise's cell, then run the checker."""

letters = "ACBD"  # Exercise 1. By looking at `order`; nobody can know all four by ear.


def blind_recall(k, n, groups):
    """Exercise 2. Whoever knows the group has n / groups faces left to guess among."""
    return min(1.0, k * groups / n)


def leaks(table):
    """Exercise 3. A person in more than one split has more than one value there."""
    splits = table.groupby("person").split.nunique()
    return set(splits[splits > 1].index)
