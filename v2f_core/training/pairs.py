"""The embedded voices and faces of a split's persons, on which Stage I is trained and evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from v2f_core.artefacts.store import Embeddings, Rows, pick
from v2f_core.data.manifest import Manifest
from v2f_core.errors import InputError
from v2f_core.identity.sphere import mean_direction

AT_ONCE = 1 << 13  # rows that are looked at together


@dataclass(frozen=True)
class Pairs:
    """The voices and faces of some persons, person after person."""

    persons: list[str]  # names; person i is class i
    sexes: list[str]  # "f" or "m"
    voice: Float[Tensor, "windows speaker"] | Rows  # speaker embeddings of all windows, of many on disk
    voice_start: Int[Tensor, " bounds"]  # person i has rows voice_start[i] to voice_start[i + 1]
    face: Float[Tensor, "photos identity"] | Rows  # identities of all photos
    face_start: Int[Tensor, " bounds"]
    left_out: list[str] = field(default_factory=list)  # persons of the split without a usable voice or face

    def pooled_voices(self) -> Float[Tensor, "persons speaker"]:
        """The mean speaker embedding of each person: the aligner's input outside training."""
        return torch.stack([part.mean(dim=0) for part in _cut(self.voice, self.voice_start)])

    def centroids(self) -> Float[Tensor, "persons identity"]:
        """The mean direction of each person's photos."""
        return torch.stack([mean_direction(part) for part in _cut(self.face, self.face_start)])

    def gallery(self) -> Float[Tensor, "persons identity"]:
        """One photo of each person: the first."""
        return self.face[self.face_start[:-1]]

    def women(self) -> Bool[Tensor, " persons"]:
        """Whether each person is a woman."""
        return torch.tensor([sex == "f" for sex in self.sexes], device=self.face.device)

    def draw(
        self, batch: int, windows: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch speaker"], Float[Tensor, "batch identity"], Int[Tensor, " batch"]]:
        """Random persons, none twice; of each the mean of 1 to ``windows`` random windows, a random photo, the index.

        With fewer persons than ``batch`` the batch is smaller.
        """
        label = torch.randperm(len(self.persons), generator=generator)[:batch]
        count = len(label)
        start, rows = self.voice_start[label][:, None], self.voice_start.diff()[label][:, None]
        which = start + (torch.rand(count, windows, generator=generator) * rows).long()
        kept = torch.randint(1, windows + 1, (count, 1), generator=generator) > torch.arange(windows)
        weight = kept / kept.sum(dim=1, keepdim=True)
        photos = self.face_start.diff()[label]
        photo = self.face_start[label] + (torch.rand(count, generator=generator) * photos).long()
        device = self.voice.device
        voice = torch.einsum("bw,bwd->bd", weight.to(device), self.voice[which.to(device)])
        return voice, self.face[photo.to(device)], label.to(device)

    def check(self) -> None:
        """Refuse pairs that no loss can be computed from.

        Raises:
            InputError: there are fewer than two persons, or an embedding has no direction; then the person is named.
        """
        if len(self.persons) < 2:
            expected = "expected at least 2 to train on, and 2 to validate; the losses compare persons"
            raise InputError(f"{len(self.persons)} person with voice and face: {expected}")
        for kind, rows, start in (("voice", self.voice, self.voice_start), ("face", self.face, self.face_start)):
            for at in range(0, len(rows), AT_ONCE):
                part = rows[at : at + AT_ONCE]
                bad = at + (~(part.isfinite().all(dim=1) & part.any(dim=1))).nonzero().flatten().cpu()
                if len(bad):
                    person = self.persons[int(torch.searchsorted(start, bad[0], right=True)) - 1]
                    wrong = f"{person}: an embedding of the {kind} is zero, infinite or NaN"
                    raise InputError(f"{wrong}; extract them again, or leave the person out")

    def only(self, which: list[int]) -> Pairs:
        """Some of the persons, in the order given."""
        names, sexes = ([values[i] for i in which] for values in (self.persons, self.sexes))
        voices = _rows_of(self.voice, self.voice_start, which)
        return Pairs(names, sexes, *voices, *_rows_of(self.face, self.face_start, which), self.left_out)

    def pooled(self) -> Pairs:
        """The same persons with one voice row each, their mean: all that an evaluation asks for."""
        return replace(self, voice=self.pooled_voices(), voice_start=torch.arange(len(self.persons) + 1))

    def to(self, device: str | torch.device) -> Pairs:
        """The same pairs with their embeddings on a device; the bounds stay on the CPU."""
        return replace(self, voice=self.voice.to(device), face=self.face.to(device))


def pair_up(manifest: Manifest, voices: Embeddings | None, faces: Embeddings, split: str | None = None) -> Pairs:
    """The persons of a split, or of all, with the stored embeddings of their voices and faces.

    Without ``voices`` the pairs have faces alone.

    Raises:
        InputError: nobody in the split has both.
    """
    voice, voice_items = voices.of(manifest.voices(split).path) if voices else (torch.empty(0, 0), [])
    face, face_items = faces.of(manifest.faces(split).path)
    owner = dict(zip(manifest.table.path, manifest.table.person, strict=True))
    speakers, sitters = [owner[item] for item in voice_items], [owner[item] for item in face_items]
    everyone = manifest.persons(split)
    persons = sorted(set(speakers) & set(sitters) if voices else set(sitters))
    if not persons:
        nobody = "nobody has a usable voice and a usable face"
        raise InputError(f"split {split or 'all'}: {nobody}; check the skipped files")
    heard, seen = _sort_by_person(voice, speakers, persons), _sort_by_person(face, sitters, persons)
    left_out = sorted(set(everyone.index) - set(persons))
    return Pairs(persons, everyone.sex[persons].tolist(), *heard, *seen, left_out)


def _cut(rows: Tensor | Rows, start: Tensor) -> Iterator[Tensor]:
    return (rows[a:b] for a, b in pairwise(start.tolist()))


def _rows_of(rows: Tensor | Rows, start: Tensor, which: list[int]) -> tuple[Tensor | Rows, Tensor]:
    bounds = start.tolist()
    places = [torch.arange(bounds[i], bounds[i + 1]) for i in which]
    return pick(rows, torch.cat(places)), torch.tensor([0, *map(len, places)]).cumsum(0)


def _sort_by_person(rows: Tensor | Rows, owners: list[str], persons: list[str]) -> tuple[Tensor | Rows, Tensor]:
    person = torch.from_numpy(pd.Index(persons).get_indexer(owners))  # -1 where it is nobody's
    order = torch.argsort(person, stable=True)[(person < 0).sum() :]
    return pick(rows, order), torch.searchsorted(person[order], torch.arange(len(persons) + 1))
