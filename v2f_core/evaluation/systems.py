"""A row of the tables: for each test person a predicted identity, drawn faces, or both; and how faces are drawn.

Faces are drawn and scored batch by batch into a folder named by a hash of all inputs: a killed run goes on where it
stopped, with the same bytes. Each person's noise is the same under every system, so systems do not differ by chance.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, UInt8
from PIL import Image, ImageOps
from safetensors.numpy import save_file
from torch import Tensor
from tqdm import tqdm

from v2f_core.artefacts.files import SYNTHETIC, atomic_write, write_json
from v2f_core.artefacts.loading import read_tensors
from v2f_core.identity.photos import read_image

if TYPE_CHECKING:  # any object with the same methods will do
    from v2f_core.diffusion.prior import Prior
    from v2f_core.evaluation.judge import Judge
    from v2f_core.identity.faces import FacePack

AT_ONCE = 8  # images drawn and scored together
SCORES = ("identities", "posteriors", "features")
Pixels = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class Faces:
    """One face a person, as the scorers see it. Columns of a scorer that is not there have width 0."""

    identities: Float32[np.ndarray, "n dim"]  # f_arc of the face detected in each image; zero if none is
    posteriors: Float32[np.ndarray, "n classes"]  # the judge's p(y|x)
    features: Float32[np.ndarray, "n width"]  # the second scorer's, unit length
    paths: list[Path | None]  # None for a person without an image

    @classmethod
    def of(cls, identities: Float32[np.ndarray, "n dim"]) -> Faces:
        """Faces of which the identities alone are known."""
        blank = np.zeros((len(identities), 0), np.float32)
        return cls(identities, blank, blank, [None] * len(identities))

    def placed(self, rows: Sequence[int], n: int) -> Faces:
        """These faces at the places ``rows`` of n persons; the other persons have none."""
        whole = {name: np.zeros((n, getattr(self, name).shape[1]), np.float32) for name in SCORES}
        for name, column in whole.items():
            column[list(rows)] = getattr(self, name)
        path_of = dict(zip(rows, self.paths, strict=True))
        return Faces(**whole, paths=[path_of.get(row) for row in range(n)])


@dataclass
class Scorer:
    """The networks that score images."""

    pack: FacePack  # f_arc, on which the prior is conditioned
    judge: Judge | None = None  # for VFS
    second: FacePack | None = None  # the second scorer; without it, the input of the judge's last layer

    def __call__(self, images: Sequence[Pixels]) -> dict[str, Float32[np.ndarray, "n _"]]:
        """Identities, posteriors and features of some images."""
        posteriors = features = np.zeros((len(images), 0), np.float32)
        if self.judge is not None:
            posteriors, features = self.judge.posteriors(images), self.judge.features(images)
        if self.second is not None:
            features = self.second.embed(images)[0]
        return {"identities": self.pack.embed(images)[0], "posteriors": posteriors, "features": features}

    def photographs(self, paths: Sequence[Path]) -> Faces:
        """The scores of pictures on disk, of one at least."""
        starts = range(0, len(paths), AT_ONCE)
        parts = [self([read_image(path) for path in paths[start : start + AT_ONCE]]) for start in starts]
        return Faces(**_joined(parts), paths=list(paths))


@dataclass(frozen=True)
class System:
    """A row: the predicted identity and drawn faces of each of n test persons."""

    name: str
    predicted: Float32[np.ndarray, "n dim"] | None = None  # ẑ, if the system predicts an identity
    faces: tuple[Faces, ...] = ()  # the first draw of each person, the second, …
    answered: Bool[np.ndarray, " n"] | None = None  # the persons whom it can answer for; None means all
    shuffles: Int[np.ndarray, "times n"] | None = None  # whose answer each person gets; measures are averaged over rows
    shown: bool = False  # it starts from a true face or identity, so the ceilings of voices do not bound it
    guidance: float | None = None  # of its drawn faces; None if no face was drawn from noise
    scores: Float[np.ndarray, "n n"] | None = None  # of a system that ranks by another score than the cosine with ẑ

    def of(self, n: int) -> Bool[np.ndarray, " n"]:
        """The mask of n persons whom the system can answer for."""
        return np.ones(n, bool) if self.answered is None else self.answered

    @property
    def undetected(self) -> int:
        """Number of images of all draws in which no face is detected; each is a miss with cosine 0."""
        return sum(int((~face.identities[self.of(len(face.paths))].any(axis=1)).sum()) for face in self.faces)


@dataclass(frozen=True)
class Drawing:
    """Settings of the sampler: solver steps, guidance scale, and the seed of every person's noise."""

    steps: int = 10
    guidance: float = 3.0
    seed: int = 0


