"""``python -m v2f_core evaluate``: the tables of results, from a profile's dataset and models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from v2f_core.identity.aligner import Aligner
    from v2f_core.profiles import Profile
    from v2f_core.training.stage1 import Pairs


def evaluate_stage1(out: str | Path = "results", profile: str | Profile | None = None) -> pd.DataFrame:
    """Stage I on the test persons, beside its baselines and, for MiniVox, its ceilings: ``stage1.csv`` and ``.md``.

    Stored embeddings are used, or made. "CosReg" (Table 4) is trained on the spot with the shipped aligner's settings.

    Args:
        out: folder for the tables.
        profile: name of a profile, or a profile.
    Raises:
        InputError: the profile, its parts or its dataset cannot be used.
    """
    from v2f_core.data.layouts import open_dataset
    from v2f_core.evaluation import stage1_report
    from v2f_core.identity.aligner import Aligner
    from v2f_core.profiles import Profile, load_profile
    from v2f_core.training.embeddings import stored
    from v2f_core.training.stage1 import pair_up

    chosen = profile if isinstance(profile, Profile) else load_profile(profile)
    aligner = Aligner.from_pretrained(chosen.part("aligner"))
    manifest = open_dataset(chosen)
    voices, faces = stored(chosen, manifest)
    training, validation, test = (pair_up(manifest, voices, faces, split) for split in ("train", "val", "test"))
    cosreg = train_cosreg(training, validation, aligner)
    table = stage1_table(aligner, training, test, chosen, {"CosReg": cosreg})
    stage1_report.save(table, out)
    return table


def stage1_table(
    aligner: Aligner, training: Pairs, test: Pairs, profile: Profile, others: dict[str, Aligner] | None = None
) -> pd.DataFrame:
    """The table of :func:`v2f_core.evaluation.stage1_report.report`, with ceilings where the world is known."""
    import numpy as np
    import torch

    from v2f_core.evaluation import stage1_report

    systems = stage1_report.predictions(test, training, aligner)
    with torch.no_grad():
        systems |= {name: other(test.pooled_voices()).numpy() for name, other in (others or {}).items()}
    ceilings = None
    if profile.dataset_is_packed:  # MiniVox: every person's true factors are known
        from v2f_core.mini.bounds import bounds, from_true_voices

        ceilings = bounds(test, training)
        systems["true voice parameters"] = from_true_voices(training, test)
    return stage1_report.report(systems, test.gallery().numpy(), np.array(test.sexes), ceilings)


def train_cosreg(training: Pairs, validation: Pairs, aligner: Aligner) -> Aligner:
    """An aligner trained by cosine regression alone, with everything else as in the given one's training."""
    from tempfile import TemporaryDirectory

    from v2f_core.training.stage1 import Stage1Settings, train

    settings = Stage1Settings(**aligner.provenance["settings"])
    with TemporaryDirectory() as folder:
        alone = replace(settings, weight_am=0.0, weight_info=0.0, weight_cosine=1.0, weight_relational=0.0)
        return train(training, validation, alone, folder, {})
