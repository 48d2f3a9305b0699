"""Latents and landmarks of every real face, made once and stored: a row is a face's latents and ten coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from v2f_core.artefacts.files import folder_hash
from v2f_core.artefacts.profiles import Profile
from v2f_core.artefacts.store import Embeddings, extract
from v2f_core.data.manifest import Manifest
from v2f_core.diffusion.consistency import FaceBatch
from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError
from v2f_core.identity.faces import FacePack
from v2f_core.identity.photos import read_image
from v2f_core.training.embeddings import NO_FACE, READING, store_folder
from v2f_core.training.pairs import Pairs, pair_up
from v2f_core.training.processes import join

Shape = tuple[int, int, int]  # of latents: channels, height and width


@torch.no_grad()
def embed_latents(
    prior: Prior, pack: FacePack, pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]]
) -> list[Tensor | InputError]:
    """Encode the middle square of each picture, and find the largest face's landmarks in the pixels it is drawn in."""
    side, results = prior.image_side, list[Tensor | InputError]()
    for picture in pictures:
        crop = min(picture.shape[:2])
        top, left = ((length - crop) // 2 for length in picture.shape[:2])
        square = np.ascontiguousarray(picture[top : top + crop, left : left + crop])  # the prior draws squares
        if not (faces := pack.detect(square)):
            results.append(InputError(NO_FACE))
            continue
        small = np.array(Image.fromarray(square).resize((side, side), Image.Resampling.LANCZOS))
        pixels = torch.from_numpy(small).permute(2, 0, 1).contiguous()[None].float() / 127.5 - 1
        latents = prior.encode(pixels.to(prior.device)).float().cpu()
        landmarks = torch.from_numpy(faces[0].landmarks) * side / crop
        results.append(torch.cat([latents.flatten(), landmarks.flatten()])[None])
    return results


def stored_latents(profile: Profile, manifest: Manifest, prior: Prior, pack: FacePack) -> Embeddings:
    """Latents and landmarks of the training and validation faces of a profile's dataset, from the cache or made now.

    Processes of a launcher share the work. A prior with another UNet, but the same VAE, uses the same store. Errors are
    those of :func:`~v2f_core.training.embeddings.embed_dataset`.
    """
    join(prior.device.type)
    vae, faces = folder_hash(profile.part("prior") / "vae"), folder_hash(profile.part("faces"))
    items = [path for split in ("train", "val") for path in manifest.faces(split).path]
    folder = store_folder("latents", [READING, vae, faces, *items])
    provenance = {"what": "latents, landmarks", "vae_sha256": vae, "pack_sha256": faces}
    embed = partial(embed_latents, prior, pack)
    return extract(manifest.root, items, embed, folder, provenance, describe="latents", decode=read_image)


@dataclass(frozen=True)
class FacePairs:
    """The voices and faces of some persons, the faces with their latents and landmarks."""

    wide: Pairs  # whose face rows are z_arc, latents and landmarks side by side
    latent_shape: Shape

    @cached_property
    def pairs(self) -> Pairs:
        """The same persons with z_arc alone, as in Stage I."""
        return replace(self.wide, face=self._split(self.wide.face[:])[0])

    def draw(
        self, batch: int, windows: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch speaker"], Int[Tensor, " batch"], FaceBatch]:
        """Pooled voices of random persons, their indices, and a random photo of each; see `Pairs.draw`."""
        voice, rows, label = self.wide.draw(batch, windows, generator)
        return voice, label, self._faces(rows, label)

    def first(self, count: int) -> tuple[Float[Tensor, "batch speaker"], FaceBatch]:
        """The pooled voices and first photos of the first persons."""
        label = torch.arange(min(count, len(self.wide.persons)), device=self.wide.face.device)
        return self.wide.pooled_voices()[label], self._faces(self.wide.gallery()[label], label)

    def to(self, device: str | torch.device) -> FacePairs:
        """Copy to a device."""
        return FacePairs(self.wide.to(device), self.latent_shape)

    def _split(self, rows: Tensor) -> tuple[Tensor, ...]:
        codes, points = math.prod(self.latent_shape), 5 * 2
        return rows.split([rows.shape[1] - codes - points, codes, points], dim=1)

    def _faces(self, rows: Tensor, label: Tensor) -> FaceBatch:
        z_arc, codes, points = self._split(rows)
        latents, landmarks = codes.view(-1, *self.latent_shape), points.view(-1, 5, 2)
        return FaceBatch(latents, landmarks, z_arc, self.wide.women()[label])


def pair_faces(
    manifest: Manifest, voices: Embeddings, faces: Embeddings, latents: Embeddings, split: str, latent_shape: Shape
) -> FacePairs:
    """The persons of a split who have a voice, and a face with an identity and latents, from the three stores."""
    rows, items = latents.of(faces.of(manifest.faces(split).path)[1])
    joined = torch.cat([faces.of(items)[0][:], rows[:]], dim=1)
    return FacePairs(pair_up(manifest, voices, Embeddings(joined, items, [], {}), split), latent_shape)
