"""How good a prior is: reconstructions, and an oracle that is given the true identity, on held-out persons.

    python -m minivox.build.prior_report --work build --prior NAME=FOLDER [--prior …] --out FILE.json

Each person's first portrait gives the identity, the second stands in the gallery. The last 200 held-out persons are
the test, those before them choose the guidance scale. The kernel distance is to photographs of 400 other persons, whom
neither ArcFace nor the judge has met.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from scipy import ndimage
from torch import Tensor
from tqdm import tqdm

from minivox.build.encoded import to_float
from minivox.build.faces_pool import POOLS
from minivox.build.vae import energy, held_out_from, psnr, reconstruct
from v2f_core.artefacts.files import atomic_write
from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError
from v2f_core.evaluation.judge import Judge
from v2f_core.evaluation.metrics import bootstrap, kernel_distance
from v2f_core.identity.faces import FacePack

GUIDANCES = (1.0, 1.5, 2.0, 2.5, 3.0)
TEST, VALIDATION, REFERENCE, STEPS, SEEDS = 200, 100, 400, 15, 2


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
    for path in sorted(pool.glob("[0-9]*.npz")):
        with np.load(path) as shard:
            person, images = shard["person"], shard["images"]
            people += [images[person == p][:shots] for p in np.unique(person[person >= first])]
    return np.stack(people)


def draw(
    prior: Prior, identity: Float[Tensor, "n 512"], guidance: float, seed: int = 0, steps: int = STEPS
) -> Float[Tensor, "n 3 h w"]:
    """One face for each identity, in batches, from one generator."""
    generator = torch.Generator().manual_seed(seed)
    parts = tqdm(identity.split(50), desc=f"sampling, guidance {guidance:g}", leave=False)
    return torch.cat([prior.sample(part, steps, guidance, generator) for part in parts])


def hits(query: Float[np.ndarray, "n 512"], gallery: Float[np.ndarray, "n 512"]) -> Float[np.ndarray, " n"]:
    """1 for each query whose own person is the nearest in the gallery, else 0.

    Example:
        >>> hits(np.eye(3, 512), np.eye(3, 512)[[0, 2, 1]])
        array([1., 0., 0.])
    """
    return ((query @ gallery.T).argmax(1) == np.arange(len(query))).astype(np.float64)


def smallest_as_good(scores: dict[float, Float[np.ndarray, " persons"]]) -> float:
    """The smallest guidance that is not worse than the best by more than the standard error of their difference.

    More guidance draws faces that are less like photographs. The same persons are scored under each guidance, so that
    the difference is known better than either mean.

    Example:
        >>> persons = np.random.default_rng(0).uniform(size=100)
        >>> smallest_as_good({1.0: persons, 2.0: persons + 0.1, 3.0: persons + 0.1})
        2.0
    """
    best = scores[max(scores, key=lambda scale: scores[scale].mean())]
    errors = {scale: (best - each).std() / len(best) ** 0.5 for scale, each in scores.items()}
    return min(scale for scale, each in scores.items() if best.mean() - each.mean() <= errors[scale])


def laplacian(images: UInt8[np.ndarray, "n h w 3"]) -> float:
    """Variance of the Laplacian of the grey pictures, averaged over them: a common measure of sharpness.

    Example:
        >>> stripes = np.tile(np.array([0, 255], np.uint8)[:, None], (1, 8, 4, 3)).reshape(1, 8, 8, 3)
        >>> laplacian(stripes // 2) < laplacian(stripes)
        True
    """
    return float(np.mean([ndimage.laplace(image.mean(2)).var() for image in images]))


def kernel_interval(
    generated: Float[np.ndarray, "n dim"], real: Float[np.ndarray, "m dim"]
) -> tuple[float, float, float]:
    """`kernel_distance` with its 95 % interval, by leaving out one face at a time (jackknife).

    Example:
        >>> x = np.random.default_rng(0).standard_normal((200, 8)) + np.eye(8)[0]
        >>> x /= np.linalg.norm(x, axis=1, keepdims=True)
        >>> value, low, high = kernel_interval(x[:100], x[100:])
        >>> bool(low < 0 < high), low < value < high
        (True, True)
    """
    value = kernel_distance(generated, real)
    x, y = (side[side.any(1)].astype(np.float64) for side in (generated, real))
    n, m = len(x), len(y)
    across = (x @ y.T + 1) ** 3
    sums = [((side @ side.T + 1) ** 3).sum(1) - ((side**2).sum(1) + 1) ** 3 for side in (x, y)]
    whole = [each.sum() for each in sums]
    without = [
        (whole[0] - 2 * sums[0]) / ((n - 1) * (n - 2)) + whole[1] / (m * (m - 1))
        - 2 * (across.sum() - across.sum(1)) / ((n - 1) * m),
        whole[0] / (n * (n - 1)) + (whole[1] - 2 * sums[1]) / ((m - 1) * (m - 2))
        - 2 * (across.sum() - across.sum(0)) / (n * (m - 1)),
    ]  # fmt: skip
    variance = sum((len(each) - 1) / len(each) * np.square(each - each.mean()).sum() for each in without)
    reach = 1.96 * float(np.sqrt(variance))
    return value, value - reach, value + reach


def measure(prior: Prior, pool: Path, pack: FacePack, judge: Judge, tiny: bool = False) -> dict[str, object]:
    """All measures of a prior on the persons that no training has seen; see the module for who they are.

    Args:
        prior: the prior.
        pool: folder of the portraits, all rendered.
        pack, judge: the scorers.
        tiny: of a tiny pool.
    """
    persons = 8 if tiny else POOLS[0].persons
    first, steps = held_out_from(persons), 2 if tiny else STEPS
    views = held_out_views(pool, first, shots=2 if tiny else 4)
    test = 1 if tiny else min(TEST, len(views) - 1)
    others = held_out_views(pool, 0 if tiny else first - REFERENCE, shots=1)[: 4 if tiny else REFERENCE, 0]
    z = [pack.embed(list(views[:, k].transpose(0, 2, 3, 1)))[0] for k in range(2)]  # own and other portrait

    tried, scores = {}, {}
    validation = slice(0, min(VALIDATION, len(views) - test))
    for guidance in GUIDANCES:
        faces = draw(prior, _unit(z[0][validation]), guidance, steps=steps)
        seen = pack.embed(list(to_bytes(faces)))[0]
        own, first_of_all = (seen * z[0][validation]).sum(1), hits(seen, z[1][validation])
        tried[f"{guidance:g}"] = {"rank1": round(float(first_of_all.mean()), 4), "cosine": round(float(own.mean()), 4)}
        scores[guidance] = own + first_of_all
    chosen = smallest_as_good(scores)

    views, z = views[-test:], [each[-test:] for each in z]
    faces = torch.stack([draw(prior, _unit(z[0]), chosen, seed, steps) for seed in range(SEEDS)], dim=1)
    drawn, detected = pack.embed(list(to_bytes(faces[:, 0])))
    photographs = to_float(views[:, 0])
    rebuilt = reconstruct(prior.vae, photographs)
    kept = pack.embed(list(to_bytes(rebuilt)))[0]
    real = torch.stack([to_float(views[:, k]) for k in range(views.shape[1])], dim=1)

    def share(pictures: Tensor, windowed: bool) -> float:
        return round(float(energy(pictures, windowed=windowed).sum() / energy(photographs, windowed=windowed).sum()), 4)

    sharp = laplacian(to_bytes(photographs))
    metrics: dict[str, object] = {
        "persons": test,
        "psnr_db": round(psnr(rebuilt, photographs), 3),
        "vae_energy_16_to_48": share(rebuilt, windowed=False),
        "vae_energy_16_to_48_windowed": share(rebuilt, windowed=True),
        "vae_laplacian": round(laplacian(to_bytes(rebuilt)) / sharp, 4),
        "oracle_energy_16_to_48_windowed": share(faces[:, 0], windowed=True),
        "oracle_laplacian": round(laplacian(to_bytes(faces[:, 0])) / sharp, 4),
        "vae_cosine": round(float((kept * z[0]).sum(1).mean()), 4),
        "vae_rank1": round(float(hits(kept, z[1]).mean()), 4),
        "real_rank1": round(float(hits(z[0], z[1]).mean()), 4),
        "real_cosine": round(float((z[0] * z[1]).sum(1).mean()), 4),
        "guidance": chosen,
        "oracle_rank1": round(float(hits(drawn, z[1]).mean()), 4),
        "oracle_rank1_interval": _interval(hits(drawn, z[1])),
        "oracle_cosine": round(float((drawn * z[0]).sum(1).mean()), 4),
        "oracle_cosine_interval": _interval((drawn * z[0]).sum(1)),
        "oracle_cosine_other_portrait": round(float((drawn * z[1]).sum(1).mean()), 4),
        "mean_cosine_between_persons": round(float(np.triu(z[0] @ z[1].T, 1).sum() / (test * (test - 1) / 2 or 1)), 4),
        "faces_not_detected": int((~detected).sum()),
        "diversity_of_real": round(spread(faces) / spread(real), 4),
        "validation": tried,
    }
    metrics["oracle_cosine_share"] = round(float(metrics["oracle_cosine"]) / (float(metrics["vae_cosine"]) or 1), 4)  # type: ignore[arg-type]
    if not tiny:  # a distance needs clouds
        pictures = {"oracle": to_bytes(faces[:, 0]), "vae": to_bytes(rebuilt), "photographs": to_bytes(photographs)}
        upright = list(others.transpose(0, 2, 3, 1))
        for scorer, features in {"arcface": lambda x: pack.embed(x)[0], "judge": judge.features}.items():
            reference = features(upright)
            for name, images in pictures.items():
                interval = kernel_interval(features(list(images)), reference)
                metrics[f"{name}_kernel_distance_{scorer}"] = [round(each, 5) for each in interval]
    return metrics


def _interval(values: np.ndarray) -> list[float]:
    return [round(each, 4) for each in bootstrap(values)[1:]] if len(values) > 1 else []


def evaluate(work: Path, tiny: bool = False) -> dict[str, object]:
    """Write ``prior/metrics.json`` and ``prior/oracle_sheet.png`` for the folder ``prior/assets/prior``."""
    folder = work / "prior" / "assets" / "prior"
    metrics = report(folder, work, work / "prior" / "oracle_sheet.png", tiny)
    with atomic_write(work / "prior" / "metrics.json") as path:
        path.write_text(json.dumps(metrics, indent=1) + "\n")
    tqdm.write(json.dumps(metrics))
    return metrics


def report(folder: Path, work: Path, picture: Path, tiny: bool = False) -> dict[str, object]:
    """Measure the prior in ``folder`` with the pool and the scorers in ``work``, and draw its picture."""
    prior = Prior.from_folder(folder).requires_grad_(False)
    pack, judge = FacePack.from_folder(work / "detector" / "pack"), Judge.from_folder(work / "judge")
    metrics = measure(prior, work / "faces_pool", pack, judge, tiny)
    metrics["bytes"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    views = held_out_views(work / "faces_pool", held_out_from(8 if tiny else POOLS[0].persons), 2 if tiny else 4)
    views = views[-(1 if tiny else TEST) :][:12]
    identity = _unit(pack.embed(list(views[:, 0].transpose(0, 2, 3, 1)))[0])
    sheet(prior, views, identity, float(metrics["guidance"]), picture, 2 if tiny else STEPS)  # type: ignore[arg-type]
    return metrics


def main(arguments: list[str] | None = None) -> int:
    """Measure each prior that the command line names; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m minivox.build.prior_report", description="Measures priors.")
    parser.add_argument("--work", type=Path, default=Path("build"), help="scratch folder (default: build)")
    parser.add_argument("--prior", action="append", metavar="NAME=FOLDER", help="default: new=WORK/prior/assets/prior")
    parser.add_argument("--out", type=Path, required=True, help="a JSON file: by name, the measures of each prior")
    parser.add_argument("--pictures", type=Path, default=Path("build/prior"), help="folder for NAME.webp")
    chosen = parser.parse_args(arguments)
    named = dict(each.split("=", 1) for each in chosen.prior or [f"new={chosen.work / 'prior' / 'assets' / 'prior'}"])
    try:
        measures = {name: report(Path(at), chosen.work, chosen.pictures / f"{name}.webp") for name, at in named.items()}
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with atomic_write(chosen.out) as path:
        path.write_text(json.dumps(measures, indent=1) + "\n")
    return 0


def _unit(z: np.ndarray) -> Float[Tensor, "n 512"]:
    # where no face was found there is no identity to ask for; any will do, since its score against 0 is a miss
    return F.normalize(torch.from_numpy(np.where(z.any(1, keepdims=True), z, np.float32(1))), dim=1)


def sheet(
    prior: Prior, views: np.ndarray, identity: Float[Tensor, "n 512"], guidance: float, path: Path, steps: int
) -> None:
    """A picture: each row a person, first the real portraits, then after a gap six draws from the first's identity."""
    from PIL import Image

    rows = []
    for own, z in zip(views, identity, strict=True):
        faces = to_bytes(prior.sample(z.expand(6, -1), steps, guidance, torch.Generator().manual_seed(0)))
        gap = np.full((own.shape[2], 16, 3), 255, np.uint8)
        rows.append(np.concatenate([*own.transpose(0, 2, 3, 1), gap, *faces], axis=1))
    with atomic_write(path) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary, quality=85)  # which PNG ignores


if __name__ == "__main__":
    sys.exit(main())