def noise_of(person: str, shape: tuple[int, ...], seed: int = 0, draw: int = 0) -> Tensor:
    """The standard normal latents that a person's face starts from; they depend on nobody else in the batch."""
    digest = hashlib.sha256(f"{seed}/{draw}/{person}".encode()).digest()
    return torch.randn(shape, generator=torch.Generator().manual_seed(int.from_bytes(digest[:7], "little")))


@torch.no_grad()
def draw_faces(
    prior: Prior,
    conditions: Float[Tensor, "n 512"] | Float[Tensor, "n tokens width"],
    persons: Sequence[str],
    scorer: Scorer,
    folder: Path,
    hashes: Mapping[str, str],
    drawing: Drawing,
    draw: int = 0,
    label: str = "faces",
) -> Faces:
    """One face of each person, drawn and scored, or read from an earlier run with the same inputs.

    Conditions are unit identities, or tokens for the cross-attention; ``hashes`` are of the weights of prior and
    scorers; ``draw`` is 0 for a person's first face, 1 for the second, …
    """
    inputs = {**hashes, **asdict(drawing), "draw": draw}
    values = conditions.detach().cpu().contiguous().numpy().tobytes()
    for name, data in (("conditions", values), ("persons", "\n".join(persons).encode())):
        inputs[f"{name}_sha256"] = hashlib.sha256(data).hexdigest()

    def make(rows: range) -> Float[Tensor, "batch 3 height width"]:
        noise = torch.stack([noise_of(persons[row], prior.latent_shape, drawing.seed, draw) for row in rows])
        return prior.sample(conditions[rows.start : rows.stop], drawing.steps, drawing.guidance, noise=noise)

    return _resumable(make, len(persons), scorer, folder, inputs, label)


@torch.no_grad()
def rebuild_faces(
    prior: Prior, paths: Sequence[Path], scorer: Scorer, folder: Path, hashes: Mapping[str, str]
) -> Faces:
    """Photographs after the VAE's encoder and decoder: an upper bound for any sampler of its latents."""
    side = prior.image_side
    inputs = {**hashes, "what": "VAE reconstruction", "photographs": [path.as_posix() for path in paths]}

    def make(rows: range) -> Float[Tensor, "batch 3 height width"]:
        images = [Image.fromarray(read_image(paths[row])) for row in rows]
        squares = [np.asarray(ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)) for image in images]
        pixels = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).contiguous()
        return prior.decode(prior.encode(pixels.to(prior.device, prior.vae.dtype) / 127.5 - 1))

    return _resumable(make, len(paths), scorer, folder, inputs, "VAE reconstructions")


def best_of(draws: Sequence[Faces], predicted: Float32[np.ndarray, "n 512"]) -> Faces:
    """The one of several faces of each person with the highest cosine with ẑ."""
    likeness = np.stack([(faces.identities * predicted).sum(axis=1) for faces in draws])
    chosen, rows = likeness.argmax(axis=0), np.arange(len(predicted))
    picked = {name: np.stack([getattr(faces, name) for faces in draws])[chosen, rows] for name in SCORES}
    return Faces(**picked, paths=[draws[number].paths[row] for row, number in enumerate(chosen)])


def _resumable(
    make: Callable[[range], Tensor], n: int, scorer: Scorer, folder: Path, inputs: Mapping[str, object], label: str
) -> Faces:
    """Make n images batch by batch and store images and scores of each batch; stored batches are read."""
    from diffusers.image_processor import VaeImageProcessor

    made = {"synthetic": True, **inputs}
    folder /= hashlib.sha256((json.dumps(made, indent=2, ensure_ascii=False) + "\n").encode()).hexdigest()[:12]
    write_json(folder / "provenance.json", made)
    paths: list[Path | None] = [folder / f"{row:05d}.webp" for row in range(n)]
    parts, exif = [], Image.Exif()
    exif[0x010E] = SYNTHETIC  # ImageDescription
    for start in tqdm(range(0, n, AT_ONCE), desc=label, unit="batch", mininterval=1.0):
        shard = folder / f"{start:05d}.safetensors"
        if not shard.exists():
            rows = range(start, min(start + AT_ONCE, n))
            images = VaeImageProcessor().postprocess(make(rows).float())
            for row, image in zip(rows, images, strict=True):
                with atomic_write(folder / f"{row:05d}.webp") as temporary:
                    image.save(temporary, "WEBP", quality=90, exif=exif)
            with atomic_write(shard) as temporary:  # after its images: a shard that exists is whole
                save_file(scorer([np.asarray(image) for image in images]), temporary)
        stored = read_tensors(shard, "delete it and run this again, the rest is kept")
        parts.append({name: tensor.numpy() for name, tensor in stored.items()})
    return Faces(**_joined(parts), paths=paths)


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
