"""The best possible results in MiniVox's world: the likelihood of a voice given a face, and three ceilings.

Given the voice parameters u (after their noise) and the unit identity z of the face:

- C_mean = E‖E[z | u]‖, the best expected cosine of any prediction;
- C_sample = E‖E[z | u]‖², the expected cosine of a faithful sample of p(face | voice);
- C_rank: retrieval and matching when candidates are ranked by p(u | face), which no ranking can beat on average.

E[z | u] is a weighted mean over a pool of persons, with weights p(u | face of that person).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from minivox import world
from minivox.world import Person
from v2f_core.evaluation.protocols import ALL, WITHIN
from v2f_core.evaluation.tables import Ceiling

if TYPE_CHECKING:
    from v2f_core.training.pairs import Pairs

POOL = "ceiling"  # persons drawn for the ceilings alone


class Estimate(NamedTuple):
    """A Monte-Carlo estimate and its standard error."""

    value: float
    error: float

    @classmethod
    def of(cls, values: Float[np.ndarray, " n"]) -> Estimate:
        """The mean of independent values, with its standard error."""
        return cls(float(values.mean()), float(values.std() / np.sqrt(len(values))))


def log_likelihood(voices: Sequence[Person], faces: Sequence[Person]) -> Float[np.ndarray, "voices faces"]:
    """log p(u of each voice | traits of each face), exact but for a one-year grid over the hidden true age.

    The shared factors are Gaussian given the face's traits; true age is not, and is summed out given the skin's age.

    Example:
        >>> people = world.population("readme", 4)
        >>> ll = log_likelihood(people, people)
        >>> ll.shape, bool(ll[0, 0] > ll[0, 1])  # a woman's voice fits her own face better than a man's
        ((4, 4), True)
    """
    k = len(world.SHARED)
    a, b = world.loadings("face")[:, :k], world.loadings("voice")
    gain = a.T @ np.linalg.inv(a @ a.T + np.diag(world.residual("face") ** 2))
    covariance = b[:, :k] @ (np.eye(k) - gain @ a) @ b[:, :k].T + np.diag(world.residual("voice") ** 2)
    whiten = np.linalg.inv(np.linalg.cholesky(covariance))

    ages = np.arange(world.AGE_RANGE[0] + 0.5, world.AGE_RANGE[1])
    unit = (ages - world.AGE_RANGE[0]) / (world.AGE_RANGE[1] - world.AGE_RANGE[0])
    log_prior = (world.AGE_BETA[0] - 1) * np.log(unit) + (world.AGE_BETA[1] - 1) * np.log1p(-unit)
    age_shift = np.outer(world.standard_age(ages), b[:, k]) @ whiten.T  # (ages, 5)

    shown = np.array([p.face for p in faces])
    log_age = log_prior - 0.5 * ((shown[:, -1:] - ages) / world.SKIN_AGE_SD) ** 2  # (faces, ages)
    log_age -= _logsumexp(log_age)[:, None]
    expected = shown[:, :-1] @ gain.T @ b[:, :k].T @ whiten.T  # (faces, 5)
    sexes, heard = np.array([p.sex for p in faces]), np.array([p.voice for p in voices])
    log_unit = {  # the z-scores' Jacobian differs between the sexes
        s: -sum(np.log(sd) for _, sd in units.values()) for s, units in world.VOICE_UNITS.items()
    }
    constant = np.log(np.diag(whiten)).sum() - 0.5 * len(world.VOICE_Z) * np.log(2 * np.pi)
    out = np.empty((len(voices), len(faces)))
    for sex in (world.FEMALE, world.MALE):
        of = np.flatnonzero(sexes == sex)
        u = world.voice_z(heard, np.full(len(heard), sex)) @ whiten.T
        for i in range(len(voices)):
            x = u[i] - expected[of]  # (faces of this sex, 5)
            square = (x**2).sum(1)[:, None] - 2 * x @ age_shift.T + (age_shift**2).sum(1)
            out[i, of] = _logsumexp(log_age[of] - 0.5 * square) + constant + log_unit[sex]
    return out


def expected_identity(
    log_likelihood: Float[np.ndarray, "voices pool"], identities: Float[np.ndarray, "pool dim"]
) -> Float[np.ndarray, "voices dim"]:
    """E[z | u] for each voice, as the posterior-weighted mean over a pool of faces (voices not among them)."""
    weights = np.exp(log_likelihood - log_likelihood.max(1, keepdims=True))
    return (weights / weights.sum(1, keepdims=True)) @ identities


def mean_and_sample(
    log_likelihood: Float[np.ndarray, "voices pool"], identities: Float[np.ndarray, "pool dim"]
) -> tuple[Estimate, Estimate]:
    """C_mean and C_sample. Two halves of the pool give two independent posterior means, whose product is free of the
    bias that a squared noisy mean has; the errors are over the voices.

    Example:
        >>> always = np.zeros((50, 8)); same = np.tile([1.0, 0.0], (8, 1))
        >>> [round(c.value, 3) for c in mean_and_sample(always, same)]
        [1.0, 1.0]
    """
    # a pool has women and men in turn, so that its even half would know no men
    first, second = np.arange(len(identities)) % 4 < 2, np.arange(len(identities)) % 4 >= 2
    square = np.prod([expected_identity(log_likelihood[:, half], identities[half]) for half in (first, second)], 0).sum(
        1
    )
    return Estimate.of(np.sqrt(np.clip(square, 0, None))), Estimate.of(square)


def matching(scores: Float[np.ndarray, "n n"], same: Bool[np.ndarray, "n n"] | None = None) -> Estimate:
    """1:2 matching: how often the true face (the diagonal) scores above another one; ties count half.

    ``same`` limits the other face, for instance to the speaker's sex. Chance is 0.5.

    Example:
        >>> matching(np.eye(3)).value
        1.0
    """
    other = ~np.eye(len(scores), dtype=bool) if same is None else same & ~np.eye(len(scores), dtype=bool)
    true = np.diag(scores)[:, None]
    won = np.where(other, (true > scores) + 0.5 * (true == scores), 0).sum(1) / other.sum(1)
    return Estimate.of(won)


def recall(
    scores: Float[np.ndarray, "n n"], groups: Int[np.ndarray, " n"], k: int, gallery: int, seed: int = 0
) -> Estimate:
    """R@k against random galleries of a given size within the query's group; chance is k / gallery."""
    g = np.random.default_rng(seed)
    hits = np.empty(len(scores))
    for i, row in enumerate(scores):
        others = np.flatnonzero((groups == groups[i]) & (np.arange(len(row)) != i))
        rivals = row[g.choice(others, gallery - 1, replace=False)]
        hits[i] = (rivals >= row[i]).sum() < k  # a tie counts against us
    return Estimate.of(hits)


