"""Table 4's CosReg: an aligner that was trained by cosine regression alone, beside which L_id is read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

from v2f_core.artefacts.profiles import cache_folder
from v2f_core.errors import InputError
from v2f_core.identity.aligner import CONFIG_NAME, Aligner
from v2f_core.training.pairs import Pairs
from v2f_core.training.stage1 import Stage1Settings, train_stage1


def train_cosreg(training: Pairs, validation: Pairs, aligner: Aligner) -> Aligner:
    """An aligner trained by cosine regression alone, with everything else as in the given one's training."""
    settings = Stage1Settings(**_settings(aligner))
    with TemporaryDirectory() as folder:
        alone = replace(settings, weight_am=0.0, weight_info=0.0, weight_cosine=1.0, weight_relational=0.0)
        return train_stage1(training, validation, alone, folder, {})


def stored_cosreg(training: Pairs, validation: Pairs, aligner: Aligner) -> Aligner:
    """`train_cosreg`, or what it gave before on the same embeddings with the same settings, from the cache.

    Raises:
        InputError: the aligner does not tell how it was trained.
    """
    digest = hashlib.sha256(json.dumps(_settings(aligner), sort_keys=True).encode())
    for tensor in (training.voice, training.face, validation.voice, validation.face):
        digest.update(tensor.numpy().tobytes())
    folder = cache_folder() / f"cosreg-{digest.hexdigest()[:12]}"
    if not (folder / CONFIG_NAME).is_file():  # written last
        train_cosreg(training, validation, aligner).save_pretrained(folder)
    return Aligner.from_pretrained(folder)


def _settings(aligner: Aligner) -> dict[str, Any]:
    told: dict[str, Any] = aligner.provenance.get("settings", {})
    found: dict[str, Any] = told.get("identity", told)  # a training from waveforms has settings of its own besides
    if not found:
        raise InputError(
            "the aligner's config.json does not tell how it was trained, so that no CosReg can be trained likewise; "
            "train it with python -m v2f_core stage1"
        )
    return found
