"""The study's own tables of ablations, beside the paper's that `python -m v2f_core ablate` runs.

    V2F_DATASET=build/large python benchmarks/study.py attempts --split val --seeds 1 --persons 100
    V2F_DATASET=build/large python benchmarks/study.py chosen --seeds 3 --persons 1000
    V2F_DATASET=build/large python benchmarks/study.py sources --seeds 2 --persons 300      # or: parts

- attempts: changes that may keep L_self from its trivial optimum, compared on validation persons;
- chosen: the attempts that were chosen there, measured on test persons;
- sources: whose noised face the critic looks at; a gain that needs the speaker's own face in z_t is leakage;
- parts: where a change comes from: φ or the adapters, low or high t.

Runs lie in one folder with those of `ablate`, so that common systems are trained once.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from torch import Tensor

from v2f_core.app.ablate import Plan, run_table
from v2f_core.artefacts.profiles import load_profile
from v2f_core.diffusion.consistency import Critic, FaceBatch, View, paper, teacher
from v2f_core.studies.ablation import PHI, WITHOUT, Ablation
from v2f_core.studies.critics import anchored, cycle, generated, likeness


def others(view: View, identity: Tensor, faces: FaceBatch, critic: Critic) -> Tensor:
    """The critic on the next person's noised face: a gain that remains did not leak through z_t."""
    return critic(view.renoise(faces.latents.roll(1, 0), faces.landmarks.roll(1, 0)), identity, faces)


drawn_cycle = partial(generated, critic=cycle)
rival_cycle, rival_likeness = (
    partial(generated, critic=partial(critic, rival_temperature=0.1)) for critic in (cycle, likeness)
)
TABLES = {
    "attempts": (
        Ablation(WITHOUT),
        Ablation("paper, φ alone", paper, trains=PHI),
        Ablation("paper, anchored", partial(anchored, critic=paper)),
        Ablation("teacher, φ alone", teacher, trains=PHI),
        Ablation("cycle", drawn_cycle),
        Ablation("cycle, anchored", partial(generated, critic=partial(anchored, critic=cycle))),
        Ablation("cycle, φ alone", drawn_cycle, trains=PHI),
        Ablation("cycle, φ alone, λ 30", drawn_cycle, 30.0, PHI),
        Ablation("cycle, φ alone, λ 10", drawn_cycle, 10.0, PHI),
        # λ_self balanced by benchmarks/results/gradients.csv, and a third of it where φ is alone
        Ablation("cycle, among rivals", rival_cycle, 25.0),
        Ablation("cycle, among rivals, φ alone", rival_cycle, 8.0, PHI),
        Ablation("likeness, among rivals, φ alone", rival_likeness, 5.0, PHI),
        Ablation("likeness, among rivals, φ alone, λ 15", rival_likeness, 15.0, PHI),
        Ablation("likeness, among rivals, φ alone, λ 45", rival_likeness, 45.0, PHI),
    ),
    "chosen": (
        Ablation(WITHOUT),
        Ablation("cycle, φ alone, λ 30", drawn_cycle, 30.0, PHI),
        Ablation("likeness, among rivals, φ alone", rival_likeness, 5.0, PHI),
    ),
    "sources": (
        Ablation(WITHOUT),
        Ablation("paper", paper),
        Ablation("teacher", teacher),
        Ablation("paper, z_t other", partial(others, critic=paper)),
        Ablation("teacher, z_t other", partial(others, critic=teacher)),
        Ablation("paper, z_t generated", partial(generated, critic=paper, steps=10)),
        Ablation("teacher, z_t generated", partial(generated, critic=teacher, steps=10)),
    ),
    "parts": (
        Ablation(WITHOUT),
        Ablation("teacher", teacher),
        Ablation("teacher, φ alone", teacher, trains=PHI),
        Ablation("teacher, adapters alone", teacher, trains="lora"),
        Ablation("teacher, low t", teacher, stage2={"t_max": 499}),
        Ablation("teacher, high t", teacher, stage2={"t_min": 500}),
    ),
}


def main() -> None:
    """Run a table, and write what it gave."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--out", type=Path, default=Path("runs/ablate"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--persons", type=int, default=1000)
    parser.add_argument("--split", choices=("test", "val"), default="test", help="val while you still choose")
    chosen = parser.parse_args()
    plan = Plan(load_profile("mini"), chosen.out, chosen.steps, chosen.persons, split=chosen.split)
    print(run_table(chosen.table, TABLES[chosen.table], chosen.seeds, plan).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
