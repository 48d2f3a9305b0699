"""How much of a predicted identity is lost in the drawing? That is all that Stage II could win in the faces.

    python benchmarks/headroom.py                # writes benchmarks/results/headroom.csv; 3 minutes of one core

The headroom of an identity ẑ is H = cos(ẑ, z_arc) − cos(f_arc(x̂(ẑ)), z_arc): how much nearer to the speaker's face ẑ
is than the faces drawn from it. Where it is not above 0, a critic that makes the faces agree
with ẑ has nothing to give to their likeness. Drawn are the ẑ of Stage I and of cosine regression alone. The oracle's ẑ
is z_arc itself: its H is what the drawing costs where nothing is guessed.

H has two parts. With f what f_arc recognises in a face drawn from ẑ, the mean cosine of faces is ‖E f‖ · cos(E f,
z_arc), and ‖E f‖² is the mean cosine of two faces of one ẑ. "of their mean" is cos(E f, z_arc): what faces would have
that do not vary. From there to ẑ is bias ("H of the mean"), from there to the faces is variety.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from tqdm import tqdm

from minivox.build.prior_report import to_bytes
from v2f_core.artefacts.files import atomic_write
from v2f_core.artefacts.profiles import Profile, load_profile
from v2f_core.data.voxceleb import open_dataset
from v2f_core.diffusion.prior import Prior
from v2f_core.evaluation.metrics import bootstrap
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.faces import FacePack
from v2f_core.training.embeddings import embed_dataset
from v2f_core.training.pairs import pair_up
from v2f_core.training.stage1 import Stage1Settings, train_stage1

SEEDS, AT_ONCE = 2, 50

MEASURES: dict[str, Callable[[Any], Any]] = {
    "cosine of ẑ": lambda mean: mean[..., 0],
    "of faces": lambda mean: mean[..., 1],
    "of their mean": lambda mean: mean[..., 1] / np.sqrt(mean[..., 2]),
    "H": lambda mean: mean[..., 0] - mean[..., 1],
    "H of the mean": lambda mean: mean[..., 0] - mean[..., 1] / np.sqrt(mean[..., 2]),
}


def drawn(
    prior: Prior, pack: FacePack, identity: Float[torch.Tensor, "n 512"], profile: Profile, seed: int
) -> Float[np.ndarray, "n 512"]:
    """What f_arc recognises in one face of each identity; zeros where no face is found."""
    generator = torch.Generator().manual_seed(seed)
    parts = [prior.sample(part, profile.steps, profile.guidance, generator) for part in identity.split(AT_ONCE)]
    return pack.embed(list(to_bytes(torch.cat(parts))))[0]


def main() -> None:
    """Predict, draw, compare, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--split", default="val", help="val, or test, which is to be read once (default: val)")
    chosen = parser.parse_args()
    profile = load_profile("mini")
    manifest = open_dataset(profile)
    voices, faces = embed_dataset(profile, manifest)
    training, validation, asked = (pair_up(manifest, voices, faces, s) for s in ("train", "val", chosen.split))
    aligner = Aligner.from_pretrained(profile.part("aligner"))
    alone = {"weight_am": 0.0, "weight_info": 0.0, "weight_cosine": 1.0}
    with TemporaryDirectory() as folder:
        cosreg = train_stage1(training, validation, Stage1Settings(**{**profile.stage1, **alone}), folder, {})
    with torch.no_grad():
        systems = {
            "Stage I": aligner(asked.pooled_voices()),
            "CosReg": cosreg(asked.pooled_voices()),
            "oracle, true identity": asked.gallery(),
        }
    prior = Prior.from_folder(profile.part("prior")).requires_grad_(False)
    pack, truth = FacePack.from_folder(profile.part("faces")), asked.gallery().numpy()
    women = np.array(asked.sexes)
    rows = []
    for name, identity in tqdm(systems.items(), desc="systems"):
        own = (identity.numpy() * truth).sum(1)
        seen = [drawn(prior, pack, identity, profile, seed) for seed in range(SEEDS)]
        faces_of = np.mean([(each * truth).sum(1) for each in seen], 0)
        values = np.stack([own, faces_of, (seen[0] * seen[1]).sum(1)], axis=1)  # of each person
        row: dict[str, object] = {"system": name, "split": chosen.split, "persons": len(truth), "seeds": SEEDS}
        for measure, statistic in MEASURES.items():
            found = bootstrap(values, statistic, women)
            row |= {measure: found.value, f"{measure} low": found.low, f"{measure} high": found.high}
        rows.append(row)
    table = pd.DataFrame(rows)
    with atomic_write(chosen.out / "headroom.csv") as part:
        table.to_csv(part, index=False, float_format="%.6g")
    print(table.round(3).to_string())


if __name__ == "__main__":
    main()