# --- of a test split


def people(pairs: Pairs) -> list[Person]:
    """The persons of MiniVox's world behind some pairs."""
    return [world.named(name, sex) for name, sex in zip(pairs.persons, pairs.sexes, strict=True)]


def known(pairs: Pairs) -> bool:
    """Whether all persons are of MiniVox's world, whose true factors are known."""
    return all(name.partition("_")[0] in world.NAMES for name in pairs.persons)


def bounds(test: Pairs, pool: Pairs) -> dict[str, Ceiling]:
    """The ceilings over all and within sex, for galleries as large as the test persons'.

    The best cosine, C_mean, needs identities: it is of the test voices, with the posterior taken over the faces of
    ``pool``. The best retrieval and matching, C_rank, need only the graph: they are over 1,600 persons of their own.
    """
    scores = log_likelihood(people(test), people(pool))
    parts = pool.face[:].split(pool.face_start.diff().tolist())
    best, _ = mean_and_sample(scores, np.stack([part.mean(dim=0).numpy() for part in parts]))
    size = len(test.persons)
    return {ALL: Ceiling(best.value, *_rank(size)), WITHIN: Ceiling(best.value, *_rank(size // 2, within=True))}


@cache
def _fresh(persons: int) -> tuple[list[Person], Float[np.ndarray, "n n"]]:
    drawn = world.population(POOL, persons)
    return drawn, log_likelihood(drawn, drawn)


@cache
def _rank(gallery: int, within: bool = False, persons: int = 1600) -> tuple[float, float]:
    drawn, scores = _fresh(persons)
    group = np.array([within and person.sex == world.MALE for person in drawn]).astype(int)
    hits = recall(scores, group, min(10, gallery), gallery)
    return hits.value, matching(scores, group[:, None] == group).value


def _logsumexp(x: np.ndarray) -> np.ndarray:
    top = x.max(-1, keepdims=True)
    return np.log(np.exp(x - top).sum(-1)) + top[..., 0]
