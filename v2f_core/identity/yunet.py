"""YuNet, a small face detector with a free licence, and nets whose weights are stored as 8-bit integers.

YuNet (Wu et al., Machine Intelligence Research 2023) is OpenCV's detector. Its outputs are read here as OpenCV reads
them, so that ONNX Runtime is all that it needs. ONNX Runtime refuses some of the integer weights that OpenCV accepts;
they are turned back into the floats that they stand for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from jaxtyping import Float32, UInt8
from onnx import numpy_helper

STRIDES = (8, 16, 32)
SCORE, OVERLAP = 0.6, 0.3  # of a face, and of two boxes that are one face: OpenCV's own defaults are 0.9 and 0.3
SMALLER = 2.5  # YuNet misses faces that fill a photograph; it looks at the photograph shrunk by this, too


class YuNet:
    """Faces of a BGR picture, as insightface's detectors give them: boxes with scores, and five landmarks each."""

    def __init__(self, session: Any) -> None:
        self._session = session
        data = session.get_inputs()[0]
        self._input, self._side = data.name, int(data.shape[-1])
        self._outputs = [output.name for output in session.get_outputs()]

    def prepare(self, **_: Any) -> None:
        """Nothing: the input's size is the net's. insightface's detectors have this method."""

    def detect(
        self, image: UInt8[np.ndarray, "height width 3"]
    ) -> tuple[Float32[np.ndarray, "faces 5"], Float32[np.ndarray, "faces 5 2"]]:
        """Boxes (left, top, right, bottom, score) and landmarks (x, y), in the image's pixels.

        A picture larger than the net's input is shrunk. If no face is seen it is shrunk further, and looked at again.
        """
        scale = min(1.0, self._side / max(image.shape[:2]))
        boxes, points = self._look(image, scale)
        return (boxes, points) if len(boxes) else self._look(image, scale / SMALLER)

    def _look(self, image: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
        import cv2

        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        small = image if scale == 1 else cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        canvas = np.zeros((self._side, self._side, 3), np.float32)
        canvas[:height, :width] = small
        values = self._session.run(self._outputs, {self._input: canvas.transpose(2, 0, 1)[None]})
        found = dict(zip(self._outputs, values, strict=True))
        parts = [_decode(found, stride, self._side // stride) for stride in STRIDES]
        boxes, points, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
        sized = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        kept = np.array(cv2.dnn.NMSBoxes(sized.tolist(), scores.tolist(), SCORE, OVERLAP), int).reshape(-1)
        whole = np.concatenate([boxes / scale, scores[:, None]], axis=1)[kept]
        return whole.astype(np.float32), (points / scale)[kept].astype(np.float32)


def _decode(found: dict[str, np.ndarray], stride: int, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, landmarks and scores of the likelier places of one stride's grid."""
    grid = np.stack([np.tile(np.arange(side), side), np.repeat(np.arange(side), side)], axis=1)
    values = {name: found[f"{name}_{stride}"][0] for name in ("cls", "obj", "bbox", "kps")}
    scores = np.sqrt(values["cls"].clip(0, 1) * values["obj"].clip(0, 1))[:, 0]
    likely = scores > SCORE
    grid, box, marks = grid[likely], values["bbox"][likely], values["kps"][likely].reshape(-1, 5, 2)
    centre, half = (grid + box[:, :2]) * stride, np.exp(box[:, 2:]) * stride / 2
    return np.concatenate([centre - half, centre + half], axis=1), (grid[:, None] + marks) * stride, scores[likely]


def inputs_of(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs that a net reads and that are no weights: old exporters list these among them."""
    read = {name for node in graph.node for name in node.input} - {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name in read]


def as_floats(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same net with each integer weight replaced by the float that it stands for; changed in place."""
    graph = model.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in weights:
            kept.append(node)
            continue
        stored, scale, zero = (weights[name].astype(np.float32) for name in node.input)
        settings = {attribute.name: attribute.i for attribute in node.attribute}
        axis, block = settings.get("axis", 1), settings.get("block_size", 0)
        if scale.size > 1 and block:  # a number for each block of weights along the axis
            scale, zero = (np.repeat(part, block, axis).take(range(stored.shape[axis]), axis) for part in (scale, zero))
        elif scale.size > 1:  # a number for each place on the axis
            shape = [-1 if i == axis else 1 for i in range(stored.ndim)]
            scale, zero = scale.reshape(shape), zero.reshape(shape)
        graph.initializer.append(numpy_helper.from_array((stored - zero) * scale, node.output[0]))
    del graph.node[:]
    graph.node.extend(kept)
    inputs = inputs_of(graph)
    del graph.input[:]
    graph.input.extend(inputs)
    return model
