"""Stage `detector`: a face detector of 160 thousand weights with the interface of SCRFD, landmarks included.

insightface takes any net with nine outputs for SCRFD: scores, boxes and five landmarks at strides 8, 16 and 32, two
anchors a cell, distances in strides. This one is exported for 128 pixels, so insightface scales every image to that.
It learns from the renderer's own landmarks, on photographs zoomed, shifted, turned and darkened, some without a face.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from minivox.build.arcface import HELD_OUT, photographs
from minivox.build.checkpoint import Checkpoint
from minivox.build.faces_pool import RECOGNISED, mirrored
from v2f_core.artefacts.files import atomic_write
from v2f_core.artefacts.profiles import MINI_ASSETS
from v2f_core.identity.faces import FacePack, similarity

SIDE, STRIDES, ANCHORS = 128, (8, 16, 32), 2
FACE_SIZES = ((0, 36), (28, 130), (110, 999))  # of the box, pixels: which strides look for a face of that size
BOX = np.array([[12.0, 2.0], [100.0, 2.0], [12.0, 116.0], [100.0, 116.0]])  # brow to chin, in ArcFace's crop
STEPS, BATCH = 8_000, 32


def _conv(inside: int, outside: int, stride: int = 1, groups: int = 1, kernel: int = 3) -> nn.Sequential:
    conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside), nn.ReLU(inplace=True))


def _separable(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(_conv(inside, inside, stride, groups=inside), _conv(inside, outside, kernel=1))


class TinyDetector(nn.Module):
    """Three maps of a small backbone, the coarser added to the finer, a head for each."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        # most of the work of a detector is at full size: one wide step to a quarter of it keeps training cheap, and
        # leaves room for whole convolutions at strides 8 and 16, which the landmarks' precision hangs on
        self.down8 = nn.Sequential(_conv(3, 24, 4, kernel=7), _conv(24, 40, 2), _conv(40, 40))
        self.down16 = nn.Sequential(_conv(40, 64, 2), _conv(64, 64), _conv(64, 64))
        self.down32 = nn.Sequential(_separable(64, 96, 2), _separable(96, 96))
        self.lateral = nn.ModuleList([nn.Conv2d(c, width, 1) for c in (40, 64, 96)])
        self.smooth = nn.ModuleList([_separable(width, width) for _ in STRIDES])
        self.predict = nn.ModuleList([nn.Conv2d(width, ANCHORS * 15, 1) for _ in STRIDES])

    @torch.no_grad()
    def start_from(self, wanted: list[list[tuple[np.ndarray, np.ndarray]]]) -> None:
        """Begin with "no face" and the average face: every cell has only to learn how this one differs."""
        for level, conv in enumerate(self.predict):
            seen = np.concatenate([w[level][1][w[level][0] == 1] for w in wanted])
            average = torch.from_numpy(seen.mean(0) if len(seen) else np.zeros(14, np.float32))
            parts = [torch.full((ANCHORS,), -4.0), average[:4].repeat(ANCHORS), average[4:].repeat(ANCHORS)]
            conv.get_parameter("bias").copy_(torch.cat(parts))

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b cells _"]]:
        """Per stride: score logits (1), then per stride boxes (4), then per stride landmarks (10)."""
        fine = self.down8(image)
        middle = self.down16(fine)
        maps = [lateral(x) for lateral, x in zip(self.lateral, (fine, middle, self.down32(middle)), strict=True)]
        maps[1] = maps[1] + F.interpolate(maps[2], scale_factor=2.0)
        maps[0] = maps[0] + F.interpolate(maps[1], scale_factor=2.0)
        outputs: list[list[Tensor]] = [[], [], []]
        for x, smooth, predict in zip(maps, self.smooth, self.predict, strict=True):
            raw = predict(smooth(x)).permute(0, 2, 3, 1).flatten(1, 2)  # b, cells, anchors x 15
            for kind, part, size in zip(
                outputs, raw.split([ANCHORS, 4 * ANCHORS, 10 * ANCHORS], 2), (1, 4, 10), strict=True
            ):
                kind.append(part.reshape(part.shape[0], -1, size))
        return outputs[0] + outputs[1] + outputs[2]


class Exported(nn.Module):
    """The detector as insightface reads it: one image, scores as probabilities, no batch axis."""

    def __init__(self, net: TinyDetector) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        out = [x[0] for x in self.net(image)]
        return tuple([torch.sigmoid(x) for x in out[:3]] + out[3:])


def face_box(landmarks: Float[np.ndarray, "5 2"]) -> Float[np.ndarray, 4]:
    """The box (left, top, right, bottom) of a face with these landmarks.

    Example:
        >>> face_box(TEMPLATE).round(1).tolist()
        [12.0, 2.0, 100.0, 116.0]
    """
    warp = similarity(landmarks)
    corners = (BOX - warp[:, 2]) @ np.linalg.inv(warp[:, :2]).T
    return np.concatenate([corners.min(0), corners.max(0)])


