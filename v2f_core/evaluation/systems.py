"""A row of the tables: for each test person a predicted identity, drawn faces, or both. And how the faces are drawn.

Faces are drawn and scored batch by batch into a folder named after all that decides them, so that a killed run goes on
where it stopped, with the same bytes. Every person has a noise of their own, the same under every system: what two
systems differ in is then no luck of the draw.
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
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from v2f_core.artefacts.files import atomic_write
from v2f_core.artefacts.provenance import SYNTHETIC
from v2f_core.errors import InputError
from v2f_core.evaluation.scorer import AT_ONCE, Faces, Pixels, Scorer
from v2f_core.training.embeddings import read_image

if TYPE_CHECKING:
    from v2f_core.diffusion.prior import Prior


@dataclass(frozen=True)
class System:
    """A row: what is predicted and drawn for each of n test persons.

    Attributes:
        name: as in the tables.
        what: in a sentence.
        predicted: ẑ, where the system predicts one.
        faces: the first draw of everybody, the second, …
        asked: the persons it can answer for (whoever has one photograph has no *other* one); all when None.
        shuffles: row k says whose answer each person gets; measures are averaged over the rows. None: one's own.
        shown: it was given a true face or identity, so that the ceilings of voices do not bound it.
        guidance: the scale that its faces were drawn under; None where nothing was drawn from noise.
    """

    name: str
    what: str
    predicted: Float32[np.ndarray, "n 512"] | None = None
    faces: tuple[Faces, ...] = ()
    asked: Bool[np.ndarray, " n"] | None = None
    shuffles: Int[np.ndarray, "times n"] | None = None
    shown: bool = False
    guidance: float | None = None

    @property
    def undetected(self) -> int:
        """Images without a face that the detector finds, all draws together; each is a miss with cosine 0."""
        asked = slice(None) if self.asked is None else self.asked
        return sum(int((~draw.identities[asked].any(axis=1)).sum()) for draw in self.faces)


@dataclass(frozen=True)
class Drawing:
    """How faces are drawn: solver steps, guidance scale, and the seed that each person's noise is derived from."""

    steps: int = 10
    guidance: float = 3.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.seed < 0:
            raise InputError(f"steps={self.steps}, seed={self.seed}: expected at least 1 step and a seed from 0 up")


def noise_of(person: str, shape: tuple[int, ...], seed: int = 0, draw: int = 0) -> Tensor:
    """The standard normal latents that a person's face is drawn from, whoever else is drawn beside them.

    Example:
        >>> bool((noise_of("Ada", (4, 2, 2)) == noise_of("Ada", (4, 2, 2))).all())
        True
        >>> bool((noise_of("Ada", (4, 2, 2)) == noise_of("Ada", (4, 2, 2), draw=1)).any())
        False
    """
    digest = hashlib.sha256(f"{seed}/{draw}/{person}".encode()).digest()
    return torch.randn(shape, generator=torch.Generator().manual_seed(int.from_bytes(digest[:7], "little")))


@torch.no_grad()
def draw_faces(
    prior: Prior,
    conditions: Float[Tensor, "n 512"] | Float[Tensor, "n tokens width"],
    persons: Sequence[str],
    scorer: Scorer,
    folder: Path,
    made: Mapping[str, str],
    drawing: Drawing,
    draw: int = 0,
    label: str = "faces",
) -> Faces:
    """One face of each person, drawn and scored, or read from an earlier run that drew the same.

    Args:
        prior: draws.
        conditions: unit identities, or tokens for the cross-attention in their place.
        persons: names, which each person's noise is derived from.
        scorer: looks at the faces.
        folder: faces go into a folder of it, named by a hash of all that decides them.
        made: hashes of the weights of prior and scorers.
        drawing: steps, guidance, seed.
        draw: 0 for everybody's first face, 1 for the second, …
        label: of the progress bar.
    """
    bytes_of = conditions.detach().cpu().contiguous().numpy().tobytes()
    decides = {
        **made,
        **asdict(drawing),
        "draw": draw,
        "conditions_sha256": hashlib.sha256(bytes_of).hexdigest(),
        "persons_sha256": hashlib.sha256("\n".join(persons).encode()).hexdigest(),
    }

    def make(rows: range) -> Float[Tensor, "batch 3 height width"]:
        part = conditions[rows.start : rows.stop].to(prior.device)
        c = prior.condition(part) if part.ndim == 2 else part
        noise = [noise_of(persons[row], prior.latent_shape, drawing.seed, draw) for row in rows]
        dtype = prior.unet.dtype
        latents = prior.denoise(
            torch.stack(noise).to(prior.device, dtype), c.to(dtype), drawing.steps, drawing.guidance
        )
        return prior.decode(latents)

    return _resumable(make, len(persons), scorer, folder, decides, label)


