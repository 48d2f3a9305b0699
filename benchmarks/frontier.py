"""Likeness against diversity: what each guidance scale trades, for systems that `ablate` has trained.

    V2F_DATASET=build/large python benchmarks/frontier.py runs/ablate "w/o DSC" "cycle, φ alone"

A system may look better merely because its faces vary less: guidance does that to any of them. So every system is drawn
under every scale, each person twice, and compared where it is as diverse as the other. Writes results/frontier.csv.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from v2f_core.app.ablate import Kit, Plan, open_kit
from v2f_core.artefacts.files import atomic_write, folder_hash
from v2f_core.artefacts.profiles import load_profile
from v2f_core.diffusion.lora import load_lora
from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError
from v2f_core.evaluation import metrics
from v2f_core.evaluation.metrics import bootstrap, paired_difference
from v2f_core.evaluation.systems import Drawing, Faces, draw_faces
from v2f_core.identity.aligner import Aligner


def main() -> None:
    """Draw, measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="the folder in which ablate keeps its runs")
    parser.add_argument("systems", nargs="+", help="the first is what the others are compared with")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--persons", type=int, default=300)
    parser.add_argument("--split", default="test")
    parser.add_argument("--guidances", type=float, nargs="+", default=(1.0, 2.0, 3.0, 4.5, 6.5))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    chosen = parser.parse_args()
    plan = Plan(load_profile("mini"), chosen.runs, persons=chosen.persons, split=chosen.split)
    kit = open_kit(plan)
    photographs = kit.scorer.photographs(kit.photos)
    values: dict[tuple[str, float], dict[str, np.ndarray]] = {}
    for system in chosen.systems:
        for guidance in chosen.guidances:
            seeds = [measured(plan, kit, photographs, system, seed, guidance) for seed in range(chosen.seeds)]
            values[system, guidance] = {name: np.mean([each[name] for each in seeds], axis=0) for name in seeds[0]}
    base = [values[chosen.systems[0], guidance] for guidance in chosen.guidances]
    rows = []
    for (system, guidance), found in values.items():
        matched = as_diverse(base, found["diversity"].mean()) if system != chosen.systems[0] else None
        for name, value in found.items():
            row: dict[str, object] = {"system": system, "guidance": guidance, "metric": name, "n": len(value)}
            row |= dict(zip(("value", "low", "high"), bootstrap(value), strict=True))
            if matched is not None:
                gain = paired_difference(value, matched[name])
                row |= {"gain": gain.value, "gain low": gain.low, "gain high": gain.high}
            rows.append(row)
    table = pd.DataFrame(rows).assign(seeds=chosen.seeds, split=chosen.split)
    with atomic_write(chosen.out / "frontier.csv") as part:
        table.to_csv(part, index=False, float_format="%.5g")
    print(table.to_string(index=False))


def as_diverse(
    base: Sequence[Mapping[str, Float[np.ndarray, " n"]]], diversity: float
) -> dict[str, Float[np.ndarray, " n"]] | None:
    """The values that a system's persons would have where its faces are just so diverse: a fair comparison.

    Args:
        base: the system's values of every person by measure, "diversity" among them, under several guidance scales.
        diversity: the mean wanted.
    Returns:
        the mixture of the two scales between which it lies; None where it lies beyond all.
    """
    ordered = sorted(base, key=lambda values: float(values["diversity"].mean()))
    for less, more in pairwise(ordered):
        low, high = less["diversity"].mean(), more["diversity"].mean()
        if low <= diversity <= high:
            share = (diversity - low) / (high - low)
            return {name: (1 - share) * less[name] + share * more[name] for name in less}
    return None


def drawn(plan: Plan, kit: Kit, system: str, seed: int, guidance: float) -> tuple[np.ndarray, list[Faces]]:
    """ẑ of everybody by a finished run, and two faces each drawn under a scale; what was drawn is not drawn again."""
    run = plan.run(system, seed)
    if not any(run.glob("*/persons.csv")):
        raise InputError(f"{run}: no finished run; python -m v2f_core ablate makes it")
    prior, aligner = Prior.from_folder(plan.profile.part("prior")), Aligner.from_pretrained(run / "stage2" / "aligner")
    load_lora(prior, run / "stage2" / "lora")
    prior.requires_grad_(False)
    with torch.no_grad():
        identity = aligner(kit.test.pooled_voices())
    made = {name: folder_hash(plan.profile.part(name)) for name in ("prior", "faces", "judge")}
    made |= {"trained": system, "trained_with_seed": str(seed)}
    how, label = Drawing(plan.drawn_steps, guidance, seed), f"{system}, guidance {guidance:g}"
    who = (identity, kit.test.persons, kit.scorer, run / "faces", made, how)
    return identity.numpy(), [draw_faces(prior, *who, number, label) for number in (0, 1)]


def measured(
    plan: Plan, kit: Kit, photographs: Faces, system: str, seed: int, guidance: float
) -> dict[str, np.ndarray]:
    """What is measured of these faces, a value a person."""
    identity, draws = drawn(plan, kit, system, seed, guidance)
    truth = kit.test.gallery().numpy()
    each = {
        "cosine": [metrics.cosine(faces.identities, truth) for faces in draws],
        "second scorer": [metrics.cosine(faces.features, photographs.features) for faces in draws],
        "cosine with ẑ": [metrics.cosine(faces.identities, identity) for faces in draws],
    }
    diversity = metrics.diversity(np.stack([faces.identities for faces in draws], axis=1))
    return {**{name: np.mean(values, axis=0) for name, values in each.items()}, "diversity": diversity}


if __name__ == "__main__":
    main()
