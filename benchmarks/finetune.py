"""Does Stage I gain when the speech encoder's top layers are trained with it, from waveforms?

    python benchmarks/finetune.py --steps 100    # writes results/finetune.csv; four minutes of one core

On the embedded MiniVox: Stage I on stored embeddings first; from its aligner on, from waveforms,
the aligner alone (0 layers) and with the top layer, for as many steps each; both are read back from their files.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from v2f_core.app.train import stage1_from_waveforms
from v2f_core.artefacts.files import atomic_write
from v2f_core.artefacts.profiles import load_profile
from v2f_core.data.voxceleb import open_dataset
from v2f_core.evaluation.metrics import bootstrap, paired_difference
from v2f_core.identity.aligner import Aligner
from v2f_core.speech.encoders import load_encoder
from v2f_core.training.embeddings import embed_dataset
from v2f_core.training.stage1 import Stage1Settings, train_stage1
from v2f_core.training.waveforms import Recordings


def cosines(split: Recordings, kind: str, encoder: Path | None, aligner: Path) -> np.ndarray:
    """Cosine of each person's ẑ with a photo of theirs; without an encoder, ẑ of the stored embeddings."""
    pairs = split.embedded_by(load_encoder(kind, encoder)) if encoder else split.pairs
    with torch.no_grad():
        identity = Aligner.from_pretrained(aligner)(pairs.pooled_voices())
    return (identity * pairs.gallery()).sum(-1).numpy()


def main() -> None:
    """Train, measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--work", type=Path, default=Path("runs/finetune"), help="for the trained weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=200, help="from waveforms")
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 1])
    chosen = parser.parse_args()
    profile = load_profile("mini")
    manifest = open_dataset(profile)
    stores = embed_dataset(profile, manifest)
    training, val, test = (Recordings.of(manifest, *stores, split) for split in ("train", "val", "test"))
    start = chosen.work / "stored"
    settings = replace(Stage1Settings(**profile.stage1), seed=chosen.seed)
    train_stage1(training.pairs, val.pairs, settings, start, {"dataset": manifest.root.name})
    systems: dict[str, tuple[Path | None, Path]] = {"stored embeddings": (None, start)}
    for count in chosen.layers:
        folder = chosen.work / f"layers-{count}"
        stage1_from_waveforms(profile, folder, count, start, chosen.steps, chosen.seed)
        systems[f"waveforms, {count} layers"] = (folder / profile.encoder if count else None, folder / "aligner")
    on_test = {name: cosines(test, profile.encoder, *parts) for name, parts in systems.items()}
    alone = list(on_test)[min(1, len(on_test) - 1)]  # trained from waveforms, the encoder as it was
    rows = []
    for name, parts in systems.items():
        row = {"system": name, "step kept": int(Aligner.from_pretrained(parts[1]).provenance["step"])}
        intervals = {
            "cosine val": bootstrap(cosines(val, profile.encoder, *parts)),
            "cosine test": bootstrap(on_test[name]),
            "test − stored": paired_difference(on_test[name], on_test["stored embeddings"]),
            "test − aligner alone": paired_difference(on_test[name], on_test[alone]),
        }
        for measure, interval in intervals.items():
            row |= {measure: interval.value, f"{measure} low": interval.low, f"{measure} high": interval.high}
        rows.append({**row, "persons val": len(val.paths), "persons test": len(test.paths)})
    table = pd.DataFrame(rows)
    with atomic_write(chosen.out / "finetune.csv") as part:
        table.to_csv(part, index=False, float_format="%.4f")
    print(table.T.to_string())


if __name__ == "__main__":
    main()
