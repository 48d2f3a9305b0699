"""Table 4's CosReg: an aligner that was trained by cosine regression alone, for comparison with L_id."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from tempfile import TemporaryDirectory
from typing import Any

from v2f_core.artefacts.profiles import cache_folder
from v2f_core.errors import InputError
from v2f_core.identity.aligner import CONFIG_NAME, Aligner
from v2f_core.studies.ablations import cosine_alone
from v2f_core.training.pairs import Pairs
from v2f_core.training.stage1 import Stage1Settings, train_stage1


def train_cosreg(training: Pairs, validation: Pairs, aligner: Aligner) -> Aligner:
    """An aligner trained by cosine regression alone, with everything else as in the given one's training."""
    known = {field.name for field in fields(Stage1Settings)}  # version 0.1 had a few settings more, all unused
    settings = Stage1Settings(**{name: value for name, value in _settings(aligner).items() if name in known})
    with TemporaryDirectory() as folder:
        return train_stage1(training, validation, cosine_alone(settings), folder, {})


def stored_cosreg(training: Pairs, validation: Pairs, aligner: Aligner) -> Aligner:
    """`train_cosreg`, or its result from the cache for the same embeddings and settings.

    Raises:
        InputError: the aligner's config does not hold the settings of its training.
    """
    digest = hashlib.sha256(json.dumps(_settings(aligner), sort_keys=True).encode())
    for tensor in (training.voice, training.face, validation.voice, validation.face):
        digest.update(tensor.numpy().tobytes())
    folder = cache_folder() / f"cosreg-{digest.hexdigest()[:12]}"
    if not (folder / CONFIG_NAME).is_file():  # written last
        train_cosreg(training, validation, aligner).save_pretrained(folder)
    return Aligner.from_pretrained(folder)


def _settings(aligner: Aligner) -> dict[str, Any]:
    recorded: dict[str, Any] = aligner.provenance.get("settings", {})
    settings: dict[str, Any] = recorded.get("identity", recorded)  # a training from waveforms has more settings
    if not settings:
        raise InputError(
            "the aligner's config.json does not tell how it was trained, so that no CosReg can be trained likewise; "
            "train it with python -m v2f_core stage1"
        )
    return settings
