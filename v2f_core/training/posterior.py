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
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture

from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.posterior import SEXES, TENSORS, IdentityPosterior
from v2f_core.training.pairs import Pairs

# What is tried:
POOLED = (0.0, 0.5, 1.0)  # how far a sex's covariance is moved to the mean of both sexes' covariances
FLOORS = (1e-6, 1e-3, 1e-2, 1e-1, 1.0)  # in units of an axis' mean variance
PARTS, FEWEST = (1, 2, 4, 6), 50  # Gaussians in each sex; persons that each of them needs
KAPPAS = tuple(np.linspace(0, 12, 25).tolist())
FEWEST_OF_ALL, PERSONS_AN_AXIS = 8, 2  # few persons show the spread along few axes only
TOGETHER = 16  # persons whose voices and faces are scored in one call
EXPLAINED = 0.999  # of the photographs' squared length, by the axes that are kept


def train_posterior(
    training: Pairs, validation: Pairs, aligner: Aligner, provenance: Mapping[str, Any] | None = None
) -> IdentityPosterior:
    """Fit the posterior: a minute at most, and the same inputs give the same posterior.

    Two proper scores of validation persons decide: the log density of their photographs before anything is heard
    chooses the number of Gaussians and the covariance's shrinkage; then the mean log likelihood ratio with their own
    voice, the nats that a voice tells of its face, chooses κ.

    Raises:
        InputError: one sex alone or an unknown one, fewer than eight training persons, or embeddings that are not
            finite or not as wide as the aligner's.
    """
    _check(training, validation, aligner)
    sex, start = np.array([SEXES.index(sex) for sex in training.sexes]), training.face_start.numpy()
    photos, owner = training.face[:].double().numpy(), np.repeat(np.arange(len(sex)), np.diff(start))
    basis = principal_axes(photos)[:, : max(1, len(sex) // PERSONS_AN_AXIS)]
    with torch.no_grad():
        heard = aligner(training.pooled_voices()).double().numpy() @ basis
    photos = photos @ basis
    photos /= np.linalg.norm(photos, axis=1, keepdims=True)
    persons = np.stack([photos[a:b].mean(axis=0) for a, b in pairwise(start)])
    about = photos - persons[owner]
    within = about.T @ about / max(len(photos) - len(persons), 1)
    tried = [parts for parts in PARTS if parts == 1 or parts * FEWEST <= min(np.bincount(sex))]
    mixtures = {parts: [_mixture(photos[sex[owner] == s], parts) for s in (0, 1)] for parts in tried}
    logistic = LogisticRegression(C=10.0, max_iter=1000).fit(heard, sex)
    gate, variance = np.append(logistic.coef_[0], logistic.intercept_), float(photos.var(axis=0).mean())
    heard_mean = np.stack([heard[sex == s].mean(axis=0) for s in (0, 1)])
    base_rate = float((sex == 0).mean()), float((sex == 1).mean())

    def build(parts: int, pooled: float, floor: float, kappa: float = 0.0) -> IdentityPosterior:
        shares, means, total = (np.stack(values) for values in zip(*mixtures[parts], strict=True))
        mixed = pooled * total.mean(axis=0) + (1 - pooled) * total
        between = np.stack([_root(spread - within) for spread in mixed])
        numbers = (basis, means, np.log(shares), heard_mean, between, _root(within), gate)
        tensors: Any = {name: torch.tensor(values).float() for name, values in zip(TENSORS, numbers, strict=True)}
        return IdentityPosterior(aligner, **tensors, floor=floor * variance, kappa=kappa, share=base_rate)

    faces = validation.face[:].float()
    prior = {grid: float(build(*grid).log_prior(faces).mean()) for grid in product(tried, POOLED, FLOORS)}
    shape = max(prior, key=prior.__getitem__)
    told = {k: float(own_log_prob(build(*shape, k), validation).mean()) - prior[shape] for k in KAPPAS}
    kappa = max(told, key=told.__getitem__)
    posterior = build(*shape, kappa)
    posterior.provenance = {
        **(provenance or {}),
        "persons": len(sex),
        "photographs": len(photos),
        "chosen": dict(zip(("parts", "pooled", "floor", "kappa"), (*shape, kappa), strict=True)),
        "axes": basis.shape[1],
        "validation": {
            "persons": len(validation.persons),
            "nats of a photograph's density": round(prior[shape], 4),
            "nats that a voice tells": round(told[kappa], 4),
        },
    }
    return posterior.eval()


def own_log_prob(posterior: IdentityPosterior, pairs: Pairs) -> Float[torch.Tensor, " photos"]:
    """log p(z | v) of each photograph, given its own person's voice, in nats."""
    voices, start, found = pairs.pooled_voices(), pairs.face_start.tolist(), []
    for i in range(0, len(voices), TOGETHER):
        j = min(i + TOGETHER, len(voices))
        whose = torch.repeat_interleave(torch.arange(j - i), pairs.face_start[i : j + 1].diff())
        log_prob = posterior.log_prob(pairs.face[start[i] : start[j]].float(), voices[i:j])
        found.append(log_prob[whose, torch.arange(len(whose))])
    return torch.cat(found)


def principal_axes(identities: Float[np.ndarray, "photos dim"]) -> Float[np.ndarray, "dim axes"]:
    """Orthonormal columns, as few as hold the share `EXPLAINED` of the identities' squared length."""
    values, vectors = np.linalg.eigh(identities.T @ identities)
    values, vectors = values[::-1], vectors[:, ::-1]
    count = int(np.searchsorted(np.cumsum(values) / values.sum(), EXPLAINED)) + 1
    return np.ascontiguousarray(vectors[:, : min(count, len(values))])


def _mixture(photos: Float[np.ndarray, "photos axes"], parts: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shares, means and the common covariance of a mixture of Gaussians, by expectation maximisation (seeded)."""
    fitted = GaussianMixture(parts, covariance_type="tied", n_init=3, reg_covar=1e-9, max_iter=300, random_state=0)
    fitted.fit(photos)
    return fitted.weights_, fitted.means_, fitted.covariances_


def _root(covariance: Float[np.ndarray, "axes axes"]) -> Float[np.ndarray, "axes axes"]:
    """F with F·Fᵀ the nearest positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0))


def _check(training: Pairs, validation: Pairs, aligner: Aligner) -> None:
    for name, pairs in (("training", training), ("validation", validation)):
        pairs.check()
        if set(pairs.sexes) != set(SEXES):
            sexes = ", ".join(sorted(set(pairs.sexes)))
            raise InputError(f"{name} persons of sex {sexes}: expected women (f) and men (m), and nobody else")
        width, expected = pairs.face.shape[1], aligner.settings["identity_width"]
        if width != expected:
            raise InputError(f"identities of width {width}, an aligner for {expected}: expected the aligner's face net")
    if len(training.persons) < FEWEST_OF_ALL:
        few = f"{len(training.persons)} training persons: expected at least {FEWEST_OF_ALL}"
        raise InputError(f"{few}, else the spread of faces cannot be told; draw with truncation 0")
