"""ArcFace with gradients: an ONNX net run by torch, and alignment as a differentiable warp.

A loss on a generated face needs the gradient of f_arc, and ONNX Runtime has none. The nets of insightface packs consist
of a dozen operators. So torch runs the file's graph: the same weights, the same results to 1e-4, and gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from v2f_core.artefacts.loading import check_finite, read_onnx, refusing
from v2f_core.errors import InputError
from v2f_core.identity.faces import CROP, similarity


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, **a: Any) -> Tensor:
    top, left, bottom, right = a.get("pads", [0, 0, 0, 0])
    if (top, left) != (bottom, right):
        x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
    stride, dilation = a.get("strides", [1, 1]), a.get("dilations", [1, 1])
    return F.conv2d(x, weight, bias, stride, (top, left), dilation, a.get("group", 1))


def _gemm(a: Tensor, b: Tensor, c: Tensor | None = None, **k: Any) -> Tensor:
    a, b = (a.T if k.get("transA") else a), (b.T if k.get("transB") else b)
    out = k.get("alpha", 1.0) * (a @ b)
    return out if c is None else out + k.get("beta", 1.0) * c


def _batch_norm(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, **a: Any) -> Tensor:
    return F.batch_norm(x, mean, var, scale, bias, eps=a.get("epsilon", 1e-5))


def _reshape(x: Tensor, shape: Tensor, **_: Any) -> Tensor:
    return x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(shape.tolist())])  # 0 keeps the axis's size


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "Div": torch.div,
    "Dropout": lambda x, *_, **__: x,
    "Flatten": lambda x, axis=1: x.flatten(axis),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x: x.mean((2, 3), keepdim=True),
    "Identity": lambda x: x,
    "MatMul": torch.matmul,
    "Mul": torch.mul,
    "PRelu": lambda x, slope: torch.where(x >= 0, x, slope * x),
    "Relu": torch.relu,
    "Reshape": _reshape,
    "Sigmoid": torch.sigmoid,
    "Sub": torch.sub,
}


class TorchArcFace(nn.Module):
    """An ArcFace ONNX net as a frozen torch module: aligned crops in [-1, 1] RGB → unit identities.

    The weights are buffers: ``.to(device)`` moves them, and an optimiser over parameters does not change them.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        import onnx

        graph = read_onnx(path).graph
        constants = {tensor.name: tensor for tensor in graph.initializer}
        self._nodes: list[tuple[str, list[str], str, dict[str, Any]]] = []
        for node in graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant":
                constants[node.output[0]] = attributes["value"]
            elif node.op_type in OPERATORS:
                self._nodes.append((node.op_type, list(node.input), node.output[0], attributes))
            else:
                remedy = "use an iResNet of an insightface pack"
                raise InputError(f"{path}: operator {node.op_type} is not supported in torch; {remedy}")
        self._buffers_of = {name: f"weight_{i}" for i, name in enumerate(constants)}  # a buffer's name has no dots
        for name, tensor in constants.items():
            value = torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
            self.register_buffer(self._buffers_of[name], value, persistent=False)
        self._input = next(i.name for i in graph.input if i.name not in constants)
        self._output = graph.output[0].name
        # nets exported from MXNet begin with a Sub and a Mul that normalise, so they take pixels from 0 to 255
        front = [node.name.lstrip("_").lower() for node in graph.node[:8]]
        inside = any(n.startswith(("sub", "minus")) for n in front) and any(n.startswith("mul") for n in front)
        self._scale, self._shift = (127.5, 127.5) if inside else (1.0, 0.0)

    def forward(self, crops: Float[Tensor, "batch 3 112 112"]) -> Float[Tensor, "batch 512"]:
        """Unit identities (Eq. 2 and 6) of RGB crops in [-1, 1]."""
        values: dict[str, Any] = {name: getattr(self, buffer) for name, buffer in self._buffers_of.items()}
        values |= {self._input: crops * self._scale + self._shift, "": None}  # "" is an optional input that is left out
        for operator, inputs, output, attributes in self._nodes:
            values[output] = OPERATORS[operator](*(values[name] for name in inputs), **attributes)
        return F.normalize(values[self._output].float(), dim=1)


def differentiable_arcface(path: str | Path) -> TorchArcFace:
    """Load an ArcFace ONNX file as a torch module through which gradients flow to the image.

    Raises:
        InputError: the file is missing or damaged, or has an operator outside `OPERATORS`.
    """
    with refusing(path, "an ArcFace net", "fetch the pack again"), torch.no_grad():
        net = TorchArcFace(path).eval()
        check_finite({"an identity": net(torch.zeros(1, 3, CROP, CROP))}, path)
        return net


def align_batch(
    images: Float[Tensor, "batch 3 height width"], landmarks: Float[Tensor | np.ndarray, "batch 5 2"]
) -> Float[Tensor, "batch 3 112 112"]:
    """ArcFace's crops of RGB images in [-1, 1], as `v2f_core.identity.faces.align` makes them, with gradient.

    The landmarks, five (x, y) points an image in pixels, get no gradient.
    """
    to_crop = np.stack([similarity(points) for points in np.asarray(torch.as_tensor(landmarks).detach().cpu())])
    square = np.concatenate([to_crop, np.tile([[[0.0, 0.0, 1.0]]], (len(to_crop), 1, 1))], axis=1)
    with torch.autocast(images.device.type, enabled=False):  # above 256, bf16 has even numbers only
        images = images.to(torch.promote_types(images.dtype, torch.float32))
        to_image = torch.from_numpy(np.linalg.inv(square)[:, :2]).to(images)  # crop pixel → image pixel
        axis = torch.arange(CROP, dtype=images.dtype, device=images.device)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        source = torch.einsum("hwk,bik->bhwi", torch.stack([x, y, torch.ones_like(x)], dim=-1), to_image)
        grid = 2 * source / (torch.tensor(images.shape[:1:-1]).to(images) - 1) - 1
        # outside the image is black: -1 in an image, 0 for grid_sample
        return F.grid_sample(images + 1, grid, mode="bilinear", padding_mode="zeros", align_corners=True) - 1
