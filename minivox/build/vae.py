"""Stage `vae`: the autoencoder of the prior, an `AutoencoderKL` from 128 px to 16x16x4 latents.

Few channels at full resolution, where nearly all of the time goes, and no attention. Loss: L1 on pixels and on their
differences (edges), and a slight KL term that keeps the latents near a normal distribution. The later steps also ask
that ArcFace sees the same person, where larger autoencoders ask for the likeness of VGG features (LPIPS): what no
decoder can bring back, no prior can draw.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from minivox.build.checkpoint import Checkpoint
from minivox.build.faces_pool import mirrored
from v2f_core.artefacts.files import atomic_write
from v2f_core.identity.arcface_torch import TorchArcFace, align_batch, differentiable_arcface

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

HELD_OUT = 300  # the last persons of the pool, as in the stage `arcface`
CHANNELS = (8, 32, 64, 64)
STEPS, BATCH, RATE, KL_WEIGHT, IDENTITY_WEIGHT = 5_000, 6, 2e-3, 3e-4, 0.2
# The first steps see random crops: the net is convolutional, and a crop of half the side costs a third.
CROPPED, CROP = 0.45, 64
SHARDS = 16  # in memory at a time: 16,000 portraits, 0.8 GB


def new_vae() -> AutoencoderKL:
    """The miniature's architecture, 0.9 M parameters."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,  # never one channel a group: that would wipe out its mean, the colour
        sample_size=128,
        mid_block_add_attention=False,
    )


def to_float(images: UInt8[np.ndarray, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Bytes to [-1, 1].

    Example:
        >>> to_float(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1).repeat(3, 1))[:, 0, 0, 0]
        tensor([-1.,  1.])
    """
    return torch.from_numpy(images).float().div_(127.5).sub_(1)


def held_out_from(persons: int) -> int:
    """The first held-out person of a pool: the last 300, or a quarter of a small pool.

    Example:
        >>> held_out_from(6000), held_out_from(8)
        (5700, 6)
    """
    return persons - min(HELD_OUT, persons // 4)


def batches(
    folder: Path, below: int, batch: int, g: np.random.Generator, shards: int = SHARDS
) -> Iterator[tuple[Float[Tensor, "batch 3 h w"], Float[np.ndarray, "batch 5 2"]]]:
    """Endless shuffled batches of the persons below an index, mirrored at random, with their landmarks."""
    while True:
        files = sorted(folder.glob("*.npz"))
        pick = sorted(g.permutation(len(files))[:shards])
        loaded, points = [], []
        for i in pick:
            with np.load(files[i]) as shard:
                loaded.append(shard["images"][shard["person"] < below])
                points.append(shard["landmarks"][shard["person"] < below])
        images, landmarks = np.concatenate(loaded), np.concatenate(points)
        order = g.permutation(len(images))
        for first in range(0, len(order) - batch + 1, batch):
            chosen, at = images[order[first : first + batch]], landmarks[order[first : first + batch]]
            if g.random() < 0.5:
                chosen, at = chosen[..., ::-1].copy(), mirrored(at, chosen.shape[-1])
            yield to_float(chosen), at


def identity_loss(
    arcface: TorchArcFace,
    y: Float[Tensor, "b 3 h w"],
    x: Float[Tensor, "b 3 h w"],
    landmarks: Float[np.ndarray, "b 5 2"],
) -> Float[Tensor, ""]:
    """Mean of 1 - cos between the identities of images ``y`` and of their originals ``x``, both cropped alike."""
    with torch.autocast("cpu", torch.bfloat16):
        seen = arcface(align_batch(y, landmarks))
        with torch.no_grad():
            own = arcface(align_batch(x, landmarks))
    return (1 - (seen * own).sum(1)).mean()


def loss_of(
    vae: AutoencoderKL,
    x: Float[Tensor, "b 3 h w"],
    generator: torch.Generator,
    arcface: TorchArcFace | None = None,
    landmarks: Float[np.ndarray, "b 5 2"] | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss, with the identity term where landmarks are given, and the mean absolute error in it."""
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample(generator)).sample
    error = (y.float() - x).abs().mean()
    edges = sum(((y.float() - x).diff(dim=axis)).abs().mean() for axis in (2, 3))
    loss = error + 0.5 * edges + KL_WEIGHT * posterior.kl().float().mean() / posterior.mean[0].numel()
    if arcface is not None and landmarks is not None:
        loss = loss + IDENTITY_WEIGHT * identity_loss(arcface, y.float(), x, landmarks)
    return loss, error


