"""Stage `large_embeddings`: MiniVox-L's persons as every encoder and the faces' net embed them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from minivox.build.aligner import embedded
from minivox.large import PACKED, pack
from v2f_core.artefacts.profiles import ENCODERS


def run(work: Path, tiny: bool = False) -> None:
    """Write work/large_embeddings/assets/, what :func:`minivox.large.unpack` reads. Needs the stage `large`."""
    root, stores = work / "large", {}
    for encoder in ENCODERS:
        manifest, stores[encoder], stores["faces"] = embedded(work, encoder, root, tiny)
    factors = pd.read_csv(root / "factors.csv", dtype=str, keep_default_na=False)
    pack(manifest.table, factors, stores, work / "large_embeddings" / "assets" / PACKED.name)
