"""How good the prior is: reconstructions, and an oracle that is given the true identity, on held-out persons.

Each person's first portrait gives the identity, the second stands in the gallery. The last 200 held-out persons are
the test, those before them choose the guidance scale.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from minivox.build.vae import held_out_from, psnr_of, reconstruct, to_float
from v2f_core.artefacts.files import atomic_write
from v2f_core.diffusion.prior import Prior
from v2f_core.identity.faces import FacePack

GUIDANCES = (1.0, 1.5, 2.0, 3.0)
TEST, VALIDATION, STEPS, SEEDS = 200, 50, 15, 2


def to_bytes(images: Float[Tensor, "n 3 h w"]) -> UInt8[np.ndarray, "n h w 3"]:
    """[-1, 1] CHW to bytes HWC.

    Example:
        >>> to_bytes(torch.tensor([-1.0, 1.0, 9.0]).reshape(1, 3, 1, 1)).ravel().tolist()
        [0, 255, 255]
    """
    return ((images + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


def spread(images: Float[Tensor, "people shots 3 h w"]) -> float:
    """Root-mean-square difference between two shots of a person, averaged over pairs and persons.

    Example:
        >>> spread(torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1, 1).expand(1, 2, 3, 4, 4))
        1.0
    """
    shots = images.shape[1]
    pairs = [(i, j) for i in range(shots) for j in range(i)]
    return float(np.mean([(images[:, i] - images[:, j]).square().mean((1, 2, 3)).sqrt().mean() for i, j in pairs]))


def held_out_views(pool: Path, first: int, shots: int) -> UInt8[np.ndarray, "people shots 3 h w"]:
    """The first portraits of each person from ``first`` on."""
    people = []
    for path in sorted(pool.glob("*.npz")):
        with np.load(path) as shard:
            person, images = shard["person"], shard["images"]
            people += [images[person == p][:shots] for p in np.unique(person[person >= first])]
    return np.stack(people)


def draw(prior: Prior, identity: Float[Tensor, "n 512"], guidance: float, seed: int = 0) -> Float[Tensor, "n 3 h w"]:
    """One face for each identity, in batches, from one generator."""
    generator = torch.Generator().manual_seed(seed)
    parts = tqdm(identity.split(50), desc=f"sampling, guidance {guidance:g}", leave=False)
    return torch.cat([prior.sample(part, STEPS, guidance, generator) for part in parts])


def rank1(query: Float[np.ndarray, "n 512"], gallery: Float[np.ndarray, "n 512"]) -> float:
    """Share of queries whose own person is the nearest in the gallery.

    Example:
        >>> rank1(np.eye(2, 512), np.eye(2, 512)[::-1])
        0.0
    """
    return float(((query @ gallery.T).argmax(1) == np.arange(len(query))).mean())


def evaluate(work: Path, tiny: bool = False) -> dict[str, object]:
    """Write ``prior/metrics.json`` and ``prior/oracle_sheet.png`` for the folder ``prior/assets/prior``."""
    from minivox.build.faces_pool import POOLS

    prior = Prior.from_folder(work / "prior" / "assets" / "prior").requires_grad_(False)
    pack = FacePack.from_folder(work / "detector" / "pack")
    persons = 8 if tiny else POOLS[0].persons
    views = held_out_views(work / "faces_pool", held_out_from(persons), shots=2 if tiny else 4)
    test = 1 if tiny else min(TEST, len(views) - 1)
    z = [pack.embed(list(views[:, k].transpose(0, 2, 3, 1)))[0] for k in range(2)]  # own and other portrait

    tried = {}
    validation = slice(0, min(VALIDATION, len(views) - test))
    for guidance in GUIDANCES:
        faces = draw(prior, _unit(z[0][validation]), guidance)
        found = pack.embed(list(to_bytes(faces)))[0]
        own = float((found * z[0][validation]).sum(1).mean())
        tried[f"{guidance:g}"] = {"rank1": round(rank1(found, z[1][validation]), 4), "cosine": round(own, 4)}
    chosen = max(GUIDANCES, key=lambda s: tried[f"{s:g}"]["rank1"] + tried[f"{s:g}"]["cosine"])

    views, z = views[-test:], [each[-test:] for each in z]
    faces = torch.stack([draw(prior, _unit(z[0]), chosen, seed) for seed in range(SEEDS)], dim=1)
    found, seen = pack.embed(list(to_bytes(faces[:, 0])))
    rebuilt = pack.embed(list(to_bytes(reconstruct(prior.vae, views[:, 0]))))[0]
    real = torch.stack([to_float(views[:, k]) for k in range(views.shape[1])], dim=1)
    metrics: dict[str, object] = {
        "persons": test,
        "psnr_db": round(psnr_of(prior.vae, views[:, 0]), 3),
        "vae_cosine": round(float((rebuilt * z[0]).sum(1).mean()), 4),
        "vae_rank1": round(rank1(rebuilt, z[1]), 4),
        "real_rank1": round(rank1(z[0], z[1]), 4),
        "real_cosine": round(float((z[0] * z[1]).sum(1).mean()), 4),
        "guidance": chosen,
        "oracle_rank1": round(rank1(found, z[1]), 4),
        "oracle_cosine": round(float((found * z[0]).sum(1).mean()), 4),
        "oracle_cosine_other_portrait": round(float((found * z[1]).sum(1).mean()), 4),
        "mean_cosine_between_persons": round(float(np.triu(z[0] @ z[1].T, 1).sum() / (test * (test - 1) / 2 or 1)), 4),
        "faces_not_detected": int((~seen).sum()),
        "diversity_of_real": round(spread(faces) / spread(real), 4),
        "validation": tried,
        "bytes": sum(
            path.stat().st_size for path in (work / "prior" / "assets" / "prior").rglob("*") if path.is_file()
        ),
    }
    with atomic_write(work / "prior" / "metrics.json") as path:
        path.write_text(json.dumps(metrics, indent=1))
    tqdm.write(json.dumps(metrics))
    sheet(prior, views[:12], _unit(z[0][:12]), chosen, work / "prior" / "oracle_sheet.png")
    return metrics


def _unit(z: np.ndarray) -> Float[Tensor, "n 512"]:
    # where no face was found there is no identity to ask for; any will do, since its score against 0 is a miss
    return F.normalize(torch.from_numpy(np.where(z.any(1, keepdims=True), z, np.float32(1))), dim=1)


def sheet(prior: Prior, views: np.ndarray, identity: Float[Tensor, "n 512"], guidance: float, path: Path) -> None:
    """A picture: each row a person, first the real portraits, then after a gap six draws from the first's identity."""
    from PIL import Image

    rows = []
    for own, z in zip(views, identity, strict=True):
        faces = to_bytes(prior.sample(z.expand(6, -1), STEPS, guidance, torch.Generator().manual_seed(0)))
        gap = np.full((own.shape[2], 16, 3), 255, np.uint8)
        rows.append(np.concatenate([*own.transpose(0, 2, 3, 1), gap, *faces], axis=1))
    with atomic_write(path) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary)
