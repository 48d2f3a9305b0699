"""Stage `aligner`: Stage I on MiniVox-L's training persons; of several seeds, the best on its validation persons.

The voice says little of a face, and that little has to be learned from persons: from MiniVox's 800 even regression from
the *true* voice parameters learns only a part of what 2,890 allow. Seeds hardly differ on voices like those trained on,
and much on strange ones, where nobody may choose: hence the validation loss decides.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from v2f_core.artefacts.profiles import load_profile
from v2f_core.artefacts.store import Embeddings
from v2f_core.data.manifest import Manifest
from v2f_core.data.voxceleb import read_layout
from v2f_core.identity.faces import FacePack
from v2f_core.speech.encoders import load_encoder
from v2f_core.training.embeddings import extract_faces, extract_voices
from v2f_core.training.pairs import Pairs, pair_up
from v2f_core.training.stage1 import Stage1Settings, train_stage1

SEEDS = range(4)


def run(work: Path, tiny: bool = False) -> None:
    """Write work/aligner/assets/aligner/, the aligner that ships, with its history."""
    fit("ast", Inputs.of(work, "ast", work / "large", tiny), work / "aligner", "MiniVox-L v1", tiny)


class Inputs(NamedTuple):
    """Embedded persons of two splits, and the hashes of the nets that embedded them."""

    training: Pairs
    validation: Pairs
    hashes: dict[str, str]

    @classmethod
    def of(cls, work: Path, encoder: str, root: Path, tiny: bool) -> Inputs:
        """The persons of a dataset of the scratch folder, with their voices by one of its speech encoders."""
        manifest, voices, faces = embedded(work, encoder, root, tiny)
        training, validation = (pair_up(manifest, voices, faces, split) for split in ("train", "val"))
        hashes = {f"{encoder}_sha256": voices.provenance["weights_sha256"]}
        return cls(training, validation, hashes | {"faces_sha256": faces.provenance["weights_sha256"]})


def speech_folder(work: Path, encoder: str) -> Path:
    """Where in the scratch folder a speech encoder lies."""
    return work / ("ge2e/assets" if encoder == "ge2e" else f"speech_models/assets/{encoder}")


def embedded(work: Path, encoder: str, root: Path, tiny: bool) -> tuple[Manifest, Embeddings, Embeddings]:
    """A dataset of the scratch folder, its voices by one of the speech encoders there, and its faces; embedded once."""
    speech, pack, seconds = speech_folder(work, encoder), work / "detector" / "pack", load_profile("mini").clip_seconds
    manifest, bad, folder = read_layout(root), 1.0 if tiny else 0.05, work / "embedded" / root.name
    ears, eyes = partial(load_encoder, encoder, speech), partial(FacePack.from_folder, pack)
    voices = extract_voices(manifest, ears, speech, folder / encoder, seconds, max_bad=bad)
    faces = extract_faces(manifest, eyes, pack, folder / "faces", max_bad=bad)
    return manifest, voices, faces


def fit(encoder: str, inputs: Inputs, folder: Path, dataset: str, tiny: bool = False) -> Path:
    """Stage I of several seeds; the best is copied into ``folder/assets``, by the name that the profile has for it."""
    profile = load_profile("mini").with_encoder(encoder)
    settings = Stage1Settings(**profile.stage1)
    if tiny:
        settings = replace(settings, steps=4, batch=4, evaluate_every=2)
    provenance = {"dataset": dataset, **inputs.hashes}
    made = {
        folder / f"seed-{seed}": train_stage1(
            inputs.training, inputs.validation, replace(settings, seed=seed), folder / f"seed-{seed}", provenance
        ).provenance["validation"]["val_total"]
        for seed in (SEEDS[:2] if tiny else SEEDS)
    }
    best = folder / "assets" / profile.aligner.name
    shutil.copytree(min(made, key=made.__getitem__), best, dirs_exist_ok=True)
    return best
