"""``python -m v2f_core ablate``: the systems of a table, trained, drawn and measured over seeds, as one tidy table.

Every (system, seed) has a folder of its own, and a killed run goes on where it stopped. A person's face starts from the
same noise under every system of a seed. A system's guidance is chosen with the first seed, by the validation persons.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from v2f_core.artefacts.files import atomic_write, check_writable, folder_hash, write_json
from v2f_core.artefacts.loading import read_json, refusing
from v2f_core.artefacts.profiles import Profile
from v2f_core.data.voxceleb import open_dataset
from v2f_core.diffusion.consistency import paper
from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError
from v2f_core.evaluation import metrics
from v2f_core.evaluation.controls import GUIDANCES
from v2f_core.evaluation.judge import Judge
from v2f_core.evaluation.protocols import first_of_each_sex, photographs
from v2f_core.evaluation.systems import Drawing, Faces, Scorer, best_of, draw_faces
from v2f_core.identity.arcface_torch import differentiable_arcface
from v2f_core.identity.faces import FacePack
from v2f_core.show.plots import forest
from v2f_core.studies.ablation import WITHOUT, Ablation, save, tidy
from v2f_core.studies.direct_speech import train_speech_condition
from v2f_core.training.embeddings import embed_dataset
from v2f_core.training.latents import FacePairs, pair_faces, stored_latents
from v2f_core.training.pairs import Pairs, pair_up
from v2f_core.training.stage1 import train_stage1
from v2f_core.training.stage2 import train_stage2

VARIED = 100  # persons of whom a second face is drawn, for diversity
SHOWN = ("cosine", "cosine of ẑ", "R@10", "R@10 within sex", "second scorer", "diversity", "VFS")


@dataclass(frozen=True)
class Plan:
    """The settings that all runs of a table share."""

    profile: Profile
    folder: Path  # of all runs; tables share their common systems
    steps: int | None = None  # of Stage II; None takes the profile's
    persons: int = 1000  # drawn at most, women and men alike
    drawn_steps: int = 10  # of the sampler
    split: str = "test"  # whose faces are drawn, or "val" while systems are still being chosen
    device: str = "cpu"

    def run(self, system: str, seed: int) -> Path:
        """The folder in which a system is trained with a seed, such as "no-DSC-0"."""
        return self.folder / "-".join([*re.findall(r"\w+", system.replace("w/o", "no")), str(seed)])


class Kit(NamedTuple):
    """The data and networks of a run."""

    training: FacePairs
    validation: FacePairs
    test: Pairs  # the persons who are drawn,
    photos: list[Path]  # with a photo of each
    prior: Prior  # without adapters
    scorer: Scorer
    arcface: nn.Module  # f_arc with gradients


def run_table(name: str, rows: Sequence[Ablation], seeds: int, plan: Plan) -> Path:
    """:func:`ablate`, written into the plan's folder ``results``: persons, summary, picture; returns the Markdown."""
    results, name = plan.folder / "results", name if plan.split == "test" else f"{name}_{plan.split}"
    forest(save(ablate(rows, seeds, plan), name, results, SHOWN), SHOWN, WITHOUT).savefig(results / f"{name}.png")
    return results / f"{name}.md"


def ablate(rows: Sequence[Ablation], seeds: int, plan: Plan) -> pd.DataFrame:
    """Run the missing runs of a table; returns the tidy rows of all, :data:`v2f_core.studies.ablation.COLUMNS`.

    Seed 0 comes first: it chooses the guidance of all seeds.
    """
    plan.profile.must_draw()
    check_writable(plan.folder)
    return pd.concat([measured(row, seed, plan) for seed in range(seeds) for row in rows], ignore_index=True)


def measured(row: Ablation, seed: int, plan: Plan) -> pd.DataFrame:
    """The tidy rows of one system with one seed, from its folder, or trained, drawn and measured now."""
    run = plan.run(row.system, seed)
    done = run / f"{plan.split}-{plan.persons}" / "persons.csv"
    settings = made_of(plan.profile) | {"steps": plan.steps, "drawn_steps": plan.drawn_steps}
    settings |= {"row": row.described, "seed": seed}
    claim = run / "plan.json"
    if claim.exists() and read_json(claim, "delete it and run this again") != json.loads(json.dumps(settings)):
        raise InputError(f"{run}: holds a run with other settings; choose another folder with --out, or delete it")
    write_json(claim, settings)
    if not done.exists():
        rows = _run(row, seed, plan, run)
        with atomic_write(done) as temporary:
            rows.to_csv(temporary, index=False, float_format="%.5g")
    with refusing(done, "a table of persons", "delete it and run this again"):
        return pd.read_csv(done, keep_default_na=False)


