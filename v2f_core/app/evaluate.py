"""``python -m v2f_core evaluate``: tables and a report of every system, from a profile's weights and dataset."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from minivox.ceilings import bounds, known
from minivox.readable import from_true_voices, rank_scores
from v2f_core.app.report import Evaluation, write_report
from v2f_core.artefacts.files import check_writable, folder_hash
from v2f_core.artefacts.profiles import Profile, cache_folder
from v2f_core.data.manifest import Manifest
from v2f_core.data.voxceleb import open_dataset
from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError
from v2f_core.evaluation import controls, protocols, tables
from v2f_core.evaluation.controls import DRAWABLE, Bench, Stage2
from v2f_core.evaluation.folds import ridge_rows
from v2f_core.evaluation.judge import Judge
from v2f_core.evaluation.leaks import check_splits
from v2f_core.evaluation.protocols import first_of_each_sex, photographs
from v2f_core.evaluation.systems import Drawing, Faces, Scorer, System
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.faces import FacePack
from v2f_core.identity.posterior import IdentityPosterior
from v2f_core.pipeline import made_from
from v2f_core.training.embeddings import Embeddings, embed_dataset
from v2f_core.training.pairs import Pairs, pair_up

NO_FACES = (
    "Left out: all rows and measures of drawn faces. No open generator knows these identities, so no faces are drawn.\n"
)
NO_PHOTOGRAPHS = "Left out: all rows and measures of faces. This dataset brings embeddings along, and no photographs.\n"
NO_POSTERIOR = "Faces are ranked by cosine alone: no posterior is trained yet (posterior).\n"


class Inputs(NamedTuple):
    """The dataset with its embeddings, and Stage I."""

    manifest: Manifest
    voices: Embeddings
    faces: Embeddings
    aligner: Aligner
    posterior: IdentityPosterior | None
    training: Pairs
    test: Pairs


def evaluate(
    out: Path,
    profile: Profile,
    systems: str = controls.NO_DSC,
    draws: int = 1,
    steps: int = 10,
    limit: int | None = None,
    stage2: Sequence[Path] = (),
    seed: int = 0,
    tune: bool = False,
    device: str = "cpu",
) -> Path:
    """Stage I's table, tables of all systems and controls, and a report; docs/evaluation.md describes the files.

    For a profile without a prior, or a dataset without photographs, Stage I's table is all there is. Else drawn faces
    are kept in the cache: a killed run goes on, and more systems can be added later. Returns the page. The arguments
    are those of the command.

    Raises:
        InputError: an input cannot be used; a person is in two splits.
    """
    drawn = chosen_rows(systems)
    if stage2 or tune:
        profile.must_draw()
    check_writable(out)
    inputs = load(profile, limit, device)
    ridge = ridge_rows(inputs.training, inputs.test)
    table = stage1_table(inputs.aligner, inputs.training, inputs.test, inputs.posterior, ridge)
    photographed = inputs.manifest.absolute(inputs.manifest.faces())[0].is_file()  # not so in MiniVox-L
    note = NO_FACES if profile.prior is None else "" if photographed else NO_PHOTOGRAPHS
    if note and inputs.posterior is None:
        note += NO_POSTERIOR
    tables.save_identity_table(table, out, note=note)
    if note:
        print(f"{note}table: {out / 'stage1.md'}")
        return out / "stage1.md"
    drawing = Drawing(steps, profile.guidance, seed)
    bench = make_bench(inputs, profile, drawing, draws, "test", device)
    scorers = {name: profile.part(name) for name in (key.removesuffix("_sha256") for key in bench.hashes)}
    notes = check_splits(inputs.training, inputs.test, scorers, all_known=known(inputs.test))
    if limit is not None:
        notes.append(f"persons of the test split beyond {limit} are left out, as --limit asks")
    learned, here = inputs.aligner.provenance.get("persons"), len(inputs.training.persons)
    if learned not in (None, here):
        notes.append(f"the aligner was trained on {learned} persons, ridge regression on this dataset's {here}")
    trained = [Stage2.from_folder(folder, profile.part("prior"), device) for folder in stage2]

    def rows(of: Bench) -> Iterator[System]:
        return controls.rows(of, inputs.aligner, drawn, trained)

    if tune:
        scores = controls.tuned(make_bench(inputs, profile, drawing, 1, "val", device), rows)
        bench = replace(bench, guidance={name: max(of, key=of.__getitem__) for name, of in scores.items()})
        for name, by_scale in scores.items():
            cosines = {scale: round(value, 3) for scale, value in by_scale.items()}
            notes.append(f"{name}: guidance {bench.guidance[name]:g}, by the validation persons' cosines {cosines}")
    ceilings = bounds(inputs.test, inputs.training) if known(inputs.test) and known(inputs.training) else {}
    ratio = log_ratio(inputs.posterior)
    page = write_report(Evaluation(bench, inputs.manifest, profile, list(rows(bench)), ceilings, notes, ratio), out)
    print(f"tables and report: {page}")
    return page


def chosen_rows(text: str) -> Collection[str]:
    """The names of rows from the command line: separated by commas, or "all", or "none"."""
    names = {"all": list(DRAWABLE), "none": []}.get(text, [name.strip() for name in text.split(",")])
    if unknown := [name for name in names if name not in DRAWABLE]:
        raise InputError(f"{unknown[0]}: no row that can be drawn; choose of {', '.join(DRAWABLE)}")
    return names


def load(profile: Profile, limit: int | None = None, device: str = "cpu") -> Inputs:
    """Dataset, embeddings (stored, or computed now), and Stage I."""
    aligner = Aligner.from_pretrained(profile.part("aligner"))
    posterior = posterior_for(profile, aligner)
    manifest = open_dataset(profile)
    voices, faces = embed_dataset(profile, manifest, device)
    training, everybody = (pair_up(manifest, voices, faces, split) for split in ("train", "test"))
    test = everybody if limit is None else everybody.only(first_of_each_sex(everybody.sexes, limit))
    return Inputs(manifest, voices, faces, aligner, posterior, training, test)


def posterior_for(profile: Profile, aligner: Aligner) -> IdentityPosterior | None:
    """The profile's p(z | v) for Stage I's aligner, which ranks faces by likelihood ratio; None where there is none."""
    folder = profile.posterior_of("aligner")
    return None if folder is None else IdentityPosterior.from_pretrained(folder, aligner, made_from(profile))


def log_ratio(posterior: IdentityPosterior | None) -> tables.Ratio | None:
    """The scores of a gallery's faces by a posterior's likelihood ratio, for the tables."""
    if posterior is None:
        return None
    return lambda z, faces: posterior.log_ratio_of(torch.from_numpy(faces), torch.from_numpy(z)).double().numpy()


def make_bench(inputs: Inputs, profile: Profile, drawing: Drawing, draws: int, split: str, device: str) -> Bench:
    """Prior, scorers, the photographs of a split's persons, and the cache folder for drawn faces."""
    pack, parts = FacePack.from_folder(profile.part("faces"), device), ["prior", "faces"]
    judge = second = None
    with suppress(InputError):  # without a judge the report notes that VFS is missing
        judge, parts = Judge.from_folder(profile.part("judge"), device), [*parts, "judge"]
    with suppress(InputError):  # else the judge's features are the second scorer
        second, parts = FacePack.from_folder(profile.part("scorer"), device), [*parts, "scorer"]
    persons = inputs.test if split == "test" else pair_up(inputs.manifest, inputs.voices, inputs.faces, split)
    hashes = {f"{part}_sha256": folder_hash(profile.part(part)) for part in parts}
    prior = Prior.from_folder(profile.part("prior"), device).requires_grad_(False)
    photos = photographs(inputs.manifest, inputs.faces, persons, split)
    nets = prior, Scorer(pack, judge, second)
    return Bench(inputs.training, persons, photos, *nets, cache_folder() / "drawn", hashes, drawing, draws)


def stage1_table(
    aligner: Aligner,
    training: Pairs,
    test: Pairs,
    posterior: IdentityPosterior | None = None,
    others: Mapping[str, np.ndarray] | None = None,
) -> pd.DataFrame:
    """The table of predicted identities, each gallery with its chance, and with ceilings where the world is known.

    ``others`` are identities that other systems predict. With a posterior, which belongs to the aligner, every row's
    faces are also ranked by its likelihood ratio.
    """
    identities = {**controls.predictions(test, training, aligner), **(others or {})}
    ceilings, ranked = None, []
    if known(test) and known(training):
        ceilings = bounds(test, training)
        identities["true voice parameters"] = from_true_voices(training, test)
        ranked = [System("true voices, ranking by likelihood", scores=rank_scores(training, test))]
    rows = [System(name, z.astype(np.float32)) for name, z in identities.items()] + ranked
    galleries, gallery = protocols.galleries(test.sexes), Faces.of(test.gallery().numpy())
    tidy = tables.likeness(rows, gallery, test.persons, galleries, ceilings, log_ratio(posterior))
    return tables.likeness_table(tidy, galleries, ceilings).drop(columns="by")