class Example(NamedTuple):
    """A training image with its face's landmarks, or None."""

    image: UInt8[np.ndarray, "128 128 3"]
    landmarks: Float[np.ndarray, "5 2"] | None


def example(image: np.ndarray, landmarks: np.ndarray, g: np.random.Generator) -> Example:
    """A photograph zoomed, shifted, turned, mirrored, relit and softened; one in eight has its face cut away."""
    import cv2

    if g.random() < 0.5:
        image = np.ascontiguousarray(image[:, ::-1])
        landmarks = mirrored(landmarks, image.shape[1])
    middle = landmarks.mean(0)
    wide = g.random() < 0.25  # the rest keep MiniVox's framing, where landmarks must be precise
    warp = cv2.getRotationMatrix2D(
        middle.tolist(), g.normal(0, 12 if wide else 5), g.uniform(0.35, 1.3) if wide else g.uniform(0.88, 1.12)
    )
    warp[:, 2] += (SIDE / 2 + g.uniform(-1, 1, 2) * (30 if wide else 8)) - middle
    border = cv2.BORDER_REPLICATE if g.random() < 0.5 else cv2.BORDER_CONSTANT
    fill = g.uniform(0, 255, 3).tolist()
    image = cv2.warpAffine(image, warp, (SIDE, SIDE), borderMode=border, borderValue=fill)
    points = landmarks @ warp[:, :2].T + warp[:, 2]
    hidden = g.random() < 0.125
    if hidden:
        left, top, right, bottom = face_box(points)
        size = np.maximum([right - left, bottom - top], 8)
        x, y = np.clip([left - 0.15 * size[0], top - 0.15 * size[1]], 0, SIDE - 2).astype(int)
        hole = image[y : int(bottom + 0.15 * size[1]) + 1, x : int(right + 0.15 * size[0]) + 1]
        noise = g.uniform(0, 255, (int(g.integers(1, 12)), int(g.integers(1, 12)), 3)).astype(np.uint8)
        hole[:] = cv2.resize(noise, hole.shape[1::-1], interpolation=cv2.INTER_LINEAR).reshape(hole.shape)
    tones = np.clip(np.arange(256)[:, None] * g.uniform(0.6, 1.3) * g.uniform(0.9, 1.1, 3) + g.uniform(-25, 25), 0, 255)
    image = cv2.LUT(image, tones.astype(np.uint8)[None])
    if g.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), g.uniform(0.4, 2.0))
    return Example(image, None if hidden else points)