def train(
    folder: Path, arcface: TorchArcFace, persons: int, out: Path, steps: int, batch: int, seed: int = 0
) -> AutoencoderKL:
    """Train on the pool's persons but the held-out; resumes from ``out/state.pt``; gives the averaged weights."""
    torch.manual_seed(seed)
    vae, averaged = new_vae(), new_vae()
    averaged.load_state_dict(vae.state_dict())
    optimiser = torch.optim.AdamW(vae.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    parts = {"vae": vae, "averaged": averaged, "optimiser": optimiser}
    checkpoint = Checkpoint(out / "state.pt", parts, seconds=120)
    start = checkpoint.start
    data = batches(folder, held_out_from(persons), batch, np.random.default_rng([seed, start]))
    generator = torch.Generator().manual_seed(seed * 1_000_003 + start)
    running = 0.0
    bar = tqdm(range(start, steps), desc="vae", initial=start, total=steps, mininterval=10)
    for step in bar:
        for group in optimiser.param_groups:
            warm = min(1.0, (step + 1) / 100)
            group["lr"] = RATE * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        x, landmarks = next(data)
        if step < CROPPED * steps:
            top, left = torch.randint(0, x.shape[-1] - CROP + 1, (2,), generator=generator).tolist()
            loss, error = loss_of(vae, x[..., top : top + CROP, left : left + CROP].contiguous(), generator)
        else:
            loss, error = loss_of(vae, x, generator, arcface, landmarks)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        average(averaged, vae, min(0.998, step / (step + 10)))
        running = error.item() if step == start else 0.98 * running + 0.02 * error.item()
        if step % 20 == 0:
            bar.set_postfix(l1=f"{running:.4f}")
        if checkpoint.save_if_due(step, last=step + 1 == steps):
            tqdm.write(
                f"step {step + 1} l1 {running:.4f} held-out {psnr_of(averaged, held_out(folder, persons)):.2f} dB"
            )
    return averaged.eval()


@torch.no_grad()
def average(averaged: torch.nn.Module, net: torch.nn.Module, decay: float) -> None:
    """One step of the exponential moving average of a net's weights.

    Example:
        >>> old, new = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
        >>> average(old, new, 0.0)
        >>> bool((old.weight == new.weight).all())
        True
    """
    torch._foreach_lerp_(list(averaged.parameters()), list(net.parameters()), 1 - decay)


def held_out(folder: Path, persons: int, count: int = 32) -> UInt8[np.ndarray, "n 3 h w"]:
    """Portraits of held-out persons as far as they are rendered, else of the newest shard."""
    with np.load(sorted(folder.glob("*.npz"))[-1]) as shard:
        mask = shard["person"] >= held_out_from(persons)
        images = shard["images"][mask] if mask.any() else shard["images"]
    return images[:: max(1, len(images) // count)][:count]


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: UInt8[np.ndarray, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """What is left of images after encoding (mode) and decoding, in [-1, 1]."""
    parts = [
        vae.decode(vae.encode(to_float(images[i : i + 16])).latent_dist.mode()).sample
        for i in range(0, len(images), 16)
    ]
    return torch.cat(parts).clamp(-1, 1)


def psnr_of(vae: AutoencoderKL, images: UInt8[np.ndarray, "n 3 h w"]) -> float:
    """Mean over images of the peak signal-to-noise ratio in decibels."""
    mse = (reconstruct(vae, images) - to_float(images)).square().mean((1, 2, 3))
    return float((10 * torch.log10(4 / mse)).mean())


@torch.no_grad()
def set_scaling(vae: AutoencoderKL, images: UInt8[np.ndarray, "n 3 h w"]) -> None:
    """Set the factor that brings the latents to unit variance, 1/std (Rombach et al., 2022, appendix G)."""
    latents = torch.cat(
        [vae.encode(to_float(images[i : i + 16])).latent_dist.mode() for i in range(0, len(images), 16)]
    )
    vae.register_to_config(scaling_factor=round(1 / float(latents.std()), 5))


def run(work: Path, tiny: bool = False) -> None:
    """Train; write ``vae/vae/`` in diffusers' form (half precision) and ``vae/metrics.json``."""
    from minivox.build.faces_pool import POOLS

    out, folder = work / "vae", work / "faces_pool"
    out.mkdir(parents=True, exist_ok=True)
    persons = 8 if tiny else POOLS[0].persons
    arcface = differentiable_arcface(work / "arcface" / "arcface_mini.onnx")
    vae = train(folder, arcface, persons, out, steps=4 if tiny else STEPS, batch=4 if tiny else BATCH)
    images = held_out(folder, persons, 16 if tiny else 256)
    set_scaling(vae, images)
    vae.half().save_pretrained(out / "vae")
    metrics = {
        "psnr_db": round(psnr_of(vae.float(), images), 3),
        "scaling_factor": vae.config.scaling_factor,
        "parameters": sum(p.numel() for p in vae.parameters()),
        "images": len(images),
    }
    with atomic_write(out / "metrics.json") as path:
        path.write_text(json.dumps(metrics, indent=1))
    tqdm.write(json.dumps(metrics))
