"""Same person or not, by a score: both kinds of error at every threshold, and the rate at which they meet.

The meter of speaker and of face recognition. It knows nothing of thresholds chosen beforehand: an equal error rate says
how well a score *could* separate, on these pairs; a threshold that is carried to other data has other errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from v2f_core.errors import InputError
from v2f_core.evaluation.intervals import Interval


class ErrorRates(NamedTuple):
    """Errors of the rule "same person if the score is at least the threshold", one entry a threshold, rising.

    Attributes:
        threshold: every score that occurs.
        missed: share of pairs of one person below the threshold (false rejections).
        accepted: share of pairs of two persons at or above it (false acceptances).
    """

    threshold: Float[np.ndarray, " thresholds"]
    missed: Float[np.ndarray, " thresholds"]
    accepted: Float[np.ndarray, " thresholds"]


def pair_cosines(
    vectors: Float[np.ndarray, "n dim"], person: Shaped[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " same"], Float[np.ndarray, " different"]]:
    """The cosines of all pairs of vectors: pairs of one person, and pairs of two.

    Args:
        vectors: of norm 1, one a recording or photograph.
        person: whose each is.

    Example:
        >>> same, different = pair_cosines(np.eye(2)[[0, 0, 1]], np.array(["Ada", "Ada", "Bo"]))
        >>> same.tolist(), different.tolist()
        ([1.0], [0.0, 0.0])
    """
    i, j = np.triu_indices(len(person), 1)
    cosine, same = (vectors[i] * vectors[j]).sum(1), person[i] == person[j]
    return cosine[same], cosine[~same]


def error_rates(same: Float[np.ndarray, " same"], different: Float[np.ndarray, " different"]) -> ErrorRates:
    """Both errors at every threshold.

    Args:
        same: scores of pairs of one person.
        different: scores of pairs of two persons.

    Raises:
        InputError: there are no pairs of one kind, or a score is NaN.

    Example:
        >>> error_rates(np.array([0.9]), np.array([0.1])).accepted.tolist()
        [1.0, 0.0]
    """
    if not (len(same) and len(different)):
        raise InputError(f"{len(same)} pairs of one person, {len(different)} of two: expected at least one of each")
    if np.isnan(same).any() or np.isnan(different).any():
        raise InputError("a score is NaN and cannot be compared; check the vectors that it comes from")
    threshold = np.unique(np.concatenate([same, different]))
    missed = np.searchsorted(np.sort(same), threshold) / len(same)
    accepted = 1 - np.searchsorted(np.sort(different), threshold) / len(different)
    return ErrorRates(threshold, missed, accepted)


def equal_error_rate(same: Float[np.ndarray, " same"], different: Float[np.ndarray, " different"]) -> float:
    """The error where misses and false acceptances are as frequent: 0 separates perfectly, 0.5 is chance.

    At the threshold where the two are closest, their mean.

    Raises:
        InputError: as :func:`error_rates`.

    Example:
        >>> equal_error_rate(np.array([0.9, 0.8]), np.array([0.1, 0.2]))
        0.0
    """
    _, missed, accepted = error_rates(same, different)
    at = int(np.abs(missed - accepted).argmin())
    return float((missed[at] + accepted[at]) / 2)


def area_under_roc(same: Float[np.ndarray, " same"], different: Float[np.ndarray, " different"]) -> float:
    """How often a pair of one person scores above a pair of two, ties half: 1 separates perfectly, 0.5 is chance.

    Raises:
        InputError: as :func:`error_rates`.

    Example:
        >>> area_under_roc(np.array([0.9, 0.5]), np.array([0.5, 0.1]))
        0.875
    """
    _, missed, accepted = error_rates(same, different)
    hit, false = np.append(1 - missed, 0), np.append(accepted, 0)  # the last threshold is above every score
    return float(((hit[:-1] + hit[1:]) / 2 * (false[:-1] - false[1:])).sum())


def min_dcf(
    same: Float[np.ndarray, " same"],
    different: Float[np.ndarray, " different"],
    p_target: float = 0.05,
    cost_missed: float = 1.0,
    cost_accepted: float = 1.0,
) -> float:
    """The least detection cost over thresholds: 0 separates perfectly, 1 is no better than one answer for all pairs.

    cost_missed·missed·p_target + cost_accepted·accepted·(1 − p_target), over the cost of the better constant answer
    (NIST's speaker recognition evaluations). It says nothing without its p_target: 0.05 and 0.01 are both in use.

    Args:
        same, different: as for :func:`error_rates`.
        p_target: how often a pair is of one person, in the use that is imagined (not in these pairs).
        cost_missed, cost_accepted: of one error of each kind.
    Raises:
        InputError: as :func:`error_rates`; p_target not between 0 and 1, or a cost that is not above 0.

    Example:
        >>> min_dcf(np.array([0.9, 0.3]), np.array([0.5, 0.1]), p_target=0.5)
        0.5
    """
    if not (0 < p_target < 1 and cost_missed > 0 and cost_accepted > 0):
        raise InputError(
            f"p_target {p_target}, costs {cost_missed}, {cost_accepted}: expected 0 < p_target < 1 and costs above 0"
        )
    _, missed, accepted = error_rates(same, different)
    on_missed, on_accepted = cost_missed * p_target, cost_accepted * (1 - p_target)
    cost = on_missed * np.append(missed, 1) + on_accepted * np.append(accepted, 0)
    return float(cost.min() / min(on_missed, on_accepted))


def person_interval(
    measure: Callable[[Float[np.ndarray, " same"], Float[np.ndarray, " different"]], float],
    scores: Float[np.ndarray, "n n"],
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """A measure over all pairs of voices (rows) and faces (columns), with an interval over *persons*.

    n persons make n² pairs, which are no n² independent trials: whoever sounds like everybody spoils a whole row. So
    persons are resampled, with all their pairs, and not pairs. A person drawn twice makes no pair of two persons with
    themselves. The interval is by percentiles; for measures that are means over persons ``bootstrap`` has a better one.

    Args:
        measure: :func:`equal_error_rate`, :func:`area_under_roc` or :func:`min_dcf`.
        scores: person i's voice against everybody's face, the truth on the diagonal.
        resamples, level, seed: of the bootstrap.
    Raises:
        InputError: fewer than three persons.

    Example:
        >>> print(person_interval(area_under_roc, np.eye(20)))
        1.000 [1.000, 1.000]
    """
    n = len(scores)
    if n < 3:
        raise InputError(f"a bootstrap over {n} persons: expected at least 3")

    def of(rows: Shaped[np.ndarray, " n"]) -> float:
        return measure(scores[rows, rows], scores[np.ix_(rows, rows)][rows[:, None] != rows])

    generator = np.random.default_rng(seed)
    draws = (generator.integers(0, n, n) for _ in range(resamples))
    sample = [of(rows) for rows in draws if np.ptp(rows)]  # of one person alone there is no pair of two
    low, high = np.quantile(sample, [(1 - level) / 2, (1 + level) / 2])
    return Interval(of(np.arange(n)), float(low), float(high))
