"""Stage `posterior`: p(z | v) for the shipped aligner, from MiniVox's training and validation persons."""

from __future__ import annotations

from pathlib import Path

from minivox.build.aligner import Inputs
from v2f_core.artefacts.profiles import load_profile
from v2f_core.identity.aligner import Aligner
from v2f_core.training.posterior import train_posterior


def run(work: Path, tiny: bool = False) -> None:
    """Write work/posterior/assets/posterior/, the posterior that ships."""
    folder = work / "posterior"
    inputs = Inputs.of(work, "ast", work / "minivox", tiny)
    fit("ast", inputs, work / "aligner" / "assets" / "aligner", folder, "MiniVox v1")


def fit(encoder: str, inputs: Inputs, aligner: Path, folder: Path, dataset: str) -> None:
    """The posterior of an aligner into ``folder/assets``, by the name that the profile has for it."""
    provenance = {"dataset": dataset, **inputs.hashes}
    fitted = train_posterior(inputs.training, inputs.validation, Aligner.from_pretrained(aligner), provenance)
    part = load_profile("mini").with_encoder(encoder).posterior
    assert part is not None  # the mini profile has one
    fitted.save_pretrained(folder / "assets" / part.name)
