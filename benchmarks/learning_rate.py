"""Does a small learning rate keep `paper` from its collapse, or does it only take longer? S_net along the way.

    V2F_DATASET=build/large python benchmarks/learning_rate.py  # benchmarks/results/learning_rate.csv

Adam moves a weight by about the learning rate a step, so that rate times steps says how far adapters can have gone. The
paper's 20,000 steps of 1e-6 are 0.02. Each rate is trained to 0.05, and monitored ten times on the way; φ, as in the
study, has a tenth of the adapters' rate, and λ_self has no warm-up. The runs lie in --runs, and go on there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from v2f_core.app.ablate import Plan, open_kit
from v2f_core.artefacts.files import atomic_write
from v2f_core.artefacts.profiles import load_profile
from v2f_core.identity.aligner import Aligner
from v2f_core.show import plots
from v2f_core.studies.critics import BALANCED
from v2f_core.training.stage2 import from_profile, train_stage2

FAR, LOOKS, PAPER = 0.05, 10, 20_000 * 1e-6


def main() -> None:
    """Train with each rate, put the monitors together, print and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=(1e-3, 3e-4))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/learning_rate"))
    parser.add_argument("--out", type=Path, default=Path("."), help="has, or gets, the folders results and docs")
    chosen = parser.parse_args()
    tables = [monitored(rate, chosen.seed, chosen.runs / f"{rate:g}") for rate in chosen.rates]
    table = pd.concat(tables, ignore_index=True)
    with atomic_write(chosen.out / "benchmarks/results" / "learning_rate.csv") as part:
        table.to_csv(part, index=False, float_format="%.5g")
    print(table.groupby(["rate", "step"])[["far", "s_net", "residual", "self"]].mean().to_string())
    drawn(table).savefig(chosen.out / "docs" / "learning_rate.webp", dpi=110)


def monitored(rate: float, seed: int, folder: Path) -> pd.DataFrame:
    """The monitors of a training by `paper` whose adapters have this learning rate."""
    profile = load_profile("mini")
    kit = open_kit(Plan(profile, folder, persons=10))  # a new prior each time: the last one has adapters
    steps = round(FAR / rate)
    settings = from_profile(
        profile,
        seed=seed,
        steps=steps,
        weight_self=BALANCED["paper"],
        learning_rate=rate / 10,
        learning_rate_lora=rate,
        warmup=0,
        evaluate_every=max(1, steps // LOOKS),
    )
    aligner = Aligner.from_pretrained(profile.part("aligner"))
    train_stage2(aligner, kit.prior, kit.arcface, kit.training, kit.validation, settings, folder, {})
    found = pd.read_csv(folder / "monitors.csv")
    found.insert(0, "rate", rate)
    found.insert(2, "far", found.step * rate)
    return found[["rate", "step", "far", "t_min", "t_max", "s_net", "residual", "residual_null", "self"]]


def drawn(table: pd.DataFrame) -> Figure:
    """S_net and the residual along the way, a line a rate."""
    plots.use_style()
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharex=True, layout="constrained")
    means = table.groupby(["rate", "far"], as_index=False)[["s_net", "residual", "residual_null"]].mean()
    for (rate, rows), mark in zip(means.groupby("rate", sort=False), "os^Dv", strict=False):
        for ax, name in zip(axes, ("s_net", "residual"), strict=True):
            ax.plot(rows.far, rows[name], f"{mark}-", ms=4, label=f"learning rate {rate:g}")
    axes[1].axhline(means.residual_null.iloc[0], color=plots.REFERENCE, ls=":", label="nobody's name, before")
    for ax, title in zip(axes, ("S_net: does it listen?", "residual under ẑ"), strict=True):
        ax.axvline(PAPER, color=plots.REFERENCE, lw=0.8)
        ax.text(PAPER, 1.0, " the paper's 20,000 × 1e-6", transform=ax.get_xaxis_transform(), va="top", fontsize=8)
        ax.set(title=title, xlabel="learning rate × steps", ylim=(0, None))
    axes[1].legend(fontsize=8)
    return figure


if __name__ == "__main__":
    main()
