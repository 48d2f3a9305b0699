"""Stage `other_ears`: aligners and p(z | v) for ECAPA and GE2E.

What the commands ``stage1`` and ``posterior`` do with ``--encoder``, but for several seeds.
"""

from __future__ import annotations

from pathlib import Path

from minivox.build import aligner, posterior, rooms
from v2f_core.artefacts.profiles import ENCODERS

# Who each is trained on. GE2E gains from MiniVox-L's further persons; ECAPA does not, by validation persons.
TRAINED_ON = {"ecapa": ("minivox", "MiniVox v1"), "ge2e": ("large", "MiniVox-L v1, clean and in rooms")}
IN_ROOMS = ("ge2e",)  # a room moves it more than ECAPA, which was trained with changed microphones and backgrounds


def run(work: Path, tiny: bool = False) -> None:
    """Write ``aligner_ENCODER`` and ``posterior_ENCODER`` of each into work/other_ears/ENCODER/assets/."""
    for encoder in ENCODERS[1:]:  # AST's have stages of their own
        folder, (root, dataset) = work / "other_ears" / encoder, TRAINED_ON[encoder]
        inputs = aligner.Inputs.of(work, encoder, work / root, tiny)
        if encoder in IN_ROOMS:
            inputs = rooms.in_rooms(inputs, work, encoder, work / root, tiny)
        best = aligner.fit(encoder, inputs, folder, dataset, tiny)
        posterior.fit(encoder, inputs, best, folder, dataset)
