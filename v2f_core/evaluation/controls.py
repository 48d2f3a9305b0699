"""Every row of the tables: what a system must beat, what it is an ablation of, and what bounds it from above.

Convention: the gallery holds the *first* photograph of each test person. Whatever is given a real face (another
photograph, its reconstruction, the oracle) is given the *second* one; who has no second is not asked, and the row's n
says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from v2f_core.artefacts.provenance import folder_hash
from v2f_core.errors import InputError
from v2f_core.evaluation.leaks import DERANGEMENTS, derangements
from v2f_core.evaluation.scorer import Faces, Scorer
from v2f_core.evaluation.stage1_report import predictions
from v2f_core.evaluation.systems import Drawing, System, best_of, draw_faces, rebuild_faces

if TYPE_CHECKING:
    from v2f_core.diffusion.prior import Prior
    from v2f_core.identity.aligner import Aligner
    from v2f_core.training.pairs import Pairs

MEAN, SEX_MEAN, RANDOM, SHUFFLED = "mean face", "same-sex mean face", "random real face", "shuffled voice"
NULL, NO_ARCFACE, COSREG, NO_DSC, FULL = "no identity", "w/o ArcFace", "CosReg", "w/o DSC (Stage I)", "full"
BEST, ORACLE, VAE, OTHER = "best of 4 by ẑ", "oracle", "VAE reconstruction", "another real photo"
WHAT = {
    MEAN: "the mean identity of the training persons, the same for everybody",
    SEX_MEAN: "the mean identity of the training women or men, as if sex alone were heard",
    RANDOM: f"another test person's photograph; mean of {DERANGEMENTS} derangements",
    SHUFFLED: f"Stage I, given another test person's voice; mean of {DERANGEMENTS} derangements",
    NULL: "the prior under the empty prompt: a face of nobody in particular",
    NO_ARCFACE: "Table 4: speech straight into the condition, learned from the noise residual, no identity in between",
    COSREG: "Table 4: Stage I trained by cosine regression in place of L_id; without DSC",
    NO_DSC: "Table 4: Stage I alone, the prior as it was",
    BEST: "of four faces the one that f_arc finds most like ẑ",
    ORACLE: "the true identity, from another photograph, through the same prior",
    VAE: "another photograph, encoded and decoded: what the latents can hold",
    OTHER: "another photograph of the person, nothing drawn: as good as the scorer can be",
}
DRAWABLE = (MEAN, SEX_MEAN, NULL, NO_ARCFACE, COSREG, NO_DSC, BEST, ORACLE)
BEST_OF = 4


@dataclass(frozen=True)
class Bench:
    """What all rows share.

    Attributes:
        training, test: voices and identities.
        photos: of each test person, the usable ones in the order of ``test``; the first stands in the gallery.
        prior: draws.
        scorer: looks at faces.
        folder: drawn faces are kept in it.
        made: hashes of the weights of prior and scorers.
        drawing: steps, guidance, seed.
        draws: faces a person.
        guidance: of rows for which a scale of their own was chosen; the others take the drawing's.
    """

    training: Pairs
    test: Pairs
    photos: Sequence[Sequence[Path]]
    prior: Prior
    scorer: Scorer
    folder: Path
    made: Mapping[str, str]
    drawing: Drawing = field(default_factory=Drawing)
    draws: int = 1
    guidance: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if [] in [list(paths) for paths in self.photos] or len(self.photos) != len(self.test.persons):
            raise InputError("photos: expected at least one of every test person")

    @cached_property
    def gallery(self) -> Faces:
        """Everybody's first photograph."""
        return self.scorer.photographs([paths[0] for paths in self.photos])

    @cached_property
    def others(self) -> Faces:
        """Everybody's second photograph, where there is one."""
        return self.scorer.photographs([paths[1] if len(paths) > 1 else None for paths in self.photos])

    @cached_property
    def has_other(self) -> Bool[np.ndarray, " n"]:
        """Who has a second photograph."""
        return np.array([len(paths) > 1 for paths in self.photos])

    def draw(
        self,
        name: str,
        conditions: Float[Tensor, "n 512"] | Float[Tensor, "n tokens width"],
        draws: int | None = None,
        prior: Prior | None = None,
        made: Mapping[str, str] | None = None,
    ) -> tuple[Faces, ...]:
        """Faces under some conditions, ``draws`` of each person."""
        drawing, made = replace(self.drawing, guidance=self.scale(name)), {**self.made, **(made or {})}
        asked = (prior or self.prior, conditions, self.test.persons, self.scorer, self.folder, made, drawing)
        numbers = range(draws or self.draws)
        return tuple(draw_faces(*asked, number, f"{name}, face {number + 1}") for number in numbers)

    def scale(self, name: str) -> float:
        """The guidance of a row."""
        return self.guidance.get(name, self.drawing.guidance)

    def row(self, name: str, identity: Float[Tensor, "n 512"], drawn: bool) -> System:
        """A system that predicts an identity, drawn or not."""
        faces = self.draw(name, identity) if drawn else ()
        return System(name, WHAT[name], identity.numpy(), faces, guidance=self.scale(name) if drawn else None)


