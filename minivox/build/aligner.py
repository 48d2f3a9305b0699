"""Stage `aligner`: Stage I on MiniVox-L's training persons; of several seeds, the best on its validation persons.

The voice says little of a face, and that little has to be learned from persons: from MiniVox's 800 even regression from
the *true* voice parameters learns only a part of what 2,890 allow. Seeds hardly differ on voices like those trained on,
and much on strange ones, where nobody may choose: hence the validation loss decides.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from v2f_core.artefacts.files import folder_hash
from v2f_core.artefacts.profiles import load_profile
from v2f_core.data.voxceleb import read_layout
from v2f_core.identity.faces import FacePack
from v2f_core.speech.encoders import load_encoder
from v2f_core.training.embeddings import extract_faces, extract_voices
from v2f_core.training.pairs import pair_up
from v2f_core.training.stage1 import Stage1Settings, train_stage1

SEEDS = range(4)


def run(work: Path, tiny: bool = False) -> None:
    """Write work/aligner/assets/aligner/, the aligner that ships, with its history."""
    profile = load_profile("mini")
    manifest = read_layout(work / "large")
    speech, pack = work / "speech_models" / "assets" / "ast", work / "detector" / "pack"
    folder = work / "aligner"
    voices = extract_voices(manifest, load_encoder("ast", speech), speech, folder / "voices", profile.clip_seconds)
    faces = extract_faces(manifest, FacePack.from_folder(pack), pack, folder / "faces", max_bad=1.0 if tiny else 0.05)
    training, validation = (pair_up(manifest, voices, faces, split) for split in ("train", "val"))
    settings = Stage1Settings(**profile.stage1)
    if tiny:
        settings = replace(settings, steps=20, batch=4, evaluate_every=10)
    inputs = {"dataset": "MiniVox-L v1", "ast_sha256": folder_hash(speech), "faces_sha256": folder_hash(pack)}
    made = {
        folder / f"seed-{seed}": train_stage1(
            training, validation, replace(settings, seed=seed), folder / f"seed-{seed}", inputs
        ).provenance["validation"]["val_total"]
        for seed in SEEDS
    }
    shutil.copytree(min(made, key=made.__getitem__), folder / "assets" / "aligner", dirs_exist_ok=True)
