"""What an ArcFace identity tells of a voice: the best ranking of faces by anybody who sees identities alone.

C_rank (`ceilings`) ranks faces by what they show *exactly*: jaw, neck, skin. No identity tells that much, so that no
method which compares identities can reach it. Here the voice parameters u are read from identities by regression,
u | z ~ N(B z + b, Σ) within each sex, and a voice ranks faces by log p(u | z). A regression from finitely many
persons underestimates what z tells: this ranking is a mark to measure by, not a bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from minivox import world
from minivox.bounds import people

if TYPE_CHECKING:
    from v2f_core.training.pairs import Pairs

FOLDS = 5
IMPOSSIBLE = -1e9  # log-likelihood of a face of the other sex: sex is certain from both


def rank_scores(training: Pairs, test: Pairs) -> Float[np.ndarray, "voices faces"]:
    """log p(u of voice i | identity of face j), u being the true voice parameters after their noise.

    Args:
        training: persons of MiniVox's world from whom the reading is learned, one photo each time.
        test: persons of the same world; a face is the photo of the gallery.
    """
    from sklearn.linear_model import Ridge, RidgeCV
    from sklearn.model_selection import GroupKFold, cross_val_predict

    out = np.full((len(test.persons),) * 2, IMPOSSIBLE)
    told, asked = _voices(training), _voices(test)
    photos, owner = training.face.numpy(), np.repeat(np.arange(len(training.persons)), training.face_start.diff())
    gallery = test.gallery().numpy()
    of_photo, of_test = np.array(training.sexes)[owner], np.array(test.sexes)
    for sex in (world.FEMALE, world.MALE):
        x, who, there = photos[of_photo == sex], owner[of_photo == sex], np.flatnonzero(of_test == sex)
        ridge = RidgeCV(np.logspace(-2, 3, 16)).fit(x, told[who])
        guess = cross_val_predict(Ridge(ridge.alpha_), x, told[who], groups=who, cv=GroupKFold(FOLDS))
        missed = told[who] - guess  # by person: photos of one person are no independent witnesses
        whiten = np.linalg.inv(np.linalg.cholesky(np.cov(missed.T)))
        away = (asked[there][:, None] - ridge.predict(gallery[there])) @ whiten.T
        out[np.ix_(there, there)] = -0.5 * (away**2).sum(-1)
    return out


def _voices(pairs: Pairs) -> Float[np.ndarray, "n 5"]:
    persons = people(pairs)
    return world.voice_z(np.array([p.voice for p in persons]), np.array([p.sex for p in persons]))
