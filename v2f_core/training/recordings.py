"""The recordings of a split's persons: which clips a training step hears, and how an encoder hears them all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from v2f_core.errors import InputError
from v2f_core.speech.audio import CLIP_SECONDS, read_clips
from v2f_core.speech.encoders import SpeechEncoder
from v2f_core.training.embeddings import voice_embedder
from v2f_core.training.pairs import Pairs, pair_up
from v2f_core.training.reading import read_ahead

if TYPE_CHECKING:
    from v2f_core.data.manifest import Manifest
    from v2f_core.training.store import Embeddings

AT_ONCE = 16  # recordings embedded together
STRIDE = 1_000_003  # between the seeds of two runs, which count steps up from there


class Batch(NamedTuple):
    """What one step needs, drawn but not yet read."""

    label: Int[Tensor, " batch"]
    paths: list[Path]
    place: Float[Tensor, " batch"]  # of the clip among its recording's: 0 is the first, towards 1 the last
    face: Float[Tensor, "batch identity"]
    generator: torch.Generator  # for all that is drawn after it


@dataclass(frozen=True)
class Recordings:
    """The recordings of some persons, beside their stored embeddings.

    Attributes:
        pairs: persons, faces, and the windows' embeddings by the encoder as it was.
        paths: of each person, their recordings, in the order in which ``pairs`` has their windows.
        seconds: length of a clip.
    """

    pairs: Pairs
    paths: list[list[Path]]
    seconds: float = CLIP_SECONDS

    def draw(self, batch: int, seed: int, step: int) -> Batch:
        """Random persons, none twice; of each a random recording and photo. A step draws the same whatever was before.

        Persons count alike, and recordings of a person too. With fewer persons than ``batch``, the batch is smaller.
        """
        generator = torch.Generator().manual_seed((seed * STRIDE + step) % 2**32)
        label = torch.randperm(len(self.paths), generator=generator)[:batch]
        which, photo, place = torch.rand(3, len(label), generator=generator)
        paths = [self.paths[i][int(u * len(self.paths[i]))] for i, u in zip(label.tolist(), which, strict=True)]
        start = self.pairs.face_start
        face = self.pairs.face[start[label] + (photo * start.diff()[label]).long()]
        return Batch(label, paths, place, face, generator)

    def read(self, paths: Sequence[Path], workers: int = 0) -> Iterator[Any]:
        """The clips of each recording, one after the other, or the ``InputError`` of one that cannot be read."""
        return read_ahead(paths, partial(read_clips, seconds=self.seconds), workers)

    def heard_by(self, encoder: SpeechEncoder, workers: int = 0) -> Pairs:
        """The pairs with the windows' embeddings by an encoder as it is now."""
        embed = voice_embedder(encoder)
        stream = self.read([path for paths in self.paths for path in paths], workers)
        rows: list[Tensor] = []
        while contents := list(islice(stream, AT_ONCE)):
            rows += [found.cpu() for found in whole(embed(whole(contents)))]
        return replace(self.pairs, voice=torch.cat(rows))


def recordings(
    manifest: Manifest, voices: Embeddings, faces: Embeddings, split: str, seconds: float = CLIP_SECONDS
) -> Recordings:
    """The persons of a split with their recordings, without those that could not be embedded.

    Raises:
        InputError: nobody in the split has both a usable voice and a usable face.
    """
    pairs, table, usable = pair_up(manifest, voices, faces, split), manifest.voices(split), set(voices.items)
    paths: dict[str, list[Path]] = {person: [] for person in pairs.persons}
    for person, path in zip(table.person, table.path, strict=True):
        if path in usable and person in paths:
            paths[person].append(manifest.root / path)
    return Recordings(pairs, list(paths.values()), seconds)


def whole(contents: Sequence[Any]) -> list[Tensor]:
    """What was read, if all could be.

    Raises:
        InputError: that of the first recording that could not. It could when it was embedded: it was changed since.
    """
    for content in contents:
        if isinstance(content, InputError):
            raise content
    return list(contents)
