"""A folder to try `own` on: 24 real clips with synthetic portraits. Pairs are made up: a voice tells sex at most.

    python benchmarks/made_up_pairs.py class && python -m v2f_core own class

Of each of the 12 readers in tests/data/real_voices two clips, and two portraits of one person of MiniVox's test split
who has the sex that the corpus states. Its result is benchmarks/results/made_up_pairs.md. Expected, written before the
run: above chance over all, since women and men differ; at chance within sex.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pandas as pd

from v2f_core.artefacts.profiles import load_profile
from v2f_core.data.voxceleb import open_dataset

VOICES = Path("tests/data/real_voices")


def main() -> None:
    """Copy clips and portraits, and write the table of pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    for name in ("clips", "photos"):
        (folder / name).mkdir(parents=True)
    minivox = open_dataset(load_profile("mini"))
    portraits, sexes = minivox.faces("test").groupby("person").path.apply(list), minivox.persons("test").sex
    of_sex = {sex: iter(sexes.index[sexes == sex]) for sex in ("f", "m")}
    rows = []
    for (speaker, sex), clips in pd.read_csv(VOICES / "voices.csv", dtype=str).groupby(["speaker", "sex"]):
        sitter = next(of_sex[sex])
        for clip, portrait in zip(clips.file, portraits[sitter], strict=False):
            photo = folder / "photos" / f"{speaker}_{Path(portrait).name}"
            shutil.copy(VOICES / clip, folder / "clips")
            shutil.copy(minivox.root / portrait, photo)
            rows.append((speaker, f"clips/{clip}", f"photos/{photo.name}", sex))
    pd.DataFrame(rows, columns=["person", "clip", "photo", "sex"]).to_csv(folder / "pairs.csv", index=False)
    print(f"{folder}: {len(rows)} pairs")


if __name__ == "__main__":
    main()
