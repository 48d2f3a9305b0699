"""Stage `vae`: the autoencoder of the prior, an `AutoencoderKL` from 128 px to 16x16x4 latents.

Two parts. `draft` trains encoder and decoder. Loss: L1 on pixels and on their differences (edges), and a slight KL term
that keeps the latents near a normal distribution. The later steps also ask that ArcFace sees the same person, where
larger autoencoders ask for the likeness of VGG features (LPIPS): what no decoder can bring back, no prior can draw.

L1 alone makes a decoder draw the median of what it cannot know, which is a blur. So `sharpen` goes on with the decoder,
on latents that stay as they are: a discriminator of patches (Isola et al., 2017; hinge loss) pulls each picture towards
what photographs look like nearby, beside the same losses as before (the recipe of VQGAN, Esser et al., 2021). A further
loss asks for as much detail, everywhere, as the photograph has there, whatever it is.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from minivox.build.checkpoint import Checkpoint
from minivox.build.encoded import encode_pool, load_shard, to_float
from minivox.build.faces_pool import POOLS, mirrored
from minivox.build.precision import autocast
from v2f_core.artefacts.files import atomic_write
from v2f_core.errors import InputError
from v2f_core.identity.arcface_torch import TorchArcFace, align_batch, differentiable_arcface

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

HELD_OUT = 300  # the last persons of the pool, as in the stage `arcface`
CHANNELS = (24, 32, 64, 64)
STEPS, BATCH, RATE, KL_WEIGHT, IDENTITY_WEIGHT = 5_000, 6, 2e-3, 3e-4, 0.2
# The first steps see random crops: the net is convolutional, and a crop of half the side costs a third.
CROPPED, CROP = 0.45, 64
# The second part. The discriminator's pull on a picture is this share of the other losses' pull, and grows to it.
SHARP_STEPS, SHARP_BATCH, SHARP_RATE, CRITIC_RATE = 4_800, 8, 5e-4, 2e-4
SHARP_IDENTITY_WEIGHT, TEXTURE_WEIGHT, REALISM, GROWS_UNTIL, GRAIN = 0.4, 12.0, 1.2, 200, 0.03
WHOLE, SQUARE = 0.25, 10  # share of batches of whole pictures, which identity needs; the others' side, in latent pixels
SHARDS = 16  # in memory at a time: 16,000 portraits, 0.8 GB


def new_vae(channels: tuple[int, ...] = CHANNELS) -> AutoencoderKL:
    """The miniature's architecture, 1.0 M parameters; no attention."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,  # never one channel a group: that would wipe out its mean, the colour
        sample_size=128,
        mid_block_add_attention=False,
    )


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
        files = sorted(folder.glob("[0-9]*.npz"))
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


def arcface_of(
    arcface: TorchArcFace, images: Float[Tensor, "b 3 h w"], landmarks: Float[np.ndarray, "b 5 2"]
) -> Float[Tensor, "b 512"]:
    """Identities of images, cropped by landmarks that are known; gradients reach the images."""
    with autocast():
        return arcface(align_batch(images, landmarks))


def identity_loss(
    arcface: TorchArcFace,
    y: Float[Tensor, "b 3 h w"],
    x: Float[Tensor, "b 3 h w"],
    landmarks: Float[np.ndarray, "b 5 2"],
) -> Float[Tensor, ""]:
    """Mean of 1 - cos between the identities of images ``y`` and of their originals ``x``, both cropped alike."""
    seen = arcface_of(arcface, y, landmarks)
    with torch.no_grad():
        own = arcface_of(arcface, x, landmarks)
    return (1 - (seen * own).sum(1)).mean()


