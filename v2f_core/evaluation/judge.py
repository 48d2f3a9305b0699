"""The judge of VFS: a face classifier that shares nothing with the identity the generator is conditioned on.

A judge is a folder with `config.json` and `model.safetensors`. The miniature is a plain chain of convolutions over
500 persons outside MiniVox; at full size the same folder form holds a ResNet-50 over VGGFace2's 8,631 persons.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from v2f_core.artefacts.loading import check_config, checked_folder, read_tensors, refusing
from v2f_core.errors import InputError

AT_ONCE = 32  # images
Pixels = UInt8[np.ndarray, "height width 3"]


def _build(config: dict[str, Any]) -> nn.Module:
    if config["architecture"] == "plain":  # a layer wider than the one before halves the map
        layers: list[nn.Module] = []
        for inside, outside in pairwise([3, *config["widths"]]):
            conv = nn.Conv2d(inside, outside, 3, stride=2 if outside > inside else 1, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(outside), nn.ReLU(inplace=True)]
        last = nn.Linear(config["widths"][-1], config["n_classes"])
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), last)
    if config["architecture"] != "resnet50_caffe":
        raise InputError(f"judge architecture {config['architecture']!r}: unknown; use plain or resnet50_caffe")
    from torchvision.models import resnet50

    # in Caffe's form, in which VGGFace2's was trained: a block that halves the map does so in its first, 1×1
    # convolution, and the first pooling does not pad
    net = resnet50(num_classes=config["n_classes"])
    net.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
    for layer in (net.layer2, net.layer3, net.layer4):
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    return net


class Judge(nn.Module):
    """Images → posteriors p(y|x) over the judge's persons.

    Its config says how pixels enter: as (pixel − `mean`) / `scale`, in squares of side `size`, in the order `channels`.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.net = _build(config)

    @classmethod
    def from_folder(cls, folder: str | Path, device: str = "cpu") -> Judge:
        """Load a judge, which runs as float32; a file that is missing, damaged or of another judge is refused."""
        remedy = "take config.json and model.safetensors from the same judge"
        folder = checked_folder(folder, ("config.json", "model.safetensors"), "a judge's", remedy)
        config, weights = check_config(folder / "config.json"), read_tensors(folder / "model.safetensors", remedy)
        with refusing(folder, "a judge", remedy):
            if not 8 <= config["size"] <= 1024:
                raise ValueError(f"size is {config['size']}")
            with torch.device("meta"):  # no memory is taken before the sizes are known to be the weights'
                judge = cls(config)
            weights = {name: w.float() if w.is_floating_point() else w for name, w in weights.items()}
            judge.net.load_state_dict(weights, assign=True)
            judge = judge.eval().requires_grad_(False)
            if not np.isfinite(judge.posteriors([np.full((8, 8, 3), 127, np.uint8)])).all():
                raise ValueError("its posteriors are not finite")
        return judge.to(device)

    def prepare(self, images: Sequence[Pixels]) -> Float[Tensor, "batch 3 side side"]:
        """RGB images of any size → the net's input."""
        import cv2

        side = self.config["size"]
        order = [2, 1, 0] if self.config["channels"] == "BGR" else [0, 1, 2]
        resized = [cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)[..., order] for image in images]
        pixels = (np.stack(resized).astype(np.float32) - self.config["mean"]) / self.config["scale"]
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32))

    @torch.no_grad()
    def posteriors(self, images: Sequence[Pixels]) -> Float32[np.ndarray, "images classes"]:
        """p(y|x) of each RGB image; rows sum to 1."""
        device, parts = next(self.net.parameters()).device, [torch.zeros(0, self.config["n_classes"])]
        for start in range(0, len(images), AT_ONCE):
            logits = self.net(self.prepare(images[start : start + AT_ONCE]).to(device))
            parts.append(F.softmax(logits.float(), dim=1).cpu())
        return torch.cat(parts).numpy()

    def features(self, images: Sequence[Pixels]) -> Float32[np.ndarray, "images features"]:
        """The input of the last layer for each RGB image, unit length: the judge as a second scorer of likeness."""
        last = [layer for layer in self.net.modules() if isinstance(layer, nn.Linear)][-1]
        seen = [torch.zeros(0, last.in_features)]
        hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float().cpu()))
        with hook:
            self.posteriors(images)
        return F.normalize(torch.cat(seen), dim=1).numpy()
