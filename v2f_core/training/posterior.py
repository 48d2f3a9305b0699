"""Train p(z | v) from stored embeddings: closed forms on training persons, a few numbers chosen on validation persons.

Photographs of one person are no independent witnesses. So the spread between persons is taken from persons' means, the
spread within a person from the photographs about them; and whatever is chosen is chosen by other persons.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise, product
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.posterior import SEXES, IdentityPosterior
from v2f_core.training.pairs import Pairs

# What is tried: the share of both sexes' common spread in each one's own; floors, shares of an axis' mean variance; κ.
POOLED = (0.0, 0.25, 0.5, 0.75, 1.0)
FLOORS = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
KAPPAS = tuple(np.linspace(0, 12, 25).tolist())
EXPLAINED = 0.999  # of the photographs' squared length, by the axes that are kept


def train_posterior(
    training: Pairs, validation: Pairs, aligner: Aligner, provenance: Mapping[str, Any] | None = None
) -> IdentityPosterior:
    """Fit the Gaussian posterior in closed form. It takes seconds, and the same inputs give the same posterior.

    Two proper scores of validation persons decide: the log density of their photographs before anything is heard
    chooses the covariance's shrinkage; then the mean log likelihood ratio with their own voice, the nats that a voice
    tells of its face, chooses κ.

    Args:
        training, validation: persons of two splits, of both sexes.
        aligner: g_φ.
        provenance: hashes of the encoder and the face net.
    Raises:
        InputError: one sex alone, fewer training persons than an identity has dimensions, or an embedding that has
            another width than the aligner's or is not finite.
    """
    _check(training, validation, aligner)
    sex, start = _sex(training), training.face_start.numpy()
    photos, owner = training.face.double().numpy(), np.repeat(np.arange(len(sex)), np.diff(start))
    basis = principal_axes(photos)
    photos, heard = photos @ basis, _heard(aligner, training) @ basis
    photos /= np.linalg.norm(photos, axis=1, keepdims=True)
    persons = np.stack([photos[a:b].mean(axis=0) for a, b in pairwise(start)])
    within, between = spreads(photos, persons, owner, sex)

    def build(pooled: float, floor: float, kappa: float = 0.0) -> IdentityPosterior:
        mixed = np.stack([_root(pooled * between.mean(axis=0) + (1 - pooled) * own) for own in between])
        return IdentityPosterior(
            aligner,
            _tensor(basis),
            _tensor(np.stack([persons[sex == s].mean(axis=0) for s in (0, 1)])),
            _tensor(np.stack([heard[sex == s].mean(axis=0) for s in (0, 1)])),
            _tensor(mixed),
            _tensor(_root(within)),
            gate,
            floor * typical,
            kappa,
            (float((sex == 0).mean()), float((sex == 1).mean())),
        )

    gate, typical = _gate(heard, sex), float(np.trace(within + between.mean(axis=0))) / basis.shape[1]
    faces, voices = validation.face.float(), validation.pooled_voices()
    whose = torch.repeat_interleave(torch.arange(len(validation.persons)), validation.face_start.diff())
    prior = {grid: float(build(*grid).log_prior(faces).mean()) for grid in product(POOLED, FLOORS)}
    shrinkage = max(prior, key=prior.__getitem__)
    told = {
        kappa: float(build(*shrinkage, kappa).log_ratio(faces, voices)[whose, torch.arange(len(faces))].mean())
        for kappa in KAPPAS
    }
    kappa = max(told, key=told.__getitem__)
    posterior = build(*shrinkage, kappa)
    posterior.provenance = {
        **(provenance or {}),
        "persons": len(sex),
        "photographs": len(photos),
        "chosen": {"pooled": shrinkage[0], "floor": shrinkage[1], "kappa": kappa, "axes": basis.shape[1]},
        "validation": {
            "persons": len(validation.persons),
            "nats of a photograph's density": round(prior[shrinkage], 4),
            "nats that a voice tells": round(told[kappa], 4),
        },
    }
    return posterior.eval()


def principal_axes(
    identities: Float[np.ndarray, "photos dim"], explained: float = EXPLAINED
) -> Float[np.ndarray, "dim axes"]:
    """Orthonormal columns that hold a share of the identities' squared length, as few as do.

    Example:
        >>> principal_axes(np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])).shape
        (3, 2)
    """
    values, vectors = np.linalg.eigh(identities.T @ identities)
    values, vectors = values[::-1], vectors[:, ::-1]
    count = int(np.searchsorted(np.cumsum(values) / values.sum(), explained)) + 1
    return np.ascontiguousarray(vectors[:, : min(count, len(values))])


def spreads(
    photos: Float[np.ndarray, "photos axes"],
    persons: Float[np.ndarray, "persons axes"],
    owner: Int[np.ndarray, " photos"],
    sex: Int[np.ndarray, " persons"],
) -> tuple[Float[np.ndarray, "axes axes"], Float[np.ndarray, "2 axes axes"]]:
    """Covariance of photographs about their person, and of persons about the mean of their sex.

    Means of k photographs spread by between + within/k: what the photographs add is taken off again.

    Args:
        photos, persons: identities, and each person's mean of them.
        owner: whose each photograph is.
        sex: 0 or 1, of each person.
    """
    about, count = photos - persons[owner], np.bincount(owner)
    within = about.T @ about / max(len(photos) - len(persons), 1)
    between = []
    for s in (0, 1):
        from_mean = persons[sex == s] - persons[sex == s].mean(axis=0)
        spread = from_mean.T @ from_mean / max(len(from_mean) - 1, 1)
        between.append(spread - within * (1 / count[sex == s]).mean())
    return within, np.stack(between)


def _check(training: Pairs, validation: Pairs, aligner: Aligner) -> None:
    for name, pairs in (("training", training), ("validation", validation)):
        pairs.check()
        if missing := sorted(set(SEXES) - set(pairs.sexes)):
            raise InputError(f"{name} persons of one sex alone (none is {missing[0]!r}): expected women and men")
        if pairs.face.shape[1] != aligner.settings["identity_width"]:
            raise InputError(
                f"identities of width {pairs.face.shape[1]}, an aligner for {aligner.settings['identity_width']}: "
                "expected the face net that the aligner was trained on"
            )
    if len(training.persons) <= training.face.shape[1]:
        raise InputError(
            f"{len(training.persons)} training persons for identities of {training.face.shape[1]} dimensions: expected "
            "more persons than dimensions, else their spread cannot be told; draw with truncation 0"
        )


def _heard(aligner: Aligner, pairs: Pairs) -> Float[np.ndarray, "persons dim"]:
    with torch.no_grad():
        return aligner(pairs.pooled_voices()).double().numpy()


def _root(covariance: Float[np.ndarray, "axes axes"]) -> Float[np.ndarray, "axes axes"]:
    """F with F·Fᵀ the nearest positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0))


def _gate(heard: Float[np.ndarray, "persons axes"], sex: Int[np.ndarray, " persons"]) -> torch.Tensor:
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=10.0, max_iter=1000).fit(heard, sex)
    return _tensor(np.append(fitted.coef_[0], fitted.intercept_))


def _sex(pairs: Pairs) -> Int[np.ndarray, " persons"]:
    return np.array([SEXES.index(sex) for sex in pairs.sexes])


def _tensor(values: Float[np.ndarray, ...]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).float()
