"""p(z | v): all the faces that a voice allows, where the aligner's ẑ, their mean, is one point. Not in the paper.

InfoNCE (Eq. 9) learns κ·ẑᵀz = log p(z | v) − log p(z), up to a number for each voice (van den Oord et al. 2018, Eq. 4):
what is heard *tilts* the faces there are, p(z | v) ∝ p(z)·exp(κ·ẑᵀz). A tilted Gaussian is a Gaussian of the same
covariance whose mean has moved by κ·Σ·ẑ; a tilted mixture of some is a mixture of these, each the likelier the more its
mean agrees with ẑ. So, within a sex s, whose faces are a mixture of a few Gaussians k,

    z = x / ‖x‖,   x ~ N(m_sk + κ·Σ_s·a, Σ_s)  with p(k | s, v) ∝ p(k | s)·exp(κ·aᵀm_sk),   a = ẑ − h_s

with Σ_s = between_s + within + floor, and h_s the mean ẑ of that sex, taken off so that a voice like any other moves
nothing. κ says how far a voice is believed. p(s | v) is a logistic function of ẑ. Before anything is heard nothing is
tilted, and p(s) is the base rate. Normalising x makes it a *projected normal* (Mardia & Jupp 2000, section 3.5.6). All
this happens within the principal axes that identities use; in the others there are rounding errors only.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from v2f_core.artefacts.loading import check_config, checked_folder, read_tensors, refusing
from v2f_core.errors import InputError
from v2f_core.identity.aligner import CONFIG_NAME, WEIGHTS_NAME, Aligner, save_model
from v2f_core.identity.sphere import check_unit, normalise, slerp

Faces = Float[Tensor, "faces dim"]
Voices = Float[Tensor, "voices speaker"]
Scores = Float[Tensor, "voices faces"]

SEXES = ("f", "m")
TENSORS = ("basis", "face_mean", "part", "heard_mean", "between", "within", "gate")
NODES, BELOW, ABOVE = 56, 10.0, 16.0  # of the integral over the radius: nodes, and widths to both sides of the mode
SCORES_AT_ONCE = 1 << 16  # pairs of a voice and a face whose integrals are computed together: 30 MB of nodes


class IdentityPosterior(nn.Module):
    """p(z | v) as a mixture of Gaussians in each sex (women first), projected onto the sphere.

    Args:
        aligner: g_φ, whose ẑ carries what was heard.
        basis: orthonormal columns, the axes that identities use; everything below is in their coordinates.
        face_mean, part: m_sk, the mean identities of each sex's parts, and log p(k | s), the parts' shares.
        heard_mean: h_s, the mean ẑ of each sex.
        between, within: factors B_s and W of the spread between persons of one part, B_s·B_sᵀ, and between photographs
            of one person, W·Wᵀ, the same for both sexes.
        gate: weights on ẑ, and last the intercept, of the log odds that the speaker is a man.
        floor: variance that every axis has besides, so that no covariance is singular.
        kappa: κ, how far a voice is believed; 0 hears nothing but the sex.
        share: the base rate of each sex.

    Example:
        >>> aligner, eye = Aligner(speaker_width=4, hidden_width=8, identity_width=3).eval(), torch.eye(3)
        >>> parts, spread = (eye[:2, None], torch.zeros(2, 1)), (eye.expand(2, 3, 3), eye)  # one part in each sex
        >>> posterior = IdentityPosterior(aligner, eye, *parts, eye[:2], *spread, gate=torch.ones(4))
        >>> posterior.sample(torch.ones(4), 5, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([5, 3])
    """

    basis: Tensor
    face_mean: Tensor
    part: Tensor
    heard_mean: Tensor
    between: Tensor
    within: Tensor
    gate: Tensor
    covariance: Tensor
    root: Tensor

    def __init__(
        self,
        aligner: Aligner,
        basis: Float[Tensor, "dim axes"],
        face_mean: Float[Tensor, "2 parts axes"],
        part: Float[Tensor, "2 parts"],
        heard_mean: Float[Tensor, "2 axes"],
        between: Float[Tensor, "2 axes columns"],
        within: Float[Tensor, "axes other_columns"],
        gate: Float[Tensor, " axes_and_one"],
        floor: float = 1e-6,
        kappa: float = 1.0,
        share: tuple[float, float] = (0.5, 0.5),
    ):
        super().__init__()
        width = aligner.settings["identity_width"]
        if width != len(basis):
            raise InputError(
                f"an aligner for identities of width {width}, a posterior for {len(basis)}: expected one net"
            )
        tensors = dict(zip(TENSORS, (basis, face_mean, part, heard_mean, between, within, gate), strict=True))
        if not (floor > 0 and math.isfinite(kappa) and all(bool(value.isfinite().all()) for value in tensors.values())):
            raise InputError("a posterior's number is NaN or infinite, or its floor is not positive; train it again")
        self.aligner, self.floor, self.kappa, self.share = aligner, floor, kappa, share
        self.provenance: dict[str, Any] = {}
        for name, value in tensors.items():
            self.register_buffer(name, value.detach().float().double())  # on disk they are float32
        # factors times their own transposes, and a floor: positive definite whatever the factors are
        floors = floor * torch.eye(len(within), dtype=torch.float64)
        covariance = self.between @ self.between.mT + self.within @ self.within.T + floors
        self.register_buffer("covariance", covariance, persistent=False)
        self.register_buffer("root", torch.linalg.cholesky(covariance), persistent=False)

    @torch.no_grad()
    def mean(self, v: Float[Tensor, "*batch speaker"]) -> Float[Tensor, "*batch dim"]:
        """ẑ, the aligner's point estimate (Eq. 4): the paper's answer, and what truncation 0 gives."""
        estimate: Tensor = self.aligner(v)
        return estimate

    @torch.no_grad()
    def sample(
        self,
        v: Float[Tensor, "*batch speaker"],
        n: int,
        truncation: float | int = 1.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
    ) -> Float[Tensor, "*batch {n} dim"]:
        """Unit identities that the voice allows, ``n`` for each speaker embedding (pooled over a recording's windows).

        Args:
            truncation: the share of the way from ẑ to an honest draw, along the great circle: 0 is ẑ, which takes no
                noise, 1 the draw. Between them lies a picture of how sure one pretends to be.
            generator: of the noise; a list gives each of the n its own, so that one can be drawn again alone.
        """
        check_truncation(truncation)
        if n < 1 or (isinstance(generator, Sequence) and len(generator) != n):
            raise InputError(f"n={n} identities: expected at least 1, and one generator or a list of as many")
        estimate = self.mean(v).to(self.root.device)
        shape, dim = v.shape[:-1], estimate.shape[-1]
        point = estimate.reshape(-1, 1, dim).expand(-1, n, -1)
        if truncation == 0:
            return point.reshape(*shape, n, dim).clone()
        means, log_share = self.heard(estimate.reshape(-1, dim))
        sources = generator if isinstance(generator, Sequence) else [generator]
        size = (len(point), n // len(sources), self.basis.shape[1] + 1)
        parts = [torch.randn(size, generator=each, device=each.device if each else None).to(means) for each in sources]
        noise = torch.cat(parts, dim=1)
        # the last normal number chooses the part: the shares lie side by side between 0 and 1, women's first
        ends = log_share.exp().flatten(1).cumsum(dim=1)[:, None, :-1]
        which = torch.searchsorted(ends.expand(-1, n, -1).contiguous(), torch.special.ndtr(noise[..., -1:]))
        centre = means.flatten(1, 2).gather(1, which.expand(-1, -1, means.shape[-1]))
        man = which >= means.shape[2]
        drawn = centre + torch.where(man, noise[..., :-1] @ self.root[1].T, noise[..., :-1] @ self.root[0].T)
        faces = normalise((drawn @ self.basis.T).float())
        faces = slerp(point, faces, truncation) if truncation < 1 else faces
        return faces.reshape(*shape, n, dim)

    @torch.no_grad()
    def log_prob(self, z: Faces, v: Voices) -> Scores:
        """log p(z | v) of every face given every voice, in nats (a density within the posterior's axes)."""
        return self._log_density(z, *self.heard(self.mean(v)))

    @torch.no_grad()
    def log_prior(self, z: Faces) -> Float[Tensor, " faces"]:
        """log p(z), before anything is heard."""
        log_share = torch.tensor(self.share).to(self.root).log()[:, None]
        return self._log_density(z, self.face_mean[None], (log_share + self.part)[None])[0]

    def log_ratio(self, z: Faces, v: Voices) -> Scores:
        """log p(z | v) − log p(z): how much likelier each voice makes each face, in nats.

        The optimal score for telling which face is the voice's (Wang 2020, "Remarks on Optimal Scores for Speaker
        Recognition"); the cosine with ẑ favours faces near the mean, since these are near everybody's ẑ.
        """
        return self.log_ratio_of(z, self.mean(v))

    @torch.no_grad()
    def log_ratio_of(self, z: Faces, estimate: Float[Tensor, "voices width"]) -> Scores:
        """:meth:`log_ratio` with other unit identities in ẑ's place, such as that of a drawn face."""
        return self._log_density(z, *self.heard(check_unit(estimate))) - self.log_prior(z)

    def heard(
        self, estimate: Float[Tensor, "voices dim"]
    ) -> tuple[Float64[Tensor, "voices 2 parts axes"], Float64[Tensor, "voices 2 parts"]]:
        """The mixture that a voice leaves, from its ẑ: the means of each sex's parts, and log p(s, k | v)."""
        heard = estimate.to(self.root) @ self.basis
        tilt = self.kappa * (heard[:, None] - self.heard_mean)  # κ·a
        moved = torch.einsum("vsd,sde->vse", tilt, self.covariance)
        agreement = torch.einsum("vsd,skd->vsk", tilt, self.face_mean)
        odds = heard @ self.gate[:-1] + self.gate[-1]
        log_sex = torch.stack([nn.functional.logsigmoid(-odds), nn.functional.logsigmoid(odds)], dim=1)
        log_part = torch.log_softmax(self.part + agreement, dim=2)
        return self.face_mean + moved[:, :, None], log_sex[:, :, None] + log_part

    def _log_density(self, z: Tensor, means: Tensor, log_share: Tensor) -> Tensor:
        if z.shape[-1] != len(self.basis):
            theirs = f"identities of width {z.shape[-1]}: this posterior is of {len(self.basis)}"
            raise InputError(f"{theirs}; use the face net that it was trained with")
        face = normalise(check_unit(z).to(self.root) @ self.basis)
        densities = [
            projected_normal_log_prob(face, means[:, s, k], self.root[s]) + log_share[:, s, k, None]
            for s, k in product(range(2), range(means.shape[2]))
        ]
        return torch.logsumexp(torch.stack(densities), dim=0).float()

    def save_pretrained(self, folder: str | Path, provenance: Mapping[str, Any] | None = None) -> None:
        """Write ``model.safetensors`` and ``config.json``; of the aligner only its weights' hash."""
        given = self.provenance if provenance is None else provenance
        made = {**given, "aligner_weights_sha256": weights_hash(self.aligner)}
        config = {"class": "IdentityPosterior", "floor": self.floor, "kappa": self.kappa, "share": list(self.share)}
        self.provenance = save_model(folder, {name: getattr(self, name).float() for name in TENSORS}, config, made)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, aligner: Aligner, made_from: Mapping[str, str] | None = None
    ) -> IdentityPosterior:
        """Load what :meth:`save_pretrained` wrote; an ``InputError`` if it is damaged, or was trained with other parts.

        ``made_from`` are hashes of the encoder and face net in use, by their names in the provenance ("ast_sha256").
        """
        remedy = "train a posterior with 'python -m v2f_core posterior'"
        folder = checked_folder(folder, (CONFIG_NAME, WEIGHTS_NAME), "a posterior's", remedy)
        config, tensors = check_config(folder / CONFIG_NAME), read_tensors(folder / WEIGHTS_NAME, remedy)
        with refusing(folder, "a posterior's folder", remedy):
            provenance = dict(config["provenance"])
            theirs = {**(made_from or {}), "aligner_weights_sha256": weights_hash(aligner)}
            if differ := [name for name, digest in theirs.items() if provenance.get(name) != digest]:
                raise InputError(f"a posterior of other parts ({', '.join(differ)} differ); {remedy} of these")
            women, men = map(float, config["share"])
            numbers: dict[str, Any] = {name: tensors[name] for name in TENSORS} | {"share": (women, men)}
            posterior = cls(aligner, **numbers, floor=float(config["floor"]), kappa=float(config["kappa"]))
            # tensors that do not fit each other show in a draw
            posterior.sample(torch.ones(aligner.speaker_width), 1, generator=torch.Generator())
        posterior.provenance = provenance
        return posterior.eval()


def projected_normal_log_prob(
    direction: Float[Tensor, "faces dim"], mean: Float[Tensor, "voices dim"], root: Float[Tensor, "dim dim"]
) -> Scores:
    """The log density of x/‖x‖ at unit vectors u where x ~ N(mean, root·rootᵀ), ``root`` lower triangular, in nats.

    log ∫ r^(d−1) N(r·u; μ, Σ) dr, by Gauss–Legendre quadrature about the mode of the integrand, which is log-concave.

    Example: with mean 0 and Σ = I all directions of the circle are alike probable, 1/(2π) per radian.
        >>> one = projected_normal_log_prob(torch.eye(2), torch.zeros(1, 2), torch.eye(2))
        >>> (2 * torch.pi * one.exp()).round(decimals=6)
        tensor([[1., 1.]], dtype=torch.float64)
    """
    dim, root = direction.shape[1], root.double()
    u, mu = (torch.linalg.solve_triangular(root, x.double().T, upper=False).T for x in (direction, mean))
    precision, along = (u**2).sum(dim=1), mu @ u.T  # uᵀΣ⁻¹u of each face, μᵀΣ⁻¹u of each pair
    constant = -0.5 * (mu**2).sum(dim=1, keepdim=True) - root.diagonal().log().sum() - 0.5 * dim * math.log(2 * math.pi)
    rows = max(1, SCORES_AT_ONCE // len(direction))
    return torch.cat([_log_radial(precision, part, dim) for part in along.split(rows)]) + constant


def weights_hash(aligner: Aligner) -> str:
    """A hash of an aligner's weights as they lie on disk, whatever else its folder holds."""
    digest = hashlib.sha256()
    for name, value in sorted(aligner.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().half().contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_truncation(truncation: float | int) -> None:
    """Refuse a truncation outside [0, 1], and NaN."""
    if not 0 <= truncation <= 1:
        raise InputError(f"truncation={truncation}: expected 0 (the point estimate) to 1 (an honest draw)")


def _log_radial(precision: Tensor, along: Tensor, dim: int) -> Tensor:
    """log ∫₀^∞ r^(dim−1) exp(−precision·r²/2 + along·r) dr for each entry of ``along``."""
    nodes, weights = (torch.from_numpy(part).to(along) for part in np.polynomial.legendre.leggauss(NODES))
    mode = (along + (along**2 + 4 * precision * (dim - 1)).sqrt()) / (2 * precision)
    width = (precision + (dim - 1) / mode**2).rsqrt()
    low, high = (mode - BELOW * width).clamp(min=0), mode + ABOVE * width
    radius = (low + high)[..., None] / 2 + (high - low)[..., None] / 2 * nodes
    exponent = (dim - 1) * radius.log() - 0.5 * precision[:, None] * radius**2 + along[..., None] * radius
    return torch.logsumexp(exponent + weights.log(), dim=-1) + ((high - low) / 2).log()
