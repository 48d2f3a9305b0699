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
    from v2f_core.data.layouts import open_dataset, read_layout
    from v2f_core.data.manifest import Manifest
    from v2f_core.diffusion.prior import Prior
    from v2f_core.errors import InputError
    from v2f_core.evaluation.judge import Judge
    from v2f_core.identity.aligner import Aligner
    from v2f_core.identity.faces import FacePack
    from v2f_core.identity.losses import AMSoftmax, InfoNCE
    from v2f_core.pipeline import Vox2FacePipeline
    from v2f_core.profiles import Profile, load_profile
    from v2f_core.speech.audio import read_clips
    from v2f_core.speech.encoders import load_encoder

# onnxruntime queues events about its use and looks up a host for them, unless this is set before it is imported
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
__all__ = [
    "AMSoftmax",
    "Aligner",
    "FacePack",
    "InfoNCE",
    "InputError",
    "Judge",
    "Manifest",
    "Prior",
    "Profile",
    "Vox2FacePipeline",
    "load_encoder",
    "load_profile",
    "open_dataset",
    "read_clips",
    "read_layout",
]

_MODULES = {
    "AMSoftmax": "identity.losses",
    "Aligner": "identity.aligner",
    "FacePack": "identity.faces",
    "InfoNCE": "identity.losses",
    "InputError": "errors",
    "Judge": "evaluation.judge",
    "Manifest": "data.manifest",
    "Prior": "diffusion.prior",
    "Profile": "profiles",
    "Vox2FacePipeline": "pipeline",
    "load_encoder": "speech.encoders",
    "load_profile": "profiles",
    "open_dataset": "data.layouts",
    "read_clips": "speech.audio",
    "read_layout": "data.layouts",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
