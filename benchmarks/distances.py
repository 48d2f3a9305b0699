"""How far the study's systems are from what is possible: the ceilings of a voice, and faces of the true identity.

    V2F_DATASET=build/large python benchmarks/distances.py benchmarks/results/ablate_{table4,modes}.csv

For each system of the tables (`ablate` writes them): skill, the way from the mean face (of cosines) or from chance (of
R@10) to the ceiling, 0 to 1; how much cosine is missing to the ceiling; and to the oracle, the same persons' faces
drawn from another photograph of theirs. Ceilings are those of the tables' persons. Writes results/distances.csv.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from minivox.ceilings import bounds
from v2f_core.app.evaluate import load, make_bench
from v2f_core.artefacts.files import atomic_write
from v2f_core.artefacts.profiles import load_profile
from v2f_core.evaluation import controls, metrics
from v2f_core.evaluation.protocols import ALL, WITHIN
from v2f_core.evaluation.systems import Drawing

K = 10


def main() -> None:
    """Draw the oracle, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("--persons", type=int, default=300, help="as ablate was told")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    chosen = parser.parse_args()
    edges = measured_edges(chosen.persons)
    found = pd.concat([pd.read_csv(path) for path in chosen.tables]).drop_duplicates(["system", "metric"])
    table = distances(found, edges)
    with atomic_write(chosen.out / "distances.csv") as part:
        table.to_csv(part, index=False, float_format="%.4g")
    print(table.round(3).to_string(index=False))


def measured_edges(persons: int) -> dict[str, float]:
    """Below and above: cosine of the mean face, chance, ceilings, and what the oracle's faces have."""
    profile = load_profile("mini")
    inputs = load(profile, persons)
    bench = make_bench(inputs, profile, Drawing(10, profile.guidance), 1, "test", "cpu")
    rows = controls.rows(bench, inputs.aligner, (controls.ORACLE,))
    found = {row.name: row for row in rows}
    truth, best = bench.gallery.identities, bounds(inputs.test, inputs.training)
    oracle = found[controls.ORACLE]
    asked = slice(None) if oracle.answered is None else oracle.answered
    mean = found[controls.MEAN].predicted
    assert mean is not None
    return {
        "mean": float(metrics.cosine(mean, truth).mean()),
        "chance": K / len(truth),
        "ceiling": best[ALL].cosine,
        "ceiling R@10": best[ALL].recall,
        "ceiling R@10 within sex": best[WITHIN].recall,
        "oracle": float(metrics.cosine(oracle.faces[0].identities[asked], truth[asked]).mean()),
        "oracle, second scorer": float(
            metrics.cosine(oracle.faces[0].features[asked], bench.gallery.features[asked]).mean()
        ),
    }


def distances(found: pd.DataFrame, edges: Mapping[str, float]) -> pd.DataFrame:
    """A row for each edge, then one for each system of a summary (columns system, metric, value, low, high)."""
    rows: list[dict[str, object]] = [
        {"system": "mean face", "cosine of ẑ": edges["mean"], "skill of ẑ": 0.0},
        {"system": "ceiling", "cosine of ẑ": edges["ceiling"], "skill of ẑ": 1.0, "R@10": edges["ceiling R@10"]},
        {
            "system": "oracle",
            "cosine": edges["oracle"],
            "to the oracle": 0.0,
            "second scorer": edges["oracle, second scorer"],
        },
    ]
    span, chance = edges["ceiling"] - edges["mean"], edges["chance"]
    for system, part in found.groupby("system", sort=False):
        value, low, high = (part.set_index("metric")[name] for name in ("value", "low", "high"))
        row: dict[str, object] = {"system": system, "cosine": value["cosine"]}
        if "cosine of ẑ" in value:
            row |= {"cosine of ẑ": value["cosine of ẑ"], "skill of ẑ": (value["cosine of ẑ"] - edges["mean"]) / span}
        row |= {
            "skill": (value["cosine"] - edges["mean"]) / span,
            "skill low": (low["cosine"] - edges["mean"]) / span,
            "skill high": (high["cosine"] - edges["mean"]) / span,
            "to the ceiling": edges["ceiling"] - value["cosine"],
            "to the oracle": edges["oracle"] - value["cosine"],
            "R@10": value["R@10"],
            "skill R@10": (value["R@10"] - chance) / (edges["ceiling R@10"] - chance),
            # within a sex the gallery is half as large, and chance twice
            "skill R@10 within sex": (value["R@10 within sex"] - 2 * chance)
            / (edges["ceiling R@10 within sex"] - 2 * chance),
            "second scorer": value["second scorer"],
        }
        rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
