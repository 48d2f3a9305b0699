"""Stage `posterior`: p(z | v) for the shipped aligner, from MiniVox's training and validation persons."""

from __future__ import annotations

from pathlib import Path

from v2f_core.artefacts.files import folder_hash
from v2f_core.artefacts.profiles import load_profile
from v2f_core.data.voxceleb import read_layout
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.faces import FacePack
from v2f_core.speech.encoders import load_encoder
from v2f_core.training.embeddings import extract_faces, extract_voices
from v2f_core.training.pairs import pair_up
from v2f_core.training.posterior import train_posterior


def run(work: Path, tiny: bool = False) -> None:
    """Write work/posterior/assets/posterior/, the posterior that ships."""
    manifest, profile = read_layout(work / "minivox"), load_profile("mini")
    speech, pack = work / "speech_models" / "assets" / "ast", work / "detector" / "pack"
    folder = work / "posterior"
    voices = extract_voices(manifest, load_encoder("ast", speech), speech, folder / "voices", profile.clip_seconds)
    faces = extract_faces(manifest, FacePack.from_folder(pack), pack, folder / "faces", max_bad=1.0 if tiny else 0.05)
    training, validation = (pair_up(manifest, voices, faces, split) for split in ("train", "val"))
    if tiny:  # a posterior needs more persons than dimensions: each of the few stands many times
        training = training.only([i % len(training.persons) for i in range(training.face.shape[1] + 2)])
    aligner = Aligner.from_pretrained(work / "aligner" / "assets" / "aligner")
    inputs = {"dataset": "MiniVox v1", "ast_sha256": folder_hash(speech), "faces_sha256": folder_hash(pack)}
    train_posterior(training, validation, aligner, inputs).save_pretrained(folder / "assets" / "posterior")
