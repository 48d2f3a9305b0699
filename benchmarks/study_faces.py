"""What the systems that `ablate` has trained draw: a picture of some, and how far and how light the faces of all look.

    V2F_DATASET=build/large python benchmarks/study_faces.py runs/ablate "w/o DSC" paper cycle --split val --persons 100

The same persons from the same noise under the same guidance; those in the picture are the first women and men of the
split. Writes docs/study_faces.webp and results/study_faces.csv: "aside" is how far the tip of the nose lies beside the
middle between the eyes, in distances between the eyes, "light" the mean of the image's middle (0 to 255).
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from frontier import drawn
from PIL import Image

from v2f_core.app.ablate import Plan, open_kit
from v2f_core.artefacts.files import atomic_write
from v2f_core.artefacts.profiles import load_profile
from v2f_core.evaluation import metrics
from v2f_core.evaluation.metrics import bootstrap, paired_difference
from v2f_core.identity.faces import FacePack
from v2f_core.identity.photos import read_image
from v2f_core.show.plots import use_style

SHOWN = 8


def main() -> None:
    """Draw, look, and write both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="the folder in which ablate keeps its runs")
    parser.add_argument("systems", nargs="+", help="the first is what the others are compared with")
    parser.add_argument("--split", default="test")
    parser.add_argument("--persons", type=int, default=300)
    parser.add_argument("--guidance", type=float, default=2.0, help="the same for all")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    plan = Plan(load_profile("mini"), chosen.runs, persons=chosen.persons, split=chosen.split)
    kit, pack = open_kit(plan), FacePack.from_folder(plan.profile.part("faces"))
    women = np.array(kit.test.sexes) == "f"
    rows = np.concatenate([np.flatnonzero(sex)[: SHOWN // 2] for sex in (women, ~women)])
    lines = {"a photograph": [path and read_image(path) for path in (kit.photos[row] for row in rows)]}
    table: list[dict[str, object]] = []
    base: dict[str, np.ndarray] = {}
    for system in chosen.systems:
        faces = drawn(plan, kit, system, chosen.seed, chosen.guidance)[1][0]
        images = [read_image(path) for path in faces.paths if path]
        lines[system] = [images[row] for row in rows]
        found = {"aside": np.array([aside(pack, image) for image in images])}
        found["light"] = np.array([middle(image).mean() for image in images])
        found["cosine"] = metrics.cosine(faces.identities, kit.test.gallery().numpy())
        base = base or found
        for metric, value in found.items():
            seen = ~np.isnan(value) & ~np.isnan(base[metric])
            row = {"system": system, "metric": metric, "n": int(seen.sum())}
            if seen.sum() > 1:
                row |= dict(zip(("value", "low", "high"), bootstrap(value[seen]), strict=True))
                gain = paired_difference(value[seen], base[metric][seen])
                row |= {"gain": gain.value, "gain low": gain.low, "gain high": gain.high} if found is not base else {}
            table.append(row)
    told = pd.DataFrame(table).assign(guidance=chosen.guidance, seed=chosen.seed, split=chosen.split)
    with atomic_write(Path("benchmarks/results/study_faces.csv")) as temporary:
        told.to_csv(temporary, index=False, float_format="%.5g")
    print(told.to_string(index=False))
    draw(lines, f"The same voices and noise, guidance {chosen.guidance:g}; all faces are synthetic")


def middle(image: np.ndarray) -> np.ndarray:
    """The face without hair and background, faces being framed alike."""
    height, width = image.shape[:2]
    return image[height * 5 // 16 : height * 11 // 16, width * 5 // 16 : width * 11 // 16]


def aside(pack: FacePack, image: np.ndarray) -> float:
    """0 where a face looks straight ahead; NaN where there is none."""
    found = pack.detect(image)
    if not found:
        return float("nan")
    left, right, nose = max(found, key=lambda face: face.area).landmarks[:3]
    return float(abs(nose[0] - (left[0] + right[0]) / 2) / np.linalg.norm(right - left))


def draw(lines: dict[str, list], title: str) -> None:
    """A line of faces each."""
    use_style()
    size = (1.1 * SHOWN + 2.2, 1.12 * len(lines) + 0.5)
    figure, axes = plt.subplots(len(lines), SHOWN, figsize=size, squeeze=False, layout="constrained")
    for (name, faces), line in zip(lines.items(), axes, strict=True):
        line[0].set_ylabel(name.replace(", ", ",\n"), rotation=0, ha="right", va="center", fontsize=10)
        for ax, face in zip(line, faces, strict=True):
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if face is not None:
                ax.imshow(face)
    figure.suptitle(title, fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    with atomic_write(Path("docs/study_faces.webp")) as temporary:
        Image.open(buffer).convert("RGB").save(temporary, "WEBP", quality=82, method=6)


if __name__ == "__main__":
    main()
