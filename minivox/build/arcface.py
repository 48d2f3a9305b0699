"""Stage `arcface`: train the miniature iResNet on the faces pool and export it as the ONNX net of a face pack.

The recipe is ArcFace's own (additive angular margin over all training persons), cut down to a third of an hour of one
core: 112-pixel crops aligned once, a stride-2 stem, half a million parameters. It is trained on the first 2,700 persons
of the pool and tested on the 300 after them; MiniVox's persons are never seen.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from minivox.build.checkpoint import Checkpoint
from minivox.build.faces_pool import RECOGNISED
from minivox.build.precision import autocast
from v2f_core.artefacts.files import atomic_write
from v2f_core.evaluation.metrics import equal_error_rate
from v2f_core.identity.faces import CROP, align

HELD_OUT = 300
SCALE, MARGIN = 32.0, 0.35
STEPS = 1_400
CHANNELS, BLOCKS = (32, 64, 128), (1, 3, 1)


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(inplace=True),
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside),
        )  # fmt: skip
        same = stride == 1 and inside == outside
        self.shortcut: nn.Module = nn.Identity()
        if not same:
            self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.body(x), inplace=True)


class SmallIResNet(nn.Sequential):
    """112-pixel RGB crops in [-1, 1] → 512 numbers, not yet normalised.

    A depthwise 7x7 convolution reads the last map (MobileFaceNet's head): it keeps *where* a feature is, as the large
    linear layer of the real iResNet does, at a hundredth of the weights.
    """

    def __init__(self, channels: tuple[int, ...] = CHANNELS, blocks: tuple[int, ...] = BLOCKS, stem: int = 16) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, stem, 3, 2, 1, bias=False), nn.BatchNorm2d(stem), nn.ReLU(inplace=True)]
        width = stem
        for wider, count in zip(channels, blocks, strict=True):
            for k in range(count):
                layers.append(Residual(width, wider, stride=2 if k == 0 else 1))
                width = wider
        side = CROP // 2 ** (1 + len(channels))
        layers += [nn.Conv2d(width, width, side, groups=width, bias=False), nn.BatchNorm2d(width), nn.Flatten()]
        layers += [nn.Linear(width, 512, bias=False), nn.BatchNorm1d(512)]
        super().__init__(*layers)


class ArcMargin(nn.Module):
    """Additive angular margin: the true class's logit is s·cos(θ + m), all others s·cos θ (Deng et al., 2019)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, 512) * 0.05)

    def forward(self, features: Float[Tensor, "b 512"], person: Int[Tensor, " b"], margin: float) -> Tensor:
        with autocast():
            cosine = F.normalize(features.float(), dim=1) @ F.normalize(self.weight, dim=1).T
        cosine = cosine.float().clamp(-0.9999, 0.9999)
        own = cosine.gather(1, person[:, None])
        theta = torch.acos(own)
        pushed = torch.where(theta + margin < math.pi, torch.cos(theta + margin), own - margin * math.sin(margin))
        return F.cross_entropy(SCALE * cosine.scatter(1, person[:, None], pushed), person)


def augment(crop: UInt8[np.ndarray, "112 112 3"], g: np.random.Generator) -> UInt8[np.ndarray, "112 112 3"]:
    """A crop as another light, detector, decoder or file would have made it."""
    import cv2

    # detectors miss landmarks by a pixel or so: small turns, zooms and shifts; half are mirrored
    angle, zoom, middle = g.uniform(-4, 4), g.uniform(0.94, 1.06), (CROP - 1) / 2
    warp = cv2.getRotationMatrix2D((middle, middle), angle, zoom)
    warp[:, 2] = warp[:, 2] + g.uniform(-3, 3, 2)
    if g.random() < 0.5:
        crop = crop[:, ::-1]
    crop = cv2.warpAffine(np.ascontiguousarray(crop), warp, (CROP, CROP), borderMode=cv2.BORDER_REPLICATE)
    gain, offset = g.uniform(0.75, 1.2) * g.uniform(0.92, 1.08, 3), g.uniform(-20, 20)
    tones = np.clip(np.arange(256)[:, None] * gain + offset, 0, 255).astype(np.uint8)
    crop = cv2.LUT(crop, tones[None])
    if g.random() < 0.4:  # a small image enlarged, or the soft output of a VAE
        small = int(g.integers(CROP // 4, CROP * 3 // 4))
        soft = cv2.resize(crop, (small, small), interpolation=cv2.INTER_AREA)
        crop = cv2.resize(soft, (CROP, CROP), interpolation=cv2.INTER_LINEAR)
    if g.random() < 0.15:
        noise = g.standard_normal(crop.shape, np.float32) * g.uniform(2, 10)
        crop = np.clip(crop + noise, 0, 255).astype(np.uint8)
    if g.random() < 0.2:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(g.integers(25, 80))]
        crop = np.asarray(cv2.imdecode(cv2.imencode(".jpg", crop, quality)[1], cv2.IMREAD_COLOR), np.uint8)
    return crop


def to_batch(crops: Sequence[np.ndarray] | np.ndarray) -> Float[Tensor, "batch 3 112 112"]:
    """HWC bytes → contiguous NCHW in [-1, 1]."""
    return torch.from_numpy(np.stack(list(crops))).permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1)


class Pool:
    """The aligned crops of the first persons of a folder of shards; `refresh` takes in shards that have come since."""

    def __init__(self, folder: Path, persons: int = RECOGNISED) -> None:
        self.folder, self.persons, self.seen = folder, persons, 0
        self.crops = np.zeros((0, CROP, CROP, 3), np.uint8)
        self.person = np.zeros(0, np.int64)

    def refresh(self) -> None:
        """Align the shards that are new."""
        shards = sorted(self.folder.glob("[0-9]*.npz"))
        crops, person = [self.crops], [self.person]
        for path in tqdm(shards[self.seen :], desc="aligning", leave=False):
            with np.load(path) as shard:
                owner, points = shard["person"].astype(np.int64), shard["landmarks"]
                if owner[0] >= self.persons:
                    continue
                images = np.ascontiguousarray(shard["images"].transpose(0, 2, 3, 1))
                crops.append(np.stack([align(i, p) for i, p in zip(images, points, strict=True)]))
                person.append(owner)
        self.crops, self.person, self.seen = np.concatenate(crops), np.concatenate(person), len(shards)


@torch.no_grad()
def features(net: nn.Module, crops: UInt8[np.ndarray, "n 112 112 3"]) -> Float[np.ndarray, "n 512"]:
    """Unit identities of aligned crops by the torch net."""
    net.eval()
    parts = [net(to_batch(crops[i : i + 128])) for i in range(0, len(crops), 128)]
    return F.normalize(torch.cat(parts), dim=1).numpy()


def verification(z: Float[np.ndarray, "n 512"], person: Int[np.ndarray, " n"]) -> dict[str, float | int]:
    """Rank-1 (first view of each person against second views), equal error rate, and cosines of pairs.

    Example:
        >>> v = verification(np.eye(4, 512), np.array([0, 1, 0, 1]))
        >>> v["same_mean"], v["n"]
        (0.0, 2)
    """
    ids = np.unique(person)
    views = np.stack([np.flatnonzero(person == i)[:2] for i in ids])
    first, second = z[views[:, 0]], z[views[:, 1]]
    cosine = (first @ second.T).astype(np.float64)
    same, other = np.diag(cosine), cosine[~np.eye(len(cosine), dtype=bool)]
    return {
        "n": len(ids),
        "rank1": float((cosine.argmax(1) == np.arange(len(cosine))).mean()),
        "eer": equal_error_rate(same, other),
        "same_mean": float(same.mean()), "same_sd": float(same.std()),
        "different_mean": float(other.mean()), "different_sd": float(other.std()),
    }  # fmt: skip


def train(pool: Pool, classes: int, out: Path, steps: int, batch: int = 128, seed: int = 0) -> SmallIResNet:
    """Train on persons 0 … classes-1 of the pool; resumes from `out/state.pt`; gives the averaged (EMA) net."""
    g = np.random.default_rng(seed)
    torch.manual_seed(seed)
    net, head, averaged = SmallIResNet(), ArcMargin(classes), SmallIResNet()
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaged.load_state_dict(net.state_dict())
    parameters = [{"params": net.parameters()}, {"params": head.parameters()}]
    optimiser = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    parts = {"net": net, "head": head, "averaged": averaged, "optimiser": optimiser}
    checkpoint = Checkpoint(out / "state.pt", parts, seconds=90.0)
    if start := checkpoint.start:
        g = np.random.default_rng([seed, start])
    queue = np.zeros(0, np.int64)
    running = 0.0
    bar = tqdm(range(start, steps), desc="arcface", initial=start, total=steps, mininterval=10)
    for step in bar:
        if len(queue) < batch:  # a new epoch: take in what the renderer has finished meanwhile
            pool.refresh()
            queue = g.permutation(np.flatnonzero(pool.person < classes))
        pick, queue = queue[:batch], queue[batch:]
        rate = 0.1 * min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimiser.param_groups:
            group["lr"] = rate
        net.train()
        with autocast():
            z = net(to_batch([augment(pool.crops[i], g) for i in pick]))
        loss = head(z, torch.from_numpy(pool.person[pick]), margin=MARGIN * min(1.0, step / (0.4 * steps)))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimiser.step()
        decay = min(0.999, step / (step + 20))
        with torch.no_grad():
            for old, new in zip(averaged.state_dict().values(), net.state_dict().values(), strict=True):
                if old.is_floating_point():
                    old.lerp_(new.detach(), 1 - decay)
        running = loss.item() if step == start else 0.98 * running + 0.02 * loss.item()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{running:.3f}", images=len(pool.person))
        if checkpoint.save_if_due(step, last=step + 1 == steps):
            held = pool.person >= classes
            if held.any():
                v = verification(features(averaged, pool.crops[held]), pool.person[held])
                tqdm.write(f"step {step + 1} loss {running:.3f} " + json.dumps({k: round(x, 4) for k, x in v.items()}))
    return averaged.eval()


def export(net: nn.Module, path: Path) -> None:
    """Write the net as ONNX with insightface's interface: `data` (n, 3, 112, 112) → `embedding` (n, 512)."""
    axes = {"data": {0: "batch"}, "embedding": {0: "batch"}}
    with atomic_write(path) as temporary:
        torch.onnx.export(
            net.eval(), (torch.zeros(1, 3, CROP, CROP),), str(temporary),
            input_names=["data"], output_names=["embedding"], dynamic_axes=axes, opset_version=17, dynamo=False,
        )  # fmt: skip


def photographs(pool: str, persons: range, views: int, spread: float = 1.0) -> dict[str, np.ndarray]:
    """Fresh photographs of persons for a test: images, true landmarks and person indices, one row a view."""
    from minivox.build.portrait.looks import View, look_of
    from minivox.build.portrait.render import portrait
    from minivox.world import population

    rows = []
    for p in tqdm(population(pool, persons.stop)[persons.start :], desc=f"photographs of {pool}"):
        look = look_of(p)
        for view in range(views):  # streams of their own: none of these photographs is in any pool or in MiniVox
            shot = View.sample(np.random.default_rng([p.face_seed, 1_000 + view]), spread)
            rows.append((*portrait(look, shot), p.index, p.sex))
    images, landmarks, person, sex = zip(*rows, strict=True)
    return {
        "images": np.stack(images),
        "landmarks": np.stack(landmarks),
        "person": np.array(person),
        "sex": np.array(sex),
    }


def sex_probe(z: np.ndarray, sex: np.ndarray, z_test: np.ndarray, sex_test: np.ndarray) -> float:
    """Accuracy of a linear probe for sex, fitted on one pool's identities and tested on another's."""
    from sklearn.linear_model import LogisticRegression

    return float(LogisticRegression(C=10, max_iter=500).fit(z, sex).score(z_test, sex_test))


def run(work: Path, tiny: bool = False) -> None:
    """Train, export `arcface_mini.onnx` and measure it."""
    from minivox.world import population

    out = work / "arcface"
    out.mkdir(parents=True, exist_ok=True)
    pool = Pool(work / "faces_pool")
    pool.refresh()
    everybody = int(pool.person.max()) + 1 if tiny else RECOGNISED  # more shards may still be on their way
    classes = everybody - (4 if tiny else HELD_OUT)
    began = time.monotonic()
    net = train(pool, classes, out, steps=3 if tiny else STEPS, batch=8 if tiny else 128)
    minutes = (time.monotonic() - began) / 60
    export(net, out / "arcface_mini.onnx")

    pool.refresh()
    z = features(net, pool.crops)
    test = photographs("minivox", range(4 if tiny else 200), views=2)
    z_test = features(net, np.stack([align(i, p) for i, p in zip(test["images"], test["landmarks"], strict=True)]))
    held, index = pool.person >= classes, np.unique(pool.person, return_index=True)[1]
    sex = np.array([p.sex for p in population("faces", everybody)])[pool.person[index]]
    metrics = {
        "held_out": verification(z[held], pool.person[held]),
        "minivox": verification(z_test, test["person"]),
        "sex_probe_accuracy": sex_probe(z[index], sex, z_test, test["sex"]),
        "parameters": sum(p.numel() for p in net.parameters()),
        "minutes_of_last_run": round(minutes, 1),
    }
    with atomic_write(out / "metrics.json") as path:
        path.write_text(json.dumps(metrics, indent=1))
    tqdm.write(json.dumps(metrics))
