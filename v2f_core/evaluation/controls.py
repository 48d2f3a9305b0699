"""Every row of the tables: baselines, trained systems, and upper bounds.

The gallery holds the *first* photograph of each test person. Rows that start from a real face (another photograph, its
reconstruction, the oracle) use the *second* one; they leave out persons without a second, and their n counts the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from v2f_core.artefacts.files import folder_hash
from v2f_core.artefacts.loading import read_json, refusing
from v2f_core.diffusion.lora import load_lora
from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError
from v2f_core.evaluation import metrics
from v2f_core.evaluation.systems import Drawing, Faces, Scorer, System, best_of, draw_faces, rebuild_faces
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.sphere import mean_direction
from v2f_core.training.pairs import Pairs

DERANGEMENTS, BEST_OF = 200, 4
GUIDANCES = (1.0, 2.0, 3.0, 4.5)
MEAN, SEX_MEAN, RANDOM, SHUFFLED = "mean face", "same-sex mean face", "random real face", "shuffled voice"
NULL, NO_DSC, FULL = "no identity", "w/o DSC (Stage I)", "full"
BEST, ORACLE, VAE, OTHER = "best of 4 by ẑ", "oracle", "VAE reconstruction", "another real photo"
WHAT = {
    MEAN: "the mean identity of the training persons, the same for everybody",
    SEX_MEAN: "the mean identity of the training women or men: the best answer to sex alone",
    RANDOM: f"another test person's photograph; mean of {DERANGEMENTS} derangements",
    SHUFFLED: f"Stage I, given another test person's voice; mean of {DERANGEMENTS} derangements",
    NULL: "the prior under the empty prompt, without an identity",
    NO_DSC: "Table 4: Stage I alone, the prior as it was",
    FULL: "Stage II with the critic in brackets",
    BEST: "of four faces of the row above the one with the highest cosine with ẑ by f_arc",
    ORACLE: "the true identity, from another photograph, through the same prior",
    VAE: "another photograph, encoded and decoded by the VAE",
    OTHER: "another photograph of the person, without drawing: the best that the scorer allows",
}
DRAWABLE = (MEAN, SEX_MEAN, NULL, NO_DSC, BEST, ORACLE)


def derangement(n: int, seed: int) -> Int[np.ndarray, " n"]:
    """A random permutation that leaves nobody in place."""
    if n < 2:
        raise InputError(f"a derangement of {n}: expected at least 2 persons")
    generator = np.random.default_rng(seed)
    while True:
        order = generator.permutation(n)
        if not (order == np.arange(n)).any():
            return order


def predictions(test: Pairs, training: Pairs, aligner: Aligner, seed: int = 0) -> dict[str, np.ndarray]:
    """Identities of the test persons by the aligner ("full") and by its baselines, as in `WHAT`; one derangement.

    A sex without training persons has the mean face.
    """
    sexes, centroids = np.array(training.sexes), training.centroids()
    of_sex = {sex: mean_direction(centroids[sexes == sex]) for sex in set(training.sexes)}
    mean = mean_direction(centroids)
    with torch.no_grad():
        full = aligner(test.pooled_voices())
    return {
        MEAN: mean.expand(len(full), -1).numpy(),
        SEX_MEAN: torch.stack([of_sex.get(sex, mean) for sex in test.sexes]).numpy(),
        SHUFFLED: full.numpy()[derangement(len(full), seed)],
        "full": full.numpy(),
    }


@dataclass(frozen=True)
class Bench:
    """The persons, networks and settings that all rows share."""

    training: Pairs
    test: Pairs
    photos: Sequence[Sequence[Path]]  # usable ones of each test person, in the order of ``test``
    prior: Prior
    scorer: Scorer
    folder: Path  # of drawn faces
    hashes: Mapping[str, str]  # of the weights of prior and scorers
    drawing: Drawing = field(default_factory=Drawing)
    draws: int = 1  # faces a person
    guidance: Mapping[str, float] = field(default_factory=dict)  # of single rows; the others take the drawing's

    @cached_property
    def gallery(self) -> Faces:
        """The first photograph of each person."""
        return self.scorer.photographs([paths[0] for paths in self.photos])

    @cached_property
    def others(self) -> Faces:
        """The second photograph of each person who has one."""
        rows = np.flatnonzero(self.has_other).tolist()
        return self.scorer.photographs([self.photos[row][1] for row in rows]).placed(rows, len(self.photos))

    @cached_property
    def has_other(self) -> Bool[np.ndarray, " n"]:
        """Whether each person has a second photograph."""
        return np.array([len(paths) > 1 for paths in self.photos])

    def draw(
        self, name: str, conditions: Float[Tensor, "n 512"] | Float[Tensor, "n tokens width"], draws: int | None = None
    ) -> tuple[Faces, ...]:
        """Faces of a row under some conditions, ``draws`` of each person."""
        drawing = replace(self.drawing, guidance=self.scale(name))
        shared = (self.prior, conditions, self.test.persons, self.scorer, self.folder, self.hashes, drawing)
        return tuple(draw_faces(*shared, k, f"{name}, face {k + 1}") for k in range(draws or self.draws))

    def scale(self, name: str) -> float:
        """The guidance of a row."""
        return self.guidance.get(name, self.drawing.guidance)

    def row(self, name: str, z: Float32[np.ndarray, "n 512"], drawn: bool) -> System:
        """A system that predicts identities, with or without drawn faces."""
        identity = torch.from_numpy(z.copy())  # in order, whatever the rows of z share
        faces = self.draw(name, identity) if drawn else ()
        return System(name, identity.numpy(), faces, guidance=self.scale(name) if drawn else None)


@dataclass(frozen=True)
class Stage2:
    """A trained Stage II: the name of its critic, its aligner, and the prior with its adapters."""

    critic: str
    aligner: Aligner
    prior: Prior
    lora_sha256: str

    @classmethod
    def from_folder(cls, folder: Path, prior: Path, device: str = "cpu") -> Stage2:
        """Read a folder written by ``python -m v2f_core stage2``, today's or version 0.1's; others are refused."""
        with refusing(folder, "a folder of Stage II, whose provenance.json names a critic", "give stage2's --out"):
            record = read_json(folder / "provenance.json")
            settings = record["settings"]
            critic = record["critic"] if "critic" in record else settings["consistency"]["mode"]  # version 0.1
            critic = "no L_self" if settings.get("weight_self") == 0 else str(critic)
        adapted = Prior.from_folder(prior, device)
        load_lora(adapted, folder / "lora")
        return cls(critic, Aligner.from_pretrained(folder / "aligner"), adapted, folder_hash(folder / "lora"))


def rows(
    bench: Bench, aligner: Aligner, drawn: Collection[str] = (NO_DSC,), stage2: Sequence[Stage2] = ()
) -> Iterator[System]:
    """All rows, from baselines to upper bounds; those in ``drawn`` and Stage II with faces, the others by ẑ, if any."""
    test, n = bench.test, len(bench.test.persons)
    z = predictions(test, bench.training, aligner)
    orders = np.stack([derangement(n, k) for k in range(DERANGEMENTS)])
    yield bench.row(MEAN, z[MEAN], MEAN in drawn)
    yield bench.row(SEX_MEAN, z[SEX_MEAN], SEX_MEAN in drawn)
    yield System(RANDOM, faces=(bench.gallery,), shuffles=orders)
    if NULL in drawn:
        unguided = replace(bench, guidance={NULL: 1.0})  # guidance is a difference from null, so it has no effect here
        with torch.no_grad():
            yield System(NULL, faces=unguided.draw(NULL, bench.prior.null(n)))
    last = bench.row(NO_DSC, z["full"], NO_DSC in drawn)
    yield System(SHUFFLED, last.predicted, last.faces, shuffles=orders)
    yield last
    adapted = bench
    for trained in stage2:
        adapted = replace(bench, prior=trained.prior, hashes={**bench.hashes, "lora_sha256": trained.lora_sha256})
        with torch.no_grad():
            z_hat = trained.aligner(test.pooled_voices()).numpy()
        last = adapted.row(f"{FULL} ({trained.critic})", z_hat, True)
        yield last
    if BEST in drawn and last.predicted is not None:
        picked = best_of(adapted.draw(BEST, torch.from_numpy(last.predicted), BEST_OF), last.predicted)
        yield System(BEST, faces=(picked,), guidance=bench.scale(BEST))  # its ẑ is that of the last system
    if not bench.has_other.any():
        return  # the rows below need a second photograph
    if ORACLE in drawn:  # without persons whose photograph shows no detectable face: no identity to draw
        answered = np.any(bench.others.identities, axis=1)
        known = np.where(answered[:, None], bench.others.identities, np.float32(1))
        faces = bench.draw(ORACLE, F.normalize(torch.from_numpy(known), dim=1))
        yield System(ORACLE, faces=faces, answered=answered, shown=True, guidance=bench.scale(ORACLE))
    there = np.flatnonzero(bench.has_other).tolist()
    paths = [bench.photos[row][1] for row in there]
    rebuilt = rebuild_faces(bench.prior, paths, bench.scorer, bench.folder, bench.hashes).placed(there, n)
    yield System(VAE, faces=(rebuilt,), answered=bench.has_other, shown=True)
    yield System(OTHER, faces=(bench.others,), answered=bench.has_other, shown=True)


def tuned(validation: Bench, rows: Callable[[Bench], Iterator[System]]) -> dict[str, dict[float, float]]:
    """The mean cosine of each drawn row's faces under each guidance: one for all would favour the row that it suits."""
    truth = validation.gallery.identities
    likeness: dict[str, dict[float, float]] = {}
    for scale in GUIDANCES:
        for row in rows(replace(validation, drawing=replace(validation.drawing, guidance=scale), draws=1)):
            if row.guidance is not None and row.shuffles is None:
                cosines = metrics.cosine(row.faces[0].identities, truth)[row.of(len(truth))]
                likeness.setdefault(row.name, {})[scale] = float(cosines.mean())
    return likeness