def open_kit(plan: Plan) -> Kit:
    """Data and networks of a profile; missing stores of embeddings and latents are computed."""
    profile = plan.profile
    manifest = open_dataset(profile)
    voices, faces = embed_dataset(profile, manifest, plan.device)
    prior = Prior.from_folder(profile.part("prior"), plan.device)
    pack = FacePack.from_folder(profile.part("faces"), plan.device)
    latents = stored_latents(profile, manifest, prior, pack)
    training, validation = (
        pair_faces(manifest, voices, faces, latents, split, prior.latent_shape) for split in ("train", "val")
    )
    everybody = pair_up(manifest, voices, faces, plan.split)
    test = everybody.only(first_of_each_sex(everybody.sexes, min(plan.persons, len(everybody.persons))))
    photos = [paths[0] for paths in photographs(manifest, faces, test, plan.split)]
    scorer = Scorer(pack, Judge.from_folder(profile.part("judge"), plan.device))
    return Kit(training, validation, test, photos, prior, scorer, differentiable_arcface(pack.arcface_path))


def made_of(profile: Profile) -> dict[str, object]:
    """The settings of a profile that decide a run, and hashes of its weights (wherever the files are)."""
    weights = {part: hash_once(profile.part(part)) for part in (profile.encoder, "prior", "faces", "judge")}
    clips, stages = [profile.clip_seconds, profile.ast_frames], {"stage1": profile.stage1, "stage2": profile.stage2}
    return {"dataset": str(profile.dataset), "clips": clips, **weights, **stages}


hash_once = cache(folder_hash)  # each folder of weights is read once in a process


def _run(row: Ablation, seed: int, plan: Plan, folder: Path) -> pd.DataFrame:
    kit = open_kit(plan)
    condition = _train(row, seed, plan, kit, folder)
    kit.prior.requires_grad_(False)
    hashes = {name: str(made_of(plan.profile)[name]) for name in ("prior", "faces", "judge")}
    hashes |= {"trained": row.system, "trained_with_seed": str(seed)}

    def draw(pairs: Pairs, guidance: float, number: int = 0, count: int | None = None) -> Faces:
        with torch.no_grad():
            conditions = condition(pairs.pooled_voices()[:count])
        drawing, who = Drawing(plan.drawn_steps, guidance, seed), (pairs.persons[:count], kit.scorer)
        return draw_faces(kit.prior, conditions, *who, folder / "faces", hashes, drawing, number, row.system)

    validation, test = kit.validation.pairs, kit.test
    guidance = _guidance(row, seed, plan, lambda scale: draw(validation, scale).identities, validation)
    with torch.no_grad():
        predicted = None if row.speech else condition(test.pooled_voices()).numpy()
    draws = [draw(test, guidance, number) for number in range(row.draws)]
    faces = draws[0] if predicted is None else best_of(draws, predicted)
    again = draw(test, guidance, row.draws, min(VARIED, len(test.persons)))
    return tidy(row, seed, test, predicted, faces, again, kit.scorer.photographs(kit.photos), guidance)


def _train(
    row: Ablation, seed: int, plan: Plan, kit: Kit, folder: Path
) -> Callable[[Float[Tensor, "n speaker"]], Tensor]:
    """Train a system; returns the map from pooled voices to conditions, and leaves the adapters on the kit's prior."""
    settings, faces = row.settings(plan.profile, seed, plan.steps), (kit.training, kit.validation)
    if row.speech:
        where = folder / "speech.pt"
        return train_speech_condition(kit.prior, kit.training, where, settings.steps, settings.batch, seed)
    persons = kit.training.pairs, kit.validation.pairs
    aligner = train_stage1(*persons, settings.identity, folder / "stage1", {}, plan.device)
    nets, critic = (aligner, kit.prior, kit.arcface), row.critic or paper  # without L_self it is only recorded
    return train_stage2(*nets, *faces, settings, folder / "stage2", {}, plan.device, critic=critic).cpu()


def _guidance(row: Ablation, seed: int, plan: Plan, draw: Callable[[float], np.ndarray], validation: Pairs) -> float:
    """The scale with the highest mean cosine of the validation persons' faces, chosen with the first seed."""
    path = plan.run(row.system, 0) / "guidance.json"
    if not path.exists():
        if seed:
            raise InputError(f"{path}: missing; run seed 0 of {row.system} first, which chooses the guidance")
        truth = validation.gallery().numpy()
        write_json(path, {str(scale): float(metrics.cosine(draw(scale), truth).mean()) for scale in GUIDANCES})
    scores = read_json(path, "delete it and run this again")
    return float(max(scores, key=scores.__getitem__))