@dataclass(frozen=True)
class Stage2:
    """A trained Stage II: its reading of L_self, its aligner, and the prior with its adapters."""

    mode: str
    aligner: Aligner
    prior: Prior
    lora_sha256: str

    @classmethod
    def from_folder(cls, folder: str | Path, prior: str | Path, device: str = "cpu") -> Stage2:
        """Read what ``python -m v2f_core stage2`` wrote.

        Raises:
            InputError: the folder is not such a training's.
        """
        from v2f_core.diffusion.lora_files import load_lora
        from v2f_core.diffusion.prior import Prior
        from v2f_core.identity.aligner import Aligner

        folder = Path(folder)
        try:
            mode = json.loads((folder / "provenance.json").read_text())["settings"]["consistency"]["mode"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{folder}: no Stage II here (provenance.json tells no mode); give stage2's --out"
            ) from error
        adapted = Prior.from_folder(prior, device)
        load_lora(adapted, folder / "lora")
        return cls(mode, Aligner.from_pretrained(folder / "aligner"), adapted, folder_hash(folder / "lora"))


def rows(
    bench: Bench,
    aligner: Aligner,
    cosreg: Aligner,
    drawn: Collection[str] = (NO_DSC,),
    speech_condition: Callable[[Tensor], Tensor] | None = None,
    stage2: Sequence[Stage2] = (),
) -> Iterator[System]:
    """All rows, from below to above; those in ``drawn`` with faces, the others by ẑ if they have one.

    Args:
        bench: what they share.
        aligner: Stage I's.
        cosreg: one trained by cosine regression.
        drawn: which rows to draw, of `DRAWABLE`; Stage II is always drawn.
        speech_condition: the net of "w/o ArcFace".
        stage2: trained Stages II.
    Raises:
        InputError: no such row, or "w/o ArcFace" is to be drawn without its net.
    """
    if unknown := sorted(set(drawn) - set(DRAWABLE)):
        raise InputError(f"{unknown[0]}: no row that can be drawn; choose of {', '.join(DRAWABLE)}")
    test, n = bench.test, len(bench.test.persons)
    baseline = {name: torch.from_numpy(z.copy()) for name, z in predictions(test, bench.training, aligner).items()}
    orders = derangements(None, n, DERANGEMENTS)
    yield bench.row(MEAN, baseline[MEAN], MEAN in drawn)
    yield bench.row(SEX_MEAN, baseline[SEX_MEAN], SEX_MEAN in drawn)
    yield System(RANDOM, WHAT[RANDOM], faces=(bench.gallery,), shuffles=orders)
    if NULL in drawn:
        with torch.no_grad():
            nobody = bench.prior.null(n)
        unguided = replace(bench, guidance={NULL: 1.0})  # away from null there is nothing to be guided to
        yield System(NULL, WHAT[NULL], faces=unguided.draw(NULL, nobody))
    if NO_ARCFACE in drawn:
        if speech_condition is None:
            raise InputError(f"{NO_ARCFACE}: needs a trained net; give speech_condition")
        with torch.no_grad():
            tokens = speech_condition(test.pooled_voices())
        faces = bench.draw(NO_ARCFACE, tokens)
        yield System(NO_ARCFACE, WHAT[NO_ARCFACE], faces=faces, guidance=bench.scale(NO_ARCFACE))
    with torch.no_grad():
        yield bench.row(COSREG, cosreg(test.pooled_voices()), COSREG in drawn)
    last = bench.row(NO_DSC, baseline["full"], NO_DSC in drawn)
    yield System(SHUFFLED, WHAT[SHUFFLED], last.predicted, last.faces, shuffles=orders)
    yield last
    prior, made = bench.prior, {}
    for trained in stage2:
        with torch.no_grad():
            identity = trained.aligner(test.pooled_voices())
        prior, made = trained.prior, {"lora_sha256": trained.lora_sha256}
        name = f"{FULL} ({trained.mode})"
        faces = bench.draw(name, identity, prior=prior, made=made)
        what, scale = f"Stage II with L_self read as {trained.mode!r}", bench.scale(name)
        last = System(name, what, identity.numpy(), faces, guidance=scale)
        yield last
    if BEST in drawn and last.predicted is not None:
        conditions = torch.from_numpy(last.predicted)
        four = bench.draw(BEST, conditions, BEST_OF, prior, made)
        picked, what = best_of(four, last.predicted)[0], f"{WHAT[BEST]} ({last.name})"
        yield System(BEST, what, faces=(picked,), guidance=bench.scale(BEST))  # its ẑ is that system's
    if not bench.has_other.any():
        return  # nobody has a second photograph to give: no oracle, no reconstruction, no other photo
    if ORACLE in drawn:
        # where no face was found there is no identity to ask for; the row leaves these persons out
        known = np.where(bench.others.identities.any(axis=1, keepdims=True), bench.others.identities, np.float32(1))
        faces = bench.draw(ORACLE, F.normalize(torch.from_numpy(known), dim=1))
        asked = np.array([bool(z.any()) for z in bench.others.identities])
        yield System(ORACLE, WHAT[ORACLE], faces=faces, asked=asked, shown=True, guidance=bench.scale(ORACLE))
    yield _rebuilt(bench)
    yield System(OTHER, WHAT[OTHER], faces=(bench.others,), asked=bench.has_other, shown=True)


def _rebuilt(bench: Bench) -> System:
    """Second photographs through the VAE, laid out over all persons."""
    there = [row for row, other in enumerate(bench.has_other) if other]
    paths = [bench.photos[row][1] for row in there]
    found = rebuild_faces(bench.prior, paths, bench.scorer, bench.folder, bench.made)
    spread = {}
    for name in ("identities", "posteriors", "features"):
        part = getattr(found, name)
        spread[name] = np.zeros((len(bench.photos), part.shape[1]), np.float32)
        spread[name][there] = part
    where = dict(zip(there, found.paths, strict=True))
    faces = Faces(**spread, paths=[where.get(row) for row in range(len(bench.photos))])
    return System(VAE, WHAT[VAE], faces=(faces,), asked=bench.has_other, shown=True)
