"""The pool of portraits as the prior sees it: latents of the autoencoder and identities of ArcFace, shard by shard.

The autoencoder's decoder is trained on them, and then the UNet. A shard is a ``.safetensors`` of ``mean`` and ``std``
(float16, n x 4 x 16 x 16: the posterior of each portrait), ``identity`` (float16, n x 512, unit length) and ``person``
(int32, n: index in the pool). What is there and whole is not made again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from tqdm import tqdm

from minivox.build.arcface import features
from minivox.build.precision import autocast
from v2f_core.artefacts.files import atomic_write
from v2f_core.errors import InputError
from v2f_core.identity.arcface_torch import TorchArcFace
from v2f_core.identity.faces import align

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


class Encoded(NamedTuple):
    """Portraits in the order of their shards; views of a person are neighbours."""

    mean: Float[Tensor, "n 4 h w"]
    std: Float[Tensor, "n 4 h w"]
    identity: Float[Tensor, "n 512"]
    person: Int[Tensor, " n"]


def to_float(images: UInt8[np.ndarray, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Bytes to [-1, 1].

    Example:
        >>> to_float(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1).repeat(3, 1))[:, 0, 0, 0]
        tensor([-1.,  1.])
    """
    return torch.from_numpy(images).float().div_(127.5).sub_(1)


def load_shard(path: Path) -> Encoded | None:
    """One shard, or nothing where the file is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return Encoded(**load_file(path))
    except (OSError, SafetensorError, TypeError):
        return None


@torch.no_grad()
def encode_shard(vae: AutoencoderKL, arcface: TorchArcFace, portraits: Path) -> Encoded:
    """Encode one shard of the pool; identities are of crops by the true landmarks."""
    with np.load(portraits) as shard:
        images, landmarks, person = shard["images"], shard["landmarks"], shard["person"]
    posteriors = []
    for first in range(0, len(images), 32):
        with autocast():
            posteriors.append(vae.encode(to_float(images[first : first + 32])).latent_dist)
    upright = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    crops = np.stack([align(image, points) for image, points in zip(upright, landmarks, strict=True)])
    return Encoded(
        torch.cat([p.mean for p in posteriors]).half(),
        torch.cat([p.std for p in posteriors]).half(),
        torch.from_numpy(features(arcface, crops)).half(),
        torch.from_numpy(person),
    )


def encode_pool(vae: AutoencoderKL, arcface: TorchArcFace, pool: Path, out: Path) -> None:
    """Encode every shard of portraits into ``out``, unless it is there and whole."""
    from safetensors.torch import save_file

    missing = [path for path in sorted(pool.glob("[0-9]*.npz")) if load_shard(_encoded(path, out)) is None]
    for path in tqdm(missing, desc="latents and identities", unit="shard"):
        with atomic_write(_encoded(path, out)) as temporary:
            save_file(encode_shard(vae, arcface, path)._asdict(), temporary)


def _encoded(portraits: Path, out: Path) -> Path:
    return out / f"{portraits.stem}.safetensors"


def load_pool(folder: Path) -> Encoded:
    """All shards that ``folder`` has, as one; identities of unit length and single precision.

    Raises:
        InputError: there is none, or one is damaged.
    """
    shards = []
    for path in sorted(folder.glob("[0-9]*.safetensors")):
        shard = load_shard(path)
        if shard is None:
            raise InputError(f"{path}: a damaged shard; run the stage vae again, which makes it anew")
        shards.append(shard)
    if not shards:
        raise InputError(f"{folder}: no latents in it; run the stage vae first")
    joined = Encoded(*(torch.cat(parts) for parts in zip(*shards, strict=True)))
    return joined._replace(identity=F.normalize(joined.identity.float(), dim=1))
