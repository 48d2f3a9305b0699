"""YuNet and SFace, OpenCV's face nets with free licences, run by OpenCV with the interface of insightface's nets.

Their weights are 8-bit integers, some of which ONNX Runtime refuses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

SIDE = 640  # pixels of the square that YuNet looks at
SCORE, OVERLAP = 0.6, 0.3  # of a face, and of two boxes that are one face: OpenCV's own defaults are 0.9 and 0.3
SMALLER = 2.5  # YuNet misses faces that fill a photograph; it looks at the photograph shrunk by this, too


class YuNet:
    """Faces of a BGR picture: boxes with scores, and five landmarks each (Wu et al. 2023)."""

    def __init__(self, path: Path) -> None:
        import cv2

        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # each net would be told of on the terminal
        self._net = cv2.FaceDetectorYN.create(str(path), "", (SIDE, SIDE), SCORE, OVERLAP)

    def prepare(self, **_: object) -> None:
        """Nothing: insightface's detectors have this method."""

    def detect(
        self, image: UInt8[np.ndarray, "height width 3"]
    ) -> tuple[Float32[np.ndarray, "faces 5"], Float32[np.ndarray, "faces 5 2"]]:
        """Boxes (left, top, right, bottom, score) and landmarks (x, y), in the image's pixels.

        A large picture is shrunk. If no face is seen it is shrunk further, and looked at again.
        """
        scale = min(1.0, SIDE / max(image.shape[:2]))
        found = self._look(image, scale)
        found = found if len(found) else self._look(image, scale / SMALLER)
        boxes = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:4], found[:, 14:]], axis=1)
        return boxes, found[:, 4:14].reshape(-1, 5, 2)

    def _look(self, image: np.ndarray, scale: float) -> np.ndarray:
        import cv2

        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        canvas = np.zeros((SIDE, SIDE, 3), np.uint8)
        canvas[:height, :width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        found: Any = self._net.detect(canvas)[1]  # left, top, width, height, five points, score
        return np.zeros((0, 15), np.float32) if found is None else found / np.array([scale] * 14 + [1], np.float32)


class SFace:
    """Identities of aligned crops (Zhong et al. 2021), one at a time."""

    input_shape, output_shape = (1, 3, 112, 112), (1, 128)

    def __init__(self, path: Path) -> None:
        import cv2

        self._net = cv2.dnn.readNetFromONNX(str(path))

    def forward(self, crops: Float32[np.ndarray, "1 3 112 112"]) -> Float32[np.ndarray, "1 128"]:
        """The identity, not normalised, of an RGB crop with values from 0 to 255."""
        self._net.setInput(crops, "data")
        return np.array(self._net.forward())
