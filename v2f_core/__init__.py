# ruff: noqa: F401 (names for editors; the interpreter reads the same in the table below)
"""Vox2Face: from a voice alone, a face.

The public names are imported when they are first used, so that ``import v2f_core`` takes no time.

Example:
    >>> import v2f_core
    >>> v2f_core.load_profile("mini").image_size
    128
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from v2f_core.artefacts.profiles import Profile, load_profile
    from v2f_core.data.manifest import Manifest
    from v2f_core.data.voxceleb import open_dataset, read_layout
    from v2f_core.diffusion.consistency import FaceBatch, SelfConsistency
    from v2f_core.diffusion.lora import add_lora, without_lora
    from v2f_core.diffusion.prior import Prior
    from v2f_core.errors import InputError
    from v2f_core.evaluation.judge import Judge
    from v2f_core.identity.aligner import Aligner
    from v2f_core.identity.faces import FacePack
    from v2f_core.identity.losses import AMSoftmax, ArcFaceLoss, IdentityLoss, InfoNCE
    from v2f_core.identity.photos import read_image
    from v2f_core.identity.posterior import IdentityPosterior
    from v2f_core.pipeline import Vox2FacePipeline
    from v2f_core.speech.audio import read_clips
    from v2f_core.speech.encoders import load_encoder
    from v2f_core.training.embeddings import embed_dataset
    from v2f_core.training.pairs import Pairs, pair_up
    from v2f_core.training.posterior import train_posterior
    from v2f_core.training.stage1 import Stage1Settings, train_stage1
    from v2f_core.training.stage2 import train_stage2

# onnxruntime queues events about its use and looks up a host for them, unless this is set before it is imported
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
_NAMES = {
    "artefacts.profiles": "Profile load_profile",
    "data.manifest": "Manifest",
    "data.voxceleb": "open_dataset read_layout",
    "diffusion.consistency": "FaceBatch SelfConsistency",
    "diffusion.lora": "add_lora without_lora",
    "diffusion.prior": "Prior",
    "errors": "InputError",
    "evaluation.judge": "Judge",
    "identity.aligner": "Aligner",
    "identity.faces": "FacePack",
    "identity.losses": "AMSoftmax ArcFaceLoss IdentityLoss InfoNCE",
    "identity.photos": "read_image",
    "identity.posterior": "IdentityPosterior",
    "pipeline": "Vox2FacePipeline",
    "speech.audio": "read_clips",
    "speech.encoders": "load_encoder",
    "training.embeddings": "embed_dataset",
    "training.pairs": "Pairs pair_up",
    "training.posterior": "train_posterior",
    "training.stage1": "Stage1Settings train_stage1",
    "training.stage2": "train_stage2",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = list(_MODULES)


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
