"""A meter of speaker identity: Resemblyzer's GE2E encoder (Apache-2.0), used to measure MiniVox and for nothing else.

Only its weights are read, with ``weights_only=True``; none of its code runs.
Source: Wan et al., "Generalized end-to-end loss for speaker verification", 2018 (the loss the encoder was trained by).
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minivox.build.voice.ingredients import fetch_meter
from v2f_core.evaluation import metrics

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_FRAMES, _STEP = 160, 80  # windows of 1.6 s, half overlapping


class GE2E:
    """Speech to a unit vector of 256 numbers."""

    def __init__(self, work: Path) -> None:
        import torch
        from torchaudio.transforms import MelSpectrogram

        with zipfile.ZipFile(fetch_meter(work)) as wheel:
            content = io.BytesIO(wheel.read("resemblyzer/pretrained.pt"))
        weights = torch.load(content, map_location="cpu", weights_only=True)["model_state"]
        self._lstm = torch.nn.LSTM(40, 256, 3, batch_first=True)
        self._linear = torch.nn.Linear(256, 256)
        for name, part in (("lstm", self._lstm), ("linear", self._linear)):
            prefix = f"{name}."
            part.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
        self._mel = MelSpectrogram(16_000, 400, hop_length=160, n_mels=40, norm="slaney", mel_scale="slaney")

    def __call__(self, wave: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " d"]:
        """The identity of a 16 kHz clip: the normalised mean over windows of 1.6 s."""
        import torch

        with torch.no_grad():
            mel = self._mel(torch.from_numpy(wave)).T
            if len(mel) < _FRAMES:
                mel = torch.nn.functional.pad(mel, (0, 0, 0, _FRAMES - len(mel)))
            starts = sorted({*range(0, len(mel) - _FRAMES, _STEP), len(mel) - _FRAMES})
            last = self._lstm(torch.stack([mel[s : s + _FRAMES] for s in starts]))[1][0][-1]
            windows = torch.nn.functional.normalize(torch.relu(self._linear(last)))
            return torch.nn.functional.normalize(windows.mean(0), dim=0).numpy()


def equal_error_rate(vectors: Float[np.ndarray, "clips d"], person: Int[np.ndarray, " clips"]) -> float:
    """Equal error rate of telling pairs of one person from pairs of two by cosine.

    Example:
        >>> equal_error_rate(np.eye(2)[[0, 0, 1, 1]], np.array([0, 0, 1, 1]))
        0.0
    """
    return metrics.equal_error_rate(*metrics.pair_cosines(vectors, person))
