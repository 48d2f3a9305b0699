"""Would the scorers see a true gain? ẑ is moved towards the speaker's true identity, a little at a time.

    python benchmarks/dose.py  # writes benchmarks/results/dose.csv, docs/dose.webp; 6 minutes of one core

A scorer that sees nothing in a system's faces may have nothing to see, or be blind. So faces are drawn from what no
system has: ẑ with a share of the truth in it, normalise(ẑ + share · z_arc), from the same noise. z_arc is read from the
person's last photograph, faces are compared with the first. Of each measure the table has the gain over share 0, paired
over persons, and its quotient by the gain in ArcFace's cosine: what a gain of 1 there is worth to the others, if true.
The picture holds against it what the attempts of `ablate` gained (benchmarks/results/ablate_attempts_val.csv).
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from PIL import Image

from v2f_core.app.ablate import Kit, Plan, made_of, open_kit
from v2f_core.artefacts.files import atomic_write
from v2f_core.artefacts.profiles import load_profile
from v2f_core.evaluation import metrics
from v2f_core.evaluation.metrics import bootstrap
from v2f_core.evaluation.systems import Drawing, Faces, draw_faces
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.sphere import normalise
from v2f_core.show.plots import MEN, OURS, REFERENCE, use_style

RESULTS = Path("benchmarks/results")
SHARES = (0.0, 0.02, 0.05, 0.1, 0.2)
MEASURES = ("cosine", "second scorer", "matching within sex")


def main() -> None:
    """Draw, measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="val", help="val, or test (default: val)")
    parser.add_argument("--persons", type=int, default=100)
    parser.add_argument("--draws", type=int, default=4, help="faces a person")
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--runs", type=Path, default=Path("runs/dose"), help="where faces are kept")
    chosen = parser.parse_args()
    profile = load_profile("mini")
    kit = open_kit(Plan(profile, chosen.runs, persons=chosen.persons, split=chosen.split))
    kit.prior.requires_grad_(False)
    with torch.no_grad():
        heard = Aligner.from_pretrained(profile.part("aligner"))(kit.test.pooled_voices())
    told, truth = kit.test.face[kit.test.face_start[1:] - 1], kit.test.gallery().numpy()
    photographs = kit.scorer.photographs(kit.photos)
    made = {name: str(made_of(profile)[name]) for name in ("prior", "faces", "judge")}
    values, how = {}, Drawing(10, chosen.guidance)
    for share in SHARES:
        who = kit.prior, normalise(heard + share * told), kit.test.persons, kit.scorer, chosen.runs, made, how
        draws = [draw_faces(*who, number, f"share {share:g}") for number in range(chosen.draws)]
        values[share] = np.mean([measured(faces, photographs, truth, kit) for faces in draws], axis=0)
    rows = []
    for share in SHARES[1:]:
        gain = values[share] - values[0.0]
        for column, measure in enumerate(MEASURES):
            row: dict[str, object] = {"share": share, "measure": measure, "persons": len(gain), "draws": chosen.draws}
            row |= {"value": values[share][:, column].mean()}
            row |= dict(zip(("gain", "gain low", "gain high"), bootstrap(gain[:, column]), strict=True))
            of = bootstrap(gain[:, [column, 0]], lambda mean: mean[..., 0] / mean[..., 1])
            row |= dict(zip(("of cosine", "of cosine low", "of cosine high"), of, strict=True))
            rows.append(row)
    table = pd.DataFrame(rows).assign(guidance=chosen.guidance, split=chosen.split)
    with atomic_write(RESULTS / "dose.csv") as part:
        table.to_csv(part, index=False, float_format="%.5g")
    print(table.round(3).to_string(index=False))
    picture(table, pd.read_csv(RESULTS / "ablate_attempts_val.csv"), Path("docs"))


def picture(dose: pd.DataFrame, attempts: pd.DataFrame, folder: Path) -> None:
    """Gains of the other scorers over those of ArcFace's cosine: of the truth, a line, and of each attempt."""
    use_style()
    gains = attempts.pivot(index="system", columns="metric", values=["gain", "gain low", "gain high"])
    gains = gains[gains["gain", "cosine"] > 0]
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained")
    right = gains["gain", "cosine"].max() * 1.1
    for ax, measure in zip(axes, MEASURES[1:], strict=True):
        rate = dose[dose.measure == measure]["of cosine"].mean()
        ax.plot([0, right], [0, rate * right], color=OURS, label=f"a true gain: {rate:.2f} of the cosine's")
        ax.axhline(0, color=REFERENCE, lw=0.8, ls=":")
        for number, (_, row) in enumerate(gains.iterrows(), 1):
            x, y, low, high = row["gain", "cosine"], *(row[part, measure] for part in ("gain", "gain low", "gain high"))
            ax.plot([x, x], [low, high], color=MEN, lw=1)
            ax.plot(x, y, "o", color=MEN, ms=5)
            end_of_bar, away = ((x, high), 3) if number % 2 else ((x, low), -10)  # above, below: few numbers touch
            ax.annotate(str(number), end_of_bar, (0, away), textcoords="offset points", fontsize=8, ha="center")
        ax.set(xlabel="gain in ArcFace's cosine", ylabel=f"gain: {measure}", xlim=(0, right))
        ax.margins(y=0.12)
        ax.legend(loc="upper left", fontsize=9)
    names = "\n".join(f"{number}  {system}" for number, system in enumerate(gains.index, 1))
    figure.text(1.01, 0.5, names, va="center", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, bbox_inches="tight")
    with atomic_write(folder / "dose.webp") as temporary:
        Image.open(buffer).convert("RGB").save(temporary, "WEBP", quality=85, method=6)


def measured(
    faces: Faces, photographs: Faces, truth: Float[np.ndarray, "n 512"], kit: Kit
) -> Float[np.ndarray, "n measures"]:
    """A row a person, a column a measure."""
    scores, sexes = metrics.score_matrix(faces.identities, truth), np.array(kit.test.sexes)
    columns = (
        metrics.cosine(faces.identities, truth),
        metrics.cosine(faces.features, photographs.features),
        metrics.within(metrics.matching, scores, sexes),
    )
    return np.stack(columns, axis=1)


if __name__ == "__main__":
    main()
