"""Stage `other_ears`: aligners and p(z | v) for ECAPA and GE2E, on MiniVox's 800 training persons.

What the commands ``stage1`` and ``posterior`` do with ``--encoder``, but for several seeds.
"""

from __future__ import annotations

from pathlib import Path

from minivox.build import aligner, posterior
from v2f_core.artefacts.profiles import ENCODERS


def run(work: Path, tiny: bool = False) -> None:
    """Write ``aligner_ENCODER`` and ``posterior_ENCODER`` of each into work/other_ears/ENCODER/assets/."""
    for encoder in ENCODERS[1:]:  # AST's have stages of their own
        folder = work / "other_ears" / encoder
        inputs = aligner.Inputs.of(work, encoder, work / "minivox", tiny)
        posterior.fit(encoder, inputs, aligner.fit(encoder, inputs, folder, "MiniVox v1", tiny), folder, tiny)
