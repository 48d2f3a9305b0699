"""References below the ceilings: regressions from the true voice parameters u instead of a sound.

The ceilings (:mod:`minivox.ceilings`) use the *exact* traits of a face: jaw, neck, skin. An identity does not hold all
of them, and a regression is fitted on finitely many persons. So these references are lower, and they are not bounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from minivox import world
from minivox.ceilings import people

if TYPE_CHECKING:
    from v2f_core.training.pairs import Pairs

IMPOSSIBLE = -1e9  # log-likelihood of a face of the other sex: sex is certain from both


def from_true_voices(training: Pairs, test: Pairs) -> Float[np.ndarray, "n dim"]:
    """Identities of the test persons by ridge regression from u, as if a speaker encoder kept all of u."""
    from sklearn.linear_model import RidgeCV

    def inputs(pairs: Pairs) -> Float[np.ndarray, "n features"]:
        z, man = voices(pairs), np.array([sex == "m" for sex in pairs.sexes])[:, None]
        return np.hstack([20.0 * man, z * man, z * ~man])  # a large input, so that the penalty hardly shrinks it

    ridge = RidgeCV(np.logspace(-1, 4, 26)).fit(inputs(training), training.centroids().numpy())
    predicted = ridge.predict(inputs(test))
    return (predicted / np.linalg.norm(predicted, axis=1, keepdims=True)).astype(np.float32)


def rank_scores(training: Pairs, test: Pairs) -> Float[np.ndarray, "voices faces"]:
    """log p(u of voice i | identity of face j), with u | z ~ N(B z + b, Σ) fitted within each sex.

    Args:
        training: persons of MiniVox's world for the fit; each photo is an example.
        test: persons of the same world; their faces are the photos of the gallery.
    """
    from sklearn.linear_model import Ridge, RidgeCV
    from sklearn.model_selection import GroupKFold, cross_val_predict

    out = np.full((len(test.persons),) * 2, IMPOSSIBLE)
    learned, asked = voices(training), voices(test)
    photos, owner = training.face[:].numpy(), np.repeat(np.arange(len(training.persons)), training.face_start.diff())
    gallery = test.gallery().numpy()
    of_photo, of_test = np.array(training.sexes)[owner], np.array(test.sexes)
    for sex in (world.FEMALE, world.MALE):
        x, who, there = photos[of_photo == sex], owner[of_photo == sex], np.flatnonzero(of_test == sex)
        ridge = RidgeCV(np.logspace(-2, 3, 16)).fit(x, learned[who])
        guess = cross_val_predict(Ridge(ridge.alpha_), x, learned[who], groups=who, cv=GroupKFold(5))
        missed = learned[who] - guess  # folds by person: photos of one person are not independent
        whiten = np.linalg.inv(np.linalg.cholesky(np.cov(missed.T)))
        away = (asked[there][:, None] - ridge.predict(gallery[there])) @ whiten.T
        out[np.ix_(there, there)] = -0.5 * (away**2).sum(-1)
    return out


def voices(pairs: Pairs) -> Float[np.ndarray, "n 5"]:
    """The true voice parameters of some persons, standardised within their sex."""
    persons = people(pairs)
    return world.voice_z(np.array([p.voice for p in persons]), np.array([p.sex for p in persons]))