def loss_of(
    vae: AutoencoderKL,
    x: Float[Tensor, "b 3 h w"],
    generator: torch.Generator,
    arcface: TorchArcFace | None = None,
    landmarks: Float[np.ndarray, "b 5 2"] | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss, with the identity term where landmarks are given, and the mean absolute error in it."""
    with autocast():
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample(generator)).sample
    error = (y.float() - x).abs().mean()
    edges = sum(((y.float() - x).diff(dim=axis)).abs().mean() for axis in (2, 3))
    loss = error + 0.5 * edges + KL_WEIGHT * posterior.kl().float().mean() / posterior.mean[0].numel()
    if arcface is not None and landmarks is not None:
        loss = loss + IDENTITY_WEIGHT * identity_loss(arcface, y.float(), x, landmarks)
    return loss, error


def draft(
    folder: Path, arcface: TorchArcFace, persons: int, out: Path, steps: int, batch: int, seed: int = 0
) -> AutoencoderKL:
    """Train on the pool's persons but the held-out; resumes from ``out/state.pt``; gives the averaged weights."""
    torch.manual_seed(seed)
    vae, averaged = new_vae(), new_vae()
    averaged.load_state_dict(vae.state_dict())
    optimiser = torch.optim.AdamW(vae.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    parts = {"vae": vae, "averaged": averaged, "optimiser": optimiser}
    checkpoint = Checkpoint(out / "state.pt", parts, seconds=120.0)
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
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        average(averaged, vae, min(0.998, step / (step + 10)))
        running = error.item() if step == start else 0.98 * running + 0.02 * error.item()
        if step % 20 == 0:
            bar.set_postfix(l1=f"{running:.4f}")
        if checkpoint.save_if_due(step, last=step + 1 == steps):
            photographs = to_float(held_out(folder, persons))
            rebuilt = reconstruct(averaged, photographs)
            tqdm.write(f"step {step + 1} l1 {running:.4f} held-out {psnr(rebuilt, photographs):.2f} dB")
    return averaged.eval()


class Patches(nn.Sequential):
    """A discriminator: for each patch of 26 pixels of a picture, a number that is high for photographs.

    It sees the picture and, eight times as strong, what of it is finer than five pixels: that is where decoded pictures
    differ, and too little of a pixel's range to be learnt soon, or to survive half precision, without help. Noise of
    its own hides the grain of photographs, which no decoder can draw and which would give every picture away.
    """

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(6, 32, 4, 2, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(32, 64, 4, 2, 1, bias=False), nn.GroupNorm(8, 64), nn.LeakyReLU(0.2),
            nn.Conv2d(64, 64, 3, 1, 1, bias=False), nn.GroupNorm(8, 64), nn.LeakyReLU(0.2),
            nn.Conv2d(64, 1, 3, 1, 1),
        )  # fmt: skip

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h4 w4"]:
        """Scores of overlapping patches."""
        images = images + GRAIN * torch.randn_like(images)
        detail = images - F.avg_pool2d(images, 5, 1, 2, count_include_pad=False)
        with autocast():
            return super().forward(torch.cat([images, 8 * detail], dim=1)).float()


def hinge(photographs: Float[Tensor, "*n"], others: Float[Tensor, "*m"]) -> Float[Tensor, ""]:
    """The discriminator's loss: photographs are to have more than 1, decoded pictures less than -1.

    Example:
        >>> hinge(torch.tensor([2.0, 0.5]), torch.tensor([-3.0]))
        tensor(0.2500)
    """
    return F.relu(1 - photographs).mean() + F.relu(1 + others).mean()


def unlikeness(y: Float[Tensor, "b 3 h w"], x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
    """L1 between pictures at full, half and quarter resolution, and between their edges."""
    scales = [F.avg_pool2d(y - x, size).abs().mean() for size in (1, 2, 4)]
    edges = [(y - x).diff(dim=axis).abs().mean() for axis in (2, 3)]
    return torch.stack(scales).sum() + 0.5 * torch.stack(edges).sum()


def bands(images: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b 3 h w"]]:
    """Detail finer than three pixels, and between three and seven."""
    blurred = [F.avg_pool2d(images, size, 1, size // 2, count_include_pad=False) for size in (3, 7)]
    return [images - blurred[0], blurred[0] - blurred[1]]


def texture(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 6 h4 w4"]:
    """How strong detail is around each fourth pixel: root mean square of each band over squares of eight."""
    return torch.cat([(F.avg_pool2d(band.square(), 8, 4) + GRAIN**2 / 4).sqrt() for band in bands(images)], dim=1)


class Portraits(NamedTuple):
    """Portraits with what the encoder and ArcFace made of them, and where the face is."""

    images: UInt8[np.ndarray, "n 3 h w"]
    landmarks: Float[np.ndarray, "n 5 2"]
    mean: Float[Tensor, "n 4 h8 w8"]
    std: Float[Tensor, "n 4 h8 w8"]
    identity: Float[Tensor, "n 512"]

    def pick(self, rows: np.ndarray) -> Portraits:
        """Some of them."""
        at = torch.from_numpy(rows)
        return Portraits(self.images[rows], self.landmarks[rows], self.mean[at], self.std[at], self.identity[at])

    def part(self, top: int, left: int, side: int) -> Portraits:
        """A square of each picture, all in latent pixels; the landmarks mean nothing any more."""
        across, down = (slice(start, start + side) for start in (left, top))
        pixels = [slice(8 * each.start, 8 * each.stop) for each in (down, across)]
        return self._replace(
            images=self.images[..., pixels[0], pixels[1]],
            mean=self.mean[..., down, across],
            std=self.std[..., down, across],
        )


def encoded_batches(
    folder: Path, latents: Path, below: int, batch: int, g: np.random.Generator, shards: int = SHARDS
) -> Iterator[Portraits]:
    """Endless shuffled batches of the persons below an index, with their latents."""
    while True:
        files = sorted(latents.glob("[0-9]*.safetensors"))
        loaded = []
        for i in g.permutation(len(files))[:shards]:
            encoded = load_shard(files[i])
            if encoded is None:
                raise InputError(f"{files[i]}: a damaged shard; run the stage vae again, which makes it anew")
            with np.load(folder / f"{files[i].stem}.npz") as shard:
                everything = Portraits(shard["images"], shard["landmarks"], *encoded[:3])
            loaded.append(everything.pick(np.flatnonzero(encoded.person.numpy() < below)))
        together = Portraits(
            np.concatenate([each.images for each in loaded]),
            np.concatenate([each.landmarks for each in loaded]),
            *(torch.cat(parts) for parts in zip(*(each[2:] for each in loaded), strict=True)),
        )
        order = g.permutation(len(together.images))
        for first in range(0, len(order) - batch + 1, batch):
            yield together.pick(order[first : first + batch])


def sharpen(
    vae: AutoencoderKL,
    folder: Path,
    arcface: TorchArcFace,
    persons: int,
    out: Path,
    steps: int,
    batch: int,
    seed: int = 0,
) -> AutoencoderKL:
    """Train the decoder on the latents in ``out/latents``; resumes from ``out/sharp.pt``; averaged weights.

    Gradients of both kinds of loss are taken in the picture, where their sizes can be compared, and go through the
    decoder together.
    """
    torch.manual_seed(seed)
    averaged = copy.deepcopy(vae)
    net, goal = (nn.ModuleList([each.post_quant_conv, each.decoder]) for each in (vae, averaged))
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    patches = Patches()
    optimiser = torch.optim.AdamW(net.parameters(), lr=SHARP_RATE, betas=(0.8, 0.99), weight_decay=1e-4, fused=True)
    critic = torch.optim.AdamW(patches.parameters(), lr=CRITIC_RATE, betas=(0.5, 0.99), weight_decay=1e-4, fused=True)
    parts = {"net": net, "averaged": goal, "patches": patches, "optimiser": optimiser, "critic": critic}
    checkpoint = Checkpoint(out / "sharp.pt", parts, seconds=120.0)
    start = checkpoint.start
    data = encoded_batches(folder, out / "latents", held_out_from(persons), batch, np.random.default_rng([seed, start]))
    generator = torch.Generator().manual_seed(seed * 1_000_003 + start)
    running = {"l1": 0.0, "identity": 0.0, "patches": 0.0}
    bar = tqdm(range(start, steps), desc="decoder", initial=start, total=steps, mininterval=10)
    for step in bar:
        for rate, each in ((SHARP_RATE, optimiser), (CRITIC_RATE, critic)):
            for group in each.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / 100, 0.02 + 3 * (1 - step / steps))
        real = next(data)
        whole = bool(torch.rand(1, generator=generator) < WHOLE)
        if not whole:
            room = real.mean.shape[-1] - SQUARE + 1
            top, left = torch.randint(0, room, (2,), generator=generator).tolist()
            real = real.part(top, left, SQUARE)
        z = real.mean.float() + real.std.float() * torch.randn(real.mean.shape, generator=generator)
        with autocast():
            y = vae.decode(z).sample.float()
        x = to_float(real.images)
        if not whole:  # at a cut the decoder lacks what it would know of the picture beyond
            x, y = x[..., 8:-8, 8:-8], y[..., 8:-8, 8:-8]
        drawn = y.detach().contiguous().requires_grad_()
        loss = unlikeness(drawn, x) + TEXTURE_WEIGHT * (texture(drawn) - texture(x)).abs().mean()
        if whole:
            seen = arcface_of(arcface, drawn, real.landmarks)
            apart = (1 - (seen * F.normalize(real.identity.float(), dim=1)).sum(1)).mean()
            loss = loss + SHARP_IDENTITY_WEIGHT * apart
            running["identity"] = 0.95 * running["identity"] + 0.05 * apart.item()
        (likeness,) = torch.autograd.grad(loss, drawn)
        (realism,) = torch.autograd.grad(-patches(drawn).mean(), drawn)
        share = REALISM * min(1.0, step / GROWS_UNTIL) * likeness.norm() / realism.norm().clamp_min(1e-12)
        optimiser.zero_grad()
        y.backward(likeness + share * realism)
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        average(goal, net, min(0.998, step / (step + 10)))
        fooled = hinge(patches(x), patches(drawn.detach()))
        critic.zero_grad()
        fooled.backward()
        critic.step()
        now = {"l1": (drawn.detach() - x).abs().mean().item(), "patches": fooled.item()}
        running |= {k: v if step == start else 0.98 * running[k] + 0.02 * v for k, v in now.items()}
        if step % 20 == 0:
            bar.set_postfix({k: f"{v:.4f}" for k, v in running.items()})
        if checkpoint.save_if_due(step, last=step + 1 == steps):
            photographs = to_float(held_out(folder, persons))
            rebuilt = reconstruct(averaged, photographs)
            detail = float(energy(rebuilt).sum() / energy(photographs).sum())
            tqdm.write(f"step {step + 1} {running} held-out {psnr(rebuilt, photographs):.2f} dB, detail {detail:.0%}")
    return averaged.eval()


@torch.no_grad()
def average(averaged: nn.Module, net: nn.Module, decay: float) -> None:
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
    with np.load(sorted(folder.glob("[0-9]*.npz"))[-1]) as shard:
        mask = shard["person"] >= held_out_from(persons)
        images = shard["images"][mask] if mask.any() else shard["images"]
    return images[:: max(1, len(images) // count)][:count]


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """What is left of images after encoding (mode) and decoding, in [-1, 1]."""
    parts = [vae.decode(vae.encode(part).latent_dist.mode()).sample for part in images.split(16)]
    return torch.cat(parts).clamp(-1, 1)


def psnr(y: Float[Tensor, "n 3 h w"], x: Float[Tensor, "n 3 h w"]) -> float:
    """Mean over images in [-1, 1] of the peak signal-to-noise ratio in decibels.

    Example:
        >>> psnr(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.2))
        20.0
    """
    mse = (y - x).square().mean((1, 2, 3))
    return round(float((10 * torch.log10(4 / mse)).mean()), 4)


def energy(
    images: Float[Tensor, "n 3 h w"], low: float = 16.0, high: float = 48.0, windowed: bool = True
) -> Float[Tensor, " n"]:
    """Energy of each picture's grey values between two frequencies, in cycles a picture: what fine detail weighs.

    Args:
        images: of any range.
        low, high: the band, from ``low`` on and below ``high``.
        windowed: fade the picture out towards its border (a Hann window). Without it most of the energy is the jump
            between opposite borders, which the Fourier transform takes for neighbours, and blur hardly counts.

    Example:
        >>> wave = torch.sin(2 * math.pi * torch.arange(64) / 64 * torch.tensor([[8.0], [20.0]]))
        >>> fine = energy(wave[:, None, None].expand(2, 3, 64, 64), 16, 32)
        >>> bool(fine[0] < 1e-3 * fine[1])
        True
    """
    grey = images.mean(1)
    grey = grey - grey.mean((1, 2), keepdim=True)
    if windowed:
        grey = grey * torch.hann_window(grey.shape[1], False)[:, None] * torch.hann_window(grey.shape[2], False)
    rows, columns = (torch.fft.fftfreq(n, 1 / n) for n in grey.shape[1:])
    radius = (rows[:, None].square() + columns.square()).sqrt()
    return torch.fft.fft2(grey).abs().square()[:, (radius >= low) & (radius < high)].sum(1)


@torch.no_grad()
def set_scaling(vae: AutoencoderKL, images: Float[Tensor, "n 3 h w"]) -> None:
    """Set the factor that brings the latents to unit variance, 1/std (Rombach et al., 2022, appendix G)."""
    latents = torch.cat([vae.encode(part).latent_dist.mode() for part in images.split(16)])
    vae.register_to_config(scaling_factor=round(1 / float(latents.std()), 5))


def save_draft(vae: AutoencoderKL, path: Path) -> None:
    """Write the weights and the scaling factor that `sharpen` starts from."""
    with atomic_write(path) as temporary:
        torch.save({"vae": vae.state_dict(), "scaling_factor": vae.config.scaling_factor}, temporary)


def load_draft(path: Path) -> AutoencoderKL:
    """The autoencoder that `save_draft` wrote."""
    saved = torch.load(path, weights_only=True)
    vae = new_vae()
    vae.load_state_dict(saved["vae"])
    vae.register_to_config(scaling_factor=saved["scaling_factor"])
    return vae.eval()


def run(work: Path, tiny: bool = False) -> None:
    """Train; write ``vae/vae/`` in diffusers' form (half precision) and ``vae/metrics.json``.

    A draft that is there already is taken as it is, whether this stage trained it or `grow` put it there.
    """
    out, folder = work / "vae", work / "faces_pool"
    out.mkdir(parents=True, exist_ok=True)
    persons = 8 if tiny else POOLS[0].persons
    arcface = differentiable_arcface(work / "arcface" / "arcface_mini.onnx")
    images = to_float(held_out(folder, persons, 16 if tiny else 256))
    if not (out / "draft.pt").exists():
        trained = draft(folder, arcface, persons, out, steps=2 if tiny else STEPS, batch=4 if tiny else BATCH)
        set_scaling(trained, images)
        save_draft(trained, out / "draft.pt")
    vae = load_draft(out / "draft.pt")
    encode_pool(vae, arcface, folder, out / "latents")
    vae = sharpen(
        vae, folder, arcface, persons, out, steps=2 if tiny else SHARP_STEPS, batch=4 if tiny else SHARP_BATCH
    )
    vae.half().save_pretrained(out / "vae")
    rebuilt = reconstruct(vae.float(), images)
    metrics = {
        "psnr_db": psnr(rebuilt, images),
        "energy_16_to_48_cycles": round(float(energy(rebuilt).sum() / energy(images).sum()), 4),
        "scaling_factor": vae.config.scaling_factor,
        "parameters": sum(p.numel() for p in vae.parameters()),
        "images": len(images),
    }
    with atomic_write(out / "metrics.json") as path:
        path.write_text(json.dumps(metrics, indent=1))
    tqdm.write(json.dumps(metrics))