def targets(landmarks: np.ndarray | None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per stride: what each cell should say (1 face, 0 none, -1 do not care) and its 14 distances in strides."""
    result = []
    for stride, (low, high) in zip(STRIDES, FACE_SIZES, strict=True):
        n = SIDE // stride
        says, distances = np.zeros(n * n, np.int8), np.zeros((n * n, 14), np.float32)
        if landmarks is not None:
            cells = np.stack(np.meshgrid(np.arange(n), np.arange(n)), -1).reshape(-1, 2) * float(stride)
            box = face_box(landmarks)
            away = np.abs(cells - (box[:2] + box[2:]) / 2).max(1) / stride
            mine = low <= math.sqrt((box[2] - box[0]) * (box[3] - box[1])) <= high
            says[away < (2.0 if mine else 1.5)] = -1
            near = np.flatnonzero((away <= 1.0) & mine)
            says[near] = 1
            sides = np.concatenate([cells[near] - box[:2], box[2:] - cells[near]], 1)
            points = (landmarks[None] - cells[near][:, None]).reshape(-1, 10)
            distances[near] = np.concatenate([sides, points], 1) / stride
        result.append((np.repeat(says, ANCHORS), np.repeat(distances, ANCHORS, 0)))
    return result


def loss_of(outputs: list[Tensor], wanted: list[list[tuple[np.ndarray, np.ndarray]]]) -> Tensor:
    """Focal loss on scores; L1 in pixels on boxes and landmarks of the cells that see a face, whatever their stride."""
    total, seen = torch.zeros(()), 0
    pixels = torch.zeros(())
    for level, stride in enumerate(STRIDES):
        says = torch.from_numpy(np.stack([w[level][0] for w in wanted]))
        distances = torch.from_numpy(np.stack([w[level][1] for w in wanted]))
        logit = outputs[level][..., 0].float()
        truth = (says == 1).float()
        cross = F.binary_cross_entropy_with_logits(logit, truth, reduction="none")
        wrong = torch.where(truth > 0, 1 - torch.sigmoid(logit), torch.sigmoid(logit))
        total = total + 4 * (cross * wrong**2 * (says >= 0)).sum() / len(wanted)
        face = says == 1
        box = (outputs[3 + level][face].float() - distances[face][:, :4]).abs().mean(1)
        points = (outputs[6 + level][face].float() - distances[face][:, 4:]).abs().mean(1)
        pixels = pixels + stride * (0.1 * box + points).sum()
        seen += int(face.sum())
    return total + pixels / max(seen, 1)


def to_input(images: list[np.ndarray]) -> Float[Tensor, "b 3 128 128"]:
    """RGB bytes → what SCRFD feeds its net."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous().float().sub_(127.5).div_(128)


def train(images: np.ndarray, landmarks: np.ndarray, out: Path, steps: int, batch: int, seed: int = 0) -> TinyDetector:
    """AdamW with a cosine; resumes from `out/state.pt`."""
    torch.manual_seed(seed)
    net = TinyDetector()
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=1e-4)
    checkpoint = Checkpoint(out / "state.pt", {"net": net, "optimiser": optimiser})
    start = checkpoint.start
    if not start:
        g, some = np.random.default_rng([seed, steps]), range(0, len(images), max(1, len(images) // 300))
        net.start_from([targets(example(images[i].transpose(1, 2, 0), landmarks[i], g).landmarks) for i in some])
    g = np.random.default_rng([seed, start])
    bar = tqdm(range(start, steps), desc="detector", initial=start, total=steps, mininterval=10)
    for step in bar:
        for group in optimiser.param_groups:
            group["lr"] = 4e-3 * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        examples = [example(images[i].transpose(1, 2, 0), landmarks[i], g) for i in g.integers(len(images), size=batch)]
        outputs = net(to_input([e.image for e in examples]))
        loss = loss_of(outputs, [targets(e.landmarks) for e in examples])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        optimiser.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
        checkpoint.save_if_due(step, last=step + 1 == steps)
    return net.eval()


def export(net: TinyDetector, path: Path) -> None:
    """Write the nine-output ONNX file."""
    kinds = [f"{kind}_{stride}" for kind in ("score", "bbox", "kps") for stride in STRIDES]
    with atomic_write(path) as temporary:
        torch.onnx.export(
            Exported(net).eval(), (torch.zeros(1, 3, SIDE, SIDE),), str(temporary),
            input_names=["input"], output_names=kinds, opset_version=17, dynamo=False,
        )  # fmt: skip


def measure(pack: FacePack, photos: dict[str, np.ndarray]) -> dict[str, float | int]:
    """Recall (landmarks within 10 pixels on average), median landmark error, and false alarms on noise."""
    errors, several = [], 0
    for image, truth in zip(photos["images"], photos["landmarks"], strict=True):
        faces = pack.detect(image)
        several += len(faces) > 1
        errors.append(np.linalg.norm(faces[0].landmarks - truth, axis=1).mean() if faces else np.inf)
    error = np.array(errors)
    hit = error < 10
    g = np.random.default_rng(0)
    noise = [
        np.kron(g.uniform(0, 255, (k, k, 3)), np.ones((128 // k, 128 // k, 1))).astype(np.uint8)
        for k in (1, 4, 16, 64) * 10
    ]
    return {
        "photographs": len(error), "recall": float(hit.mean()),
        "landmark_error_px": float(np.median(error)),
        "landmark_error_p95_px": float(np.quantile(error, 0.95, method="nearest")),
        "more_than_one_face": several / len(error),
        "false_alarms": float(np.mean([bool(pack.detect(x)) for x in noise])),
    }  # fmt: skip


def run(work: Path, tiny: bool = False) -> None:
    """Train on the faces pool, export `det_mini.onnx`, measure on photographs of MiniVox's persons."""
    import shutil

    out = work / "detector"
    (out / "pack").mkdir(parents=True, exist_ok=True)
    images, landmarks, person = [], [], []
    for path in sorted((work / "faces_pool").glob("[0-9]*.npz")):
        with np.load(path) as shard:
            if shard["person"][0] >= RECOGNISED:
                break
            images.append(shard["images"])
            landmarks.append(shard["landmarks"])
            person.append(shard["person"])
    keep = np.concatenate(person) < np.concatenate(person).max() + 1 - (0 if tiny else HELD_OUT)
    net = train(
        np.concatenate(images)[keep], np.concatenate(landmarks)[keep], out, 4 if tiny else STEPS, 4 if tiny else BATCH
    )
    export(net, out / "det_mini.onnx")
    for name in ("detector/det_mini.onnx", "arcface/arcface_mini.onnx"):
        shutil.copy(work / name, out / "pack")
    metrics = measure(FacePack.from_folder(out / "pack"), photographs("minivox", range(4 if tiny else 200), views=2))
    if tiny:  # after four steps a detector finds nobody; the shipped one lets the later stages run
        shutil.copy(MINI_ASSETS / "faces" / "det_mini.onnx", out / "pack")
    metrics["parameters"] = sum(p.numel() for p in net.parameters())
    with atomic_write(out / "metrics.json") as path:
        path.write_text(json.dumps(metrics, indent=1))
    tqdm.write(json.dumps(metrics))
