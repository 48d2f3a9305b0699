"""What a similarity is worth as evidence: from a score to the probability that two pictures are of one person."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer

from v2f_core.errors import InputError

Calibration = Callable[[Float[np.ndarray, " scores"]], Float[np.ndarray, " scores"]]
METHODS = ("isotonic", "logistic")


def calibrate(
    same: Float[np.ndarray, " same"], different: Float[np.ndarray, " different"], method: str = "isotonic"
) -> Calibration:
    """Learn, from pairs whose truth is known, a rising map from a score to the probability of "the same person".

    The probability holds for pairs like these *and as often the same* as these: fitted on as many of each, it answers
    for even odds. Fit on validation, look at :func:`reliability` on test.

    Args:
        same: scores of pairs of one person.
        different: scores of pairs of two persons.
        method: "isotonic" (any rising steps; wants a thousand pairs) or "logistic" (one S-curve, for fewer).
    Raises:
        InputError: an unknown method, no pairs of one kind, or NaN.

    Example:
        >>> probability = calibrate(np.array([0.5, 0.8, 0.9]), np.array([0.1, 0.2, 0.6]))
        >>> probability(np.array([0.0, 0.55, 1.0]))
        array([0. , 0.5, 1. ])
    """
    from sklearn.isotonic import IsotonicRegression
    from sklearn.linear_model import LogisticRegression

    if method not in METHODS:
        raise InputError(f"{method!r}: no such calibration; choose {' or '.join(METHODS)}")
    scores = np.concatenate([same, different]).astype(np.float64)
    if not (len(same) and len(different)) or not np.isfinite(scores).all():
        raise InputError(f"{len(same)} pairs of one person, {len(different)} of two: expected some of each, and no NaN")
    truth = np.repeat([1.0, 0.0], [len(same), len(different)])
    if method == "isotonic":
        steps = IsotonicRegression(y_min=0, y_max=1, increasing=True, out_of_bounds="clip").fit(scores, truth)
        return lambda x: np.asarray(steps.predict(x.astype(np.float64)), np.float64)
    centre, spread = scores.mean(), scores.std() or 1.0  # so that the slight pull to 0 is alike for every scale
    curve = LogisticRegression().fit((scores - centre)[:, None] / spread, truth)
    return lambda x: curve.predict_proba((x.astype(np.float64) - centre)[:, None] / spread)[:, 1]


class Reliability(NamedTuple):
    """The reliability curve, bin by bin, and its summary.

    Attributes:
        said: mean probability that was said in each bin; NaN where the bin is empty.
        found: share of pairs in it that are of one person.
        pairs: how many there are in it.
        ece: expected calibration error, the mean |said − found| over pairs: 0 is calibrated. It grows as bins thin out.
    """

    said: Float[np.ndarray, " bins"]
    found: Float[np.ndarray, " bins"]
    pairs: Integer[np.ndarray, " bins"]
    ece: float


def reliability(
    probability: Float[np.ndarray, " pairs"], same: Bool[np.ndarray, " pairs"], bins: int = 10
) -> Reliability:
    """Do pairs said to be the same with 70 % turn out so in 70 %? In bins of equal width from 0 to 1.

    Raises:
        InputError: no pairs, a probability outside 0 … 1, or no bins.

    Example:
        >>> reliability(np.array([0.1, 0.1, 0.9, 0.9]), np.array([False, False, True, False]), bins=2).ece
        0.25
    """
    if not len(probability) or bins < 1 or not ((probability >= 0) & (probability <= 1)).all():
        raise InputError(f"{len(probability)} probabilities in {bins} bins: expected some, all between 0 and 1")
    place = np.minimum((probability * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    said, found = (np.bincount(place, weights=x.astype(np.float64), minlength=bins) for x in (probability, same))
    mean = [np.divide(x, count, out=np.full(bins, np.nan), where=count > 0) for x in (said, found)]
    return Reliability(mean[0], mean[1], count, float(np.abs(said - found).sum() / count.sum()))
