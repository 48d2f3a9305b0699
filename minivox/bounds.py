"""What Stage I could reach on MiniVox: the ceilings of its causal graph, and an aligner that hears everything."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from minivox import ceilings, world
from v2f_core.evaluation.stage1_report import ALL, WITHIN, Ceiling, K

if TYPE_CHECKING:
    from v2f_core.training.latents import FacePairs
    from v2f_core.training.pairs import Pairs

POOL = "ceiling"  # persons drawn for the ceilings alone


def people(pairs: Pairs) -> list[world.Person]:
    """The persons of MiniVox's world behind some pairs."""
    return [world.named(name, sex) for name, sex in zip(pairs.persons, pairs.sexes, strict=True)]


def known(pairs: Pairs) -> bool:
    """Whether all of them are persons of MiniVox's world, whose true factors are known."""
    return all(name.partition("_")[0] in world.NAMES for name in pairs.persons)


def bounds(test: Pairs, pool: Pairs) -> dict[str, Ceiling]:
    """The ceilings over all and within sex, for galleries as large as the test persons'.

    The best cosine, C_mean, needs identities: it is of the test voices, with the posterior taken over the faces of
    ``pool``. The best retrieval and matching, C_rank, need only the graph: they are over 1,600 persons of their own.
    """
    scores = ceilings.log_likelihood(people(test), people(pool))
    parts = pool.face.split(pool.face_start.diff().tolist())
    best, _ = ceilings.mean_and_sample(scores, np.stack([part.mean(dim=0).numpy() for part in parts]))
    size = len(test.persons)
    rank_all, rank_within = _rank(size), _rank(size // 2, within=True)
    return {ALL: Ceiling(best.value, *rank_all), WITHIN: Ceiling(best.value, *rank_within)}


def bayes(training: Pairs, asked: Pairs) -> Float[np.ndarray, "n dim"]:
    """The Bayes ẑ of some persons: the unit mean of the training faces, weighted by their likelihood given the true
    voice parameters u. Nobody who knows these faces and hears everything does better by cosine."""
    scores = ceilings.log_likelihood(people(asked), people(training))
    mean = ceilings.expected_identity(scores, training.centroids().numpy())
    return (mean / np.linalg.norm(mean, axis=1, keepdims=True)).astype(np.float32)


def informed(validation: FacePairs, training: FacePairs) -> FacePairs:
    """The validation persons with their Bayes ẑ, if all are of MiniVox's world; else as they are."""
    if not (known(validation.wide) and known(training.wide)):
        return validation
    ideal = torch.from_numpy(bayes(training.pairs, validation.pairs))
    return replace(validation, bayes=ideal.to(validation.wide.face.device))


def from_true_voices(training: Pairs, test: Pairs) -> Float[np.ndarray, "n dim"]:
    """Identities of the test persons by ridge regression from the voice parameters u themselves, not from sound.

    What an aligner of this many training persons reaches with a speaker encoder that loses nothing. It falls short of
    the ceilings: of C_mean, since the map is learned from some hundred persons; of C_rank, since that ranks faces by
    what they show, while this, like g_φ, ranks them by the cosine of ArcFace identities.
    """
    from sklearn.linear_model import RidgeCV

    ridge = RidgeCV(np.logspace(-1, 4, 26)).fit(_parameters(training), training.centroids().numpy())
    predicted = ridge.predict(_parameters(test))
    return (predicted / np.linalg.norm(predicted, axis=1, keepdims=True)).astype(np.float32)


def _parameters(pairs: Pairs) -> Float[np.ndarray, "n features"]:
    """Sex, and for each sex its own standardised voice parameters."""
    persons = people(pairs)
    sexes = np.array([person.sex for person in persons])
    z = world.voice_z(np.array([person.voice for person in persons]), sexes)
    man = (sexes == world.MALE)[:, None]
    return np.hstack([20.0 * man, z * man, z * ~man])  # sex is certain: the penalty shall hardly touch it


@cache
def _rank(gallery: int, within: bool = False, persons: int = 1600) -> tuple[float, float]:
    drawn = world.population(POOL, persons)
    scores = ceilings.log_likelihood(drawn, drawn)
    group = np.array([within and person.sex == world.MALE for person in drawn]).astype(int)
    found = ceilings.recall(scores, group, min(K, gallery), gallery)
    return found.value, ceilings.matching(scores, group[:, None] == group).value
