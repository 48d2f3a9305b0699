"""What regressions reach that are given the true voice parameters u in place of a sound: marks below the ceilings.

The ceilings (:mod:`minivox.ceilings`) know what a face shows *exactly*: jaw, neck, skin. No identity tells that much,
and every map is learned from finitely many persons. So these marks are lower, and are no bounds.
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
    """Identities of the test persons by ridge regression from u: the reach of a speaker encoder that loses nothing.

    Like g_φ it is read by the cosine of ArcFace identities.
    """
    from sklearn.linear_model import RidgeCV

    def inputs(pairs: Pairs) -> Float[np.ndarray, "n features"]:
        z, man = voices(pairs), np.array([sex == "m" for sex in pairs.sexes])[:, None]
        return np.hstack([20.0 * man, z * man, z * ~man])  # sex is certain: the penalty shall hardly touch it

    ridge = RidgeCV(np.logspace(-1, 4, 26)).fit(inputs(training), training.centroids().numpy())
    predicted = ridge.predict(inputs(test))
    return (predicted / np.linalg.norm(predicted, axis=1, keepdims=True)).astype(np.float32)


def rank_scores(training: Pairs, test: Pairs) -> Float[np.ndarray, "voices faces"]:
    """log p(u of voice i | identity of face j): the best ranking of faces by anybody who sees identities alone.

    u is read from identities by regression, u | z ~ N(B z + b, Σ) within each sex.

    Args:
        training: persons of MiniVox's world from whom the reading is learned, one photo each time.
        test: persons of the same world; a face is the photo of the gallery.
    """
    from sklearn.linear_model import Ridge, RidgeCV
    from sklearn.model_selection import GroupKFold, cross_val_predict

    out = np.full((len(test.persons),) * 2, IMPOSSIBLE)
    learned, asked = voices(training), voices(test)
    photos, owner = training.face.numpy(), np.repeat(np.arange(len(training.persons)), training.face_start.diff())
    gallery = test.gallery().numpy()
    of_photo, of_test = np.array(training.sexes)[owner], np.array(test.sexes)
    for sex in (world.FEMALE, world.MALE):
        x, who, there = photos[of_photo == sex], owner[of_photo == sex], np.flatnonzero(of_test == sex)
        ridge = RidgeCV(np.logspace(-2, 3, 16)).fit(x, learned[who])
        guess = cross_val_predict(Ridge(ridge.alpha_), x, learned[who], groups=who, cv=GroupKFold(5))
        missed = learned[who] - guess  # by person: photos of one person are no independent witnesses
        whiten = np.linalg.inv(np.linalg.cholesky(np.cov(missed.T)))
        away = (asked[there][:, None] - ridge.predict(gallery[there])) @ whiten.T
        out[np.ix_(there, there)] = -0.5 * (away**2).sum(-1)
    return out


def voices(pairs: Pairs) -> Float[np.ndarray, "n 5"]:
    """The true voice parameters of some persons, standardised within their sex."""
    persons = people(pairs)
    return world.voice_z(np.array([p.voice for p in persons]), np.array([p.sex for p in persons]))