@torch.no_grad()
def rebuild_faces(prior: Prior, paths: Sequence[Path], scorer: Scorer, folder: Path, made: Mapping[str, str]) -> Faces:
    """What is left of photographs after the VAE: the best that any sampler of its latents could do."""
    from PIL import Image, ImageOps

    side = prior.latent_shape[1] * 2 ** (len(prior.vae.config.block_out_channels) - 1)
    decides = {**made, "what": "VAE reconstruction", "photographs": [path.as_posix() for path in paths]}

    def make(rows: range) -> Float[Tensor, "batch 3 height width"]:
        squares = [
            ImageOps.fit(Image.fromarray(read_image(paths[row])), (side, side), Image.Resampling.LANCZOS)
            for row in rows
        ]
        pixels = torch.from_numpy(np.stack([np.asarray(square) for square in squares])).permute(0, 3, 1, 2)
        images = pixels.contiguous().to(prior.device, prior.vae.dtype) / 127.5 - 1
        return prior.decode(prior.encode(images))

    return _resumable(make, len(paths), scorer, folder, decides, "VAE reconstructions")


def best_of(draws: Sequence[Faces], predicted: Float32[np.ndarray, "n 512"]) -> tuple[Faces, Int[np.ndarray, " n"]]:
    """Of several faces of each person the one most like ẑ, and which that was. The true face plays no part in it.

    Example:
        >>> blank = np.zeros((1, 0), np.float32)
        >>> one, other = (Faces(z[None], blank, blank, [None]) for z in np.eye(2, 512, dtype=np.float32))
        >>> best_of([one, other], other.identities)[1]
        array([1])
    """
    likeness = np.stack([(faces.identities * predicted).sum(axis=1) for faces in draws])
    chosen, rows = likeness.argmax(axis=0), np.arange(len(predicted))
    picked = {
        name: np.stack([getattr(faces, name) for faces in draws])[chosen, rows]
        for name in ("identities", "posteriors", "features")
    }
    return Faces(**picked, paths=[draws[which].paths[row] for row, which in enumerate(chosen)]), chosen


def _resumable(
    make: Callable[[range], Tensor], n: int, scorer: Scorer, folder: Path, decides: Mapping[str, object], label: str
) -> Faces:
    """Make n images batch by batch, store each batch's images and scores, and skip the batches that are there."""
    from safetensors.numpy import load_file, save_file
    from tqdm import tqdm

    told = json.dumps({"synthetic": True, **decides}, indent=2, ensure_ascii=False) + "\n"
    folder = folder / hashlib.sha256(told.encode()).hexdigest()[:12]
    with atomic_write(folder / "provenance.json") as temporary:
        temporary.write_text(told, encoding="utf-8")
    paths: list[Path | None] = [folder / f"{row:05d}.webp" for row in range(n)]
    parts = []
    with tqdm(total=n, desc=label, unit="face", mininterval=1.0) as bar:
        for start in range(0, n, AT_ONCE):
            rows = range(start, min(start + AT_ONCE, n))
            shard = folder / f"{start:05d}.safetensors"
            if not shard.exists():
                images = _to_pixels(make(rows))
                for row, image in zip(rows, images, strict=True):
                    _save_synthetic(image, folder / f"{row:05d}.webp")
                with atomic_write(shard) as temporary:  # after its images: a shard that exists is whole
                    save_file(scorer(images), temporary)
            parts.append(load_file(shard))
            bar.update(len(rows))
    return Faces(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, paths=paths)


def _to_pixels(images: Float[Tensor, "n 3 height width"]) -> list[Pixels]:
    from diffusers.image_processor import VaeImageProcessor

    unit = VaeImageProcessor.pt_to_numpy((images.float() / 2 + 0.5).clamp(0, 1))
    return [np.asarray(image) for image in VaeImageProcessor.numpy_to_pil(unit)]


def _save_synthetic(image: Pixels, path: Path) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x010E] = SYNTHETIC  # ImageDescription
    with atomic_write(path) as temporary:
        Image.fromarray(image).save(temporary, "WEBP", quality=90, exif=exif)
