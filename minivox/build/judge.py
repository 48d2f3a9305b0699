"""Stage `judge`: the classifier behind VFS, of another architecture and over other persons than every other miniature.

It sees whole portraits at 96 pixels, not aligned crops. The last view of each person is held out to measure it.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from minivox.build.checkpoint import Checkpoint
from minivox.build.precision import autocast
from v2f_core.artefacts.files import atomic_write
from v2f_core.evaluation.judge import Judge

WIDTHS = (16, 32, 64, 64, 112, 112)
STEPS, BATCH = 2_000, 64


def config(classes: int) -> dict[str, object]:
    """The miniature judge's `config.json`."""
    return {
        "architecture": "plain", "widths": list(WIDTHS), "n_classes": classes,
        "size": 96, "channels": "RGB", "mean": [127.5] * 3, "scale": [127.5] * 3,
    }  # fmt: skip


def augment(image: UInt8[np.ndarray, "128 128 3"], g: np.random.Generator) -> UInt8[np.ndarray, "128 128 3"]:
    """Another photograph of the same person: mirrored, turned, zoomed, relit, softened, a patch hidden."""
    import cv2

    side = image.shape[0]
    if g.random() < 0.5:
        image = image[:, ::-1]
    warp = cv2.getRotationMatrix2D((side / 2, side / 2), g.normal(0, 5), g.uniform(0.9, 1.15))
    warp[:, 2] = warp[:, 2] + g.uniform(-6, 6, 2)
    image = cv2.warpAffine(np.ascontiguousarray(image), warp, (side, side), borderMode=cv2.BORDER_REPLICATE)
    tones = np.clip(
        np.arange(256)[:, None] * g.uniform(0.75, 1.2) * g.uniform(0.92, 1.08, 3) + g.uniform(-20, 20), 0, 255
    )
    image = cv2.LUT(image, tones.astype(np.uint8)[None])
    if g.random() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), g.uniform(0.5, 2.5))
    if g.random() < 0.5:
        x, y = g.integers(0, side - 20, 2)
        image[y : y + int(g.integers(10, 45)), x : x + int(g.integers(10, 45))] = g.integers(0, 256, 3)
    return image


def train(images: np.ndarray, person: np.ndarray, out: Path, steps: int, batch: int, seed: int = 0) -> Judge:
    """AdamW with warm-up and cosine, label smoothing, averaged weights; resumes from `out/state.pt`."""
    torch.manual_seed(seed)
    settings = config(int(person.max()) + 1)
    judge, averaged = Judge(settings), Judge(settings)
    averaged.load_state_dict(judge.state_dict())
    optimiser = torch.optim.AdamW(judge.parameters(), lr=4e-3, weight_decay=0.05)
    checkpoint = Checkpoint(out / "state.pt", {"judge": judge, "averaged": averaged, "optimiser": optimiser})
    start = checkpoint.start
    g = np.random.default_rng([seed, start])
    bar = tqdm(range(start, steps), desc="judge", initial=start, total=steps, mininterval=10)
    for step in bar:
        pick = g.integers(len(images), size=batch)
        for group in optimiser.param_groups:
            group["lr"] = 4e-3 * min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
        judge.train()
        with autocast():
            logits = judge.net(judge.prepare([augment(images[i], g) for i in pick]))
        loss = F.cross_entropy(logits.float(), torch.from_numpy(person[pick]), label_smoothing=0.1)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(judge.parameters(), 5.0)
        optimiser.step()
        with torch.no_grad():
            for old, new in zip(averaged.state_dict().values(), judge.state_dict().values(), strict=True):
                if old.is_floating_point():
                    old.lerp_(new.detach(), 1 - min(0.995, step / (step + 20)))
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
        checkpoint.save_if_due(step, last=step + 1 == steps)
    return averaged.eval()


def save(judge: Judge, folder: Path) -> None:
    """Write `config.json` and fp16 `model.safetensors`."""
    with atomic_write(folder / "config.json") as path:
        path.write_text(json.dumps(judge.config, indent=1) + "\n")
    half = {k: v.half().contiguous() for k, v in judge.net.state_dict().items() if v.is_floating_point()}
    counts = {k: v for k, v in judge.net.state_dict().items() if not v.is_floating_point()}
    with atomic_write(folder / "model.safetensors") as path:
        save_file(half | counts, path)


def run(work: Path, tiny: bool = False) -> None:
    """Train on the judge pool, save the judge, measure it on each person's held-out view."""
    out = work / "judge"
    out.mkdir(parents=True, exist_ok=True)
    images, person = [], []
    for path in sorted((work / "judge_pool").glob("[0-9]*.npz")):
        with np.load(path) as shard:
            images.append(np.ascontiguousarray(shard["images"].transpose(0, 2, 3, 1)))
            person.append(shard["person"].astype(np.int64))
    x, y = np.concatenate(images), np.concatenate(person)
    last = np.append(y[1:] != y[:-1], True)  # shards hold whole persons, view after view
    began = time.monotonic()
    judge = train(x[~last], y[~last], out, 4 if tiny else STEPS, 4 if tiny else BATCH)
    save(judge, out)
    posteriors = Judge.from_folder(out).posteriors(list(x[last]))
    order = np.argsort(-posteriors, axis=1)
    metrics = {
        "persons": int(y.max()) + 1,
        "held_out_top1": float((order[:, 0] == y[last]).mean()),
        "held_out_top5": float((order[:, :5] == y[last][:, None]).any(1).mean()),
        "mean_confidence": float(posteriors.max(1).mean()),
        "parameters": sum(p.numel() for p in judge.parameters()),
        "minutes_of_last_run": round((time.monotonic() - began) / 60, 1),
    }
    with atomic_write(out / "metrics.json") as path:
        path.write_text(json.dumps(metrics, indent=1))
    tqdm.write(json.dumps(metrics))
