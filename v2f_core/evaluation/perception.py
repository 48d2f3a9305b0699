"""FID and LPIPS, as torchmetrics computes them, for comparison with published numbers.

Both use networks trained on ImageNet, which respond little to identity; the kernel distance on a second scorer's
features needs neither. Their weights (340 MB) are downloaded at the first use (``evaluate --fid``). FID grows as images
get fewer, so compare equal numbers of images only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from v2f_core.errors import InputError
from v2f_core.identity.photos import read_image

WEIGHTS = ("weights-inception-2015-12-05-6726825d.pth", "alexnet-owt-7be5be79.pth")


class Perception:
    """Inception v3 as FID is defined by it (the TensorFlow weights), and LPIPS over AlexNet.

    Args:
        device: for both networks.
    Raises:
        InputError: the packages or the weights are missing and cannot be downloaded.

    Example:
        >>> Perception().fid(faces, photographs)  # doctest: +SKIP
        41.2
    """

    def __init__(self, device: str = "cpu") -> None:
        from huggingface_hub.constants import HF_HUB_OFFLINE

        folder = Path(torch.hub.get_dir()) / "checkpoints"
        missing = [name for name in WEIGHTS if not (folder / name).is_file()]
        get = f"FID and LPIPS: put {' and '.join(missing)} into {folder}"
        if missing and HF_HUB_OFFLINE:
            raise InputError(f"{get}, or go online (HF_HUB_OFFLINE is set)")
        try:
            from torchmetrics.image.fid import FrechetInceptionDistance
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            self.inception = FrechetInceptionDistance().to(device)
            self.alexnet = LearnedPerceptualImagePatchSimilarity(net_type="alex", reduction="none").to(device)
        except ModuleNotFoundError as error:
            raise InputError(f"FID and LPIPS: {error}; pip install 'v2f-core[images]'") from error
        except OSError as error:  # of urllib too
            raise InputError(f"{get}: downloading failed ({error})") from error
        self.device = device

    @torch.no_grad()
    def fid(self, generated: Sequence[Path], real: Sequence[Path]) -> float:
        """Fréchet distance of two sets of images in Inception's 2,048 features (Heusel et al., NeurIPS 2017)."""
        self.inception.reset()
        for paths, are_real in ((generated, False), (real, True)):
            for path in paths:
                self.inception.update(self._image(path), real=are_real)
        return float(self.inception.compute())

    @torch.no_grad()
    def lpips(self, first: Sequence[Path], second: Sequence[Path]) -> Float32[np.ndarray, " n"]:
        """LPIPS of each pair of images, 0 for equal images (Zhang et al., CVPR 2018)."""
        pairs = [(self._image(a) / 127.5 - 1, self._image(b) / 127.5 - 1) for a, b in zip(first, second, strict=True)]
        return np.array([float(self.alexnet(a, b)) for a, b in pairs], np.float32)

    def _image(self, path: Path) -> UInt8[Tensor, "1 3 height width"]:
        return torch.tensor(read_image(path)).permute(2, 0, 1)[None].to(self.device)
