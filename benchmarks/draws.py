"""How good are draws from p(z | v)? Proper scores, calibration of what a face shows, and who is drawn at all.

A point estimate is judged by its distance to the truth. A distribution is judged by a *proper score*: in expectation no
forecaster beats the one who states the true distribution, neither by caution nor by bravado (Gneiting & Raftery 2007).
Arrays of draws are (persons, draws, dim): row i are identities drawn for the voice of person i.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from v2f_core.errors import InputError


def energy_score(
    draws: Float[np.ndarray, "persons draws dim"], truth: Float[np.ndarray, "truths dim"]
) -> Float[np.ndarray, " persons"]:
    """E‖Z − z‖ − E‖Z − Z′‖/2 for each person, from draws Z; least in expectation for the true distribution.

    The second mean is over pairs of *different* draws, so that the score's expectation is that of infinitely many draws
    (the "fair" estimator: Ferro 2014; the score: Gneiting & Raftery 2007, Eq. 22).

    Raises:
        InputError: fewer than two draws a person, or a value that is not finite.

    Example:
        >>> sure = np.array([[[1.0, 0.0], [1.0, 0.0]]])
        >>> energy_score(sure, np.array([[1.0, 0.0]])), energy_score(sure, np.array([[0.0, 1.0]])).round(3)
        (array([0.]), array([1.414]))
    """
    _check(draws, truth, 2)
    count = draws.shape[1]
    scores = np.empty(len(draws))
    for i, (drawn, z) in enumerate(zip(draws.astype(np.float64), truth.astype(np.float64), strict=True)):
        apart = _distances(drawn, drawn).sum() / (count * (count - 1))
        scores[i] = np.linalg.norm(drawn - z, axis=1).mean() - apart / 2
    return scores


def energy_score_of_pool(
    weights: Float[np.ndarray, "persons pool"],
    faces: Float[np.ndarray, "pool dim"],
    truth: Float[np.ndarray, "persons dim"],
) -> Float[np.ndarray, " persons"]:
    """The energy score of a distribution that is known through weights (rows sum to 1) on a pool of others' faces.

    The weights are importance weights: pairs of one face with itself are left out and the rest is scaled up, so that a
    pool of some hundred faces stands for the distribution it was drawn from, and not for itself.

    Raises:
        InputError: a row does not sum to 1, or lies on one face alone.

    Example: any weights on two faces leave only the pair of both.
        >>> energy_score_of_pool(np.array([[0.5, 0.5]]), np.eye(2), np.eye(2)[:1]).round(3)  # 0.707 − 1.414/2
        array([0.])
    """
    if not np.allclose(weights.sum(axis=1), 1, atol=1e-6) or (weights < 0).any():
        raise InputError("weights of a pool: expected rows of numbers from 0 on that sum to 1")
    itself = (weights**2).sum(axis=1)
    if (itself > 1 - 1e-9).any():
        raise InputError("all weight lies on one face of the pool: no pair of faces is left to compare")
    faces, truth = faces.astype(np.float64), truth.astype(np.float64)
    apart = np.einsum("np,np->n", weights @ _distances(faces, faces), weights) / (1 - itself)
    return np.einsum("np,np->n", weights, _distances(truth, faces)) - apart / 2


class Calibration(NamedTuple):
    """How an attribute's draws stand to its truth.

    Attributes:
        pit: probability integral transform: the share of draws below the truth; uniform for the true distribution.
        inside: level → whether the truth lies within the central interval of that level; its mean is the coverage.
    """

    pit: Float[np.ndarray, " persons"]
    inside: dict[float, Bool[np.ndarray, " persons"]]


def calibration(
    draws: Float[np.ndarray, "persons draws"],
    truth: Float[np.ndarray, " truths"],
    levels: tuple[float, ...] = (0.5, 0.9),
) -> Calibration:
    """PIT and coverage of an attribute, such as the age read from each drawn identity and from the true face.

    The truth's rank among n draws has n + 1 places, alike probable under the true distribution (Hamill 2001); the PIT
    is a random point of that place, so that it is uniform for any n and for attributes with few values, such as sex.
    An interval of level L holds the truth where |PIT − ½| ≤ L/2.

    Raises:
        InputError: no draws, or a value that is not finite.

    Example:
        >>> draws = np.random.default_rng(0).standard_normal((4000, 50))
        >>> found = calibration(draws, np.random.default_rng(1).standard_normal(4000))
        >>> {level: float(inside.mean().round(1)) for level, inside in found.inside.items()}
        {0.5: 0.5, 0.9: 0.9}
    """
    _check(draws, truth, 1)
    below = (draws < truth[:, None]).sum(axis=1)
    tied = (draws == truth[:, None]).sum(axis=1)
    place = below + np.random.default_rng(0).random(len(truth)) * (tied + 1)
    pit = place / (draws.shape[1] + 1)
    return Calibration(pit, {level: np.abs(pit - 0.5) <= level / 2 for level in levels})


def between_voices(draws: Float[np.ndarray, "persons draws dim"], groups: Shaped[np.ndarray, " persons"]) -> float:
    """The mean cosine of faces drawn for two *different* voices of one group, such as a sex; groups count alike.

    A mean face gives 1, photographs of different persons a few hundredths.
    """
    found = []
    for group in np.unique(groups):
        mean = draws[groups == group].astype(np.float64).mean(axis=1)
        if len(mean) < 2:
            raise InputError(f"group {group}: one voice, of which no two can be compared")
        cosines = mean @ mean.T
        found.append((cosines.sum() - np.trace(cosines)) / (len(mean) * (len(mean) - 1)))
    return float(np.mean(found))


def _check(draws: np.ndarray, truth: np.ndarray, least: int) -> None:
    if draws.shape[1] < least or len(draws) != len(truth):
        raise InputError(f"draws of shape {draws.shape} for {len(truth)} truths: expected at least {least} for each")
    if not (np.isfinite(draws).all() and np.isfinite(truth).all()):
        raise InputError("a draw or a truth is NaN or infinite: leave persons out of whom it is not known")


def _distances(a: Float[np.ndarray, "n dim"], b: Float[np.ndarray, "m dim"]) -> Float[np.ndarray, "n m"]:
    square = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    if a is b:
        np.fill_diagonal(square, 0)  # rounding would leave 1e-8, whose root is 1e-4
    return np.sqrt(np.maximum(square, 0))
