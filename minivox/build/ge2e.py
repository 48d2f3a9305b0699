"""Stage `ge2e`: the published weights of Resemblyzer's GE2E encoder (Apache-2.0) as safetensors.

The package is fetched, checked by its hash and never run: its one pickle is read with ``weights_only=True``. Half
precision would halve the 5.7 MB, but moves the embedding by up to 1.2e-3; the weights stay as they are published.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minivox.build.voice.ingredients import GE2E, fetch_ge2e
from v2f_core.artefacts.files import atomic_write
from v2f_core.evaluation import metrics
from v2f_core.speech.encoders import LEVEL_DBFS, GE2EEncoder

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

CONFIG = {
    "class": "GE2E",
    "level_dbfs": LEVEL_DBFS,
    "source": f"Python package {GE2E[0].replace('-', ' ')}, resemblyzer/pretrained.pt",
    "wheel_sha256": GE2E[1],
    "licence": "Apache-2.0",
    "author": "Resemble AI (Corentin Jemine)",
    "trained_on": "LibriSpeech's training set, VoxCeleb1 dev and VoxCeleb2 dev, as its author states",
}


def run(work: Path, tiny: bool = False) -> None:
    """Write ``work/ge2e/assets/``, the folder that ``load_encoder("ge2e", …)`` reads.

    Args:
        work: scratch folder.
        tiny: random weights in place of the published ones, which are a download.

    Raises:
        InputError: the package cannot be fetched, or is not the expected file.
    """
    import torch
    from safetensors.torch import save_file

    folder = work / "ge2e" / "assets"
    if tiny:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            weights = GE2EEncoder().state_dict()
    else:
        weights = published(fetch_ge2e(work))
    config = CONFIG | ({"source": "random weights"} if tiny else {})
    with atomic_write(folder / "model.safetensors") as temporary:
        save_file(weights, temporary, {"format": "pt"})
    with atomic_write(folder / "config.json") as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def published(wheel: Path) -> dict[str, Tensor]:
    """The weights of the LSTM and the projection out of Resemblyzer's wheel."""
    import torch

    with zipfile.ZipFile(wheel) as archive:
        content = io.BytesIO(archive.read("resemblyzer/pretrained.pt"))
    weights = torch.load(content, map_location="cpu", weights_only=True)["model_state"]
    return {name: value for name, value in weights.items() if name.startswith(("lstm.", "linear."))}


def equal_error_rate(vectors: Float[np.ndarray, "clips d"], person: Int[np.ndarray, " clips"]) -> float:
    """Equal error rate of telling pairs of one person from pairs of two by cosine.

    Example:
        >>> equal_error_rate(np.eye(2)[[0, 0, 1, 1]], np.array([0, 0, 1, 1]))
        0.0
    """
    return metrics.equal_error_rate(*metrics.pair_cosines(vectors, person))
