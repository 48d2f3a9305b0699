"""Does Stage I gain when the speech encoder's uppermost layers are trained with it, from waveforms?

    python benchmarks/finetune.py --steps 100    # writes benchmarks/results/finetune.csv; four minutes of one core

On the embedded MiniVox: Stage I on stored embeddings first; from its aligner on, from waveforms with noise and masks,
the aligner alone (0 layers) and with the uppermost layer, for as many steps each; both are read back from their files.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from v2f_core.artefacts.files import atomic_write
from v2f_core.artefacts.profiles import load_profile
from v2f_core.data.layouts import open_dataset
from v2f_core.evaluation.intervals import bootstrap, paired_difference
from v2f_core.identity.aligner import Aligner
from v2f_core.speech.encoders import load_encoder
from v2f_core.training import finetune, stage1
from v2f_core.training.embeddings import embed_dataset
from v2f_core.training.finetune_settings import from_profile
from v2f_core.training.recordings import Recordings, recordings
from v2f_core.training.stage1 import Stage1Settings


def cosines(split: Recordings, kind: str, encoder: Path | None, aligner: Path) -> np.ndarray:
    """Cosine of each person's ẑ, from all clips of all recordings, with a photo of theirs.

    Without an encoder the stored embeddings are taken, which are those of the encoder before.
    """
    heard = split.heard_by(load_encoder(kind, encoder)) if encoder else split.pairs
    with torch.no_grad():
        identity = Aligner.from_pretrained(aligner)(heard.pooled_voices())
    return (identity * heard.gallery()).sum(-1).numpy()


def main() -> None:
    """Train, measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--work", type=Path, default=Path("runs/finetune"), help="for the trained weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="from waveforms; else the profile's")
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 1])
    chosen = parser.parse_args()
    profile = load_profile("mini")
    manifest = open_dataset(profile)
    embedded = embed_dataset(profile, manifest)
    splits = {name: recordings(manifest, *embedded, name) for name in ("train", "val", "test")}
    begun = chosen.work / "stored"
    settings = replace(Stage1Settings(**profile.stage1), seed=chosen.seed)
    stage1.train_stage1(splits["train"].pairs, splits["val"].pairs, settings, begun, {"dataset": manifest.root.name})
    systems: dict[str, tuple[Path | None, Path]] = {"stored embeddings": (None, begun)}
    for count in chosen.layers:
        folder = chosen.work / f"layers-{count}"
        finetune.run(profile, from_profile(profile, count, chosen.seed, chosen.steps), folder, begun)
        systems[f"waveforms, {count} layers"] = (folder / profile.encoder if count else None, folder / "aligner")
    test, rows = {}, []
    for name, parts in systems.items():
        val = bootstrap(cosines(splits["val"], profile.encoder, *parts))
        test[name] = cosines(splits["test"], profile.encoder, *parts)
        first = list(test)[min(1, len(test) - 1)]  # the aligner alone; before it is known, the start itself
        row = {"system": name, "step kept": int(Aligner.from_pretrained(parts[1]).provenance["step"])}
        intervals = {
            "cosine val": val,
            "cosine test": bootstrap(test[name]),
            "test − stored": paired_difference(test[name], test["stored embeddings"]),
            "test − aligner alone": paired_difference(test[name], test[first]),
        }
        for measure, found in intervals.items():
            row |= {measure: found.value, f"{measure} low": found.low, f"{measure} high": found.high}
        rows.append({**row, "persons val": len(splits["val"].paths), "persons test": len(splits["test"].paths)})
    table = pd.DataFrame(rows)
    with atomic_write(chosen.out / "finetune.csv") as part:
        table.to_csv(part, index=False, float_format="%.4f")
    print(table.T.to_string())


if __name__ == "__main__":
    main()
