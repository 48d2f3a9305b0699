"""How long a gradient does φ get from L_id and from each L_self, when Stage II begins? λ_self follows from it.

    python benchmarks/gradients.py               # writes benchmarks/results/gradients.csv; half a minute of one core

L_id of the mini profile is some tens, L_self some hundredths: with λ_self = 1 the adapters learn, and φ hears nothing.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from v2f_core.app.ablate import Plan, open_kit
from v2f_core.artefacts.files import atomic_write
from v2f_core.artefacts.profiles import load_profile
from v2f_core.diffusion.consistency import SelfConsistency
from v2f_core.identity.aligner import Aligner
from v2f_core.studies.critics import CRITICS, cycle, likeness
from v2f_core.training.stage1 import Stage1Settings, identity_loss

BATCHES, BATCH = 8, 8
RIVALS = {f"{of.__name__}, among rivals": partial(of, rival_temperature=0.1) for of in (cycle, likeness)}
MEASURED = {**CRITICS, **RIVALS}


def main() -> None:
    """Measure on the shipped aligner and training persons, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    chosen = parser.parse_args()
    profile = load_profile("mini")
    kit = open_kit(Plan(profile, Path()))
    kit.prior.requires_grad_(False)
    aligner = Aligner.from_pretrained(profile.part("aligner")).eval()
    settings = Stage1Settings(**profile.stage1)
    of_identity = identity_loss(kit.training.pairs, settings, free=not settings.fixed_centroids)
    generator, rows = torch.Generator().manual_seed(0), []
    for name in ("L_id", *MEASURED):
        values, lengths = [], []
        for _ in range(BATCHES):
            voice, label, faces = kit.training.draw(BATCH, settings.windows, generator)
            identity = aligner(voice)
            if name == "L_id":
                loss: Tensor = of_identity(identity, faces.z_arc, label).total
            else:
                critic = SelfConsistency(kit.prior, kit.arcface, MEASURED[name])
                loss = critic(identity, faces, generator).loss
            gradients = torch.autograd.grad(loss, list(aligner.parameters()))
            values.append(loss.item())
            lengths.append(torch.cat([g.flatten() for g in gradients]).norm().item())
        rows.append({"loss": name, "value": sum(values) / BATCHES, "gradient of φ": sum(lengths) / BATCHES})
    table = pd.DataFrame(rows)
    table["λ for L_id's length"] = table["gradient of φ"].iloc[0] / table["gradient of φ"]
    with atomic_write(chosen.out / "gradients.csv") as part:
        table.to_csv(part, index=False, float_format="%.4g")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
