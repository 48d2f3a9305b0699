"""Ablations: the systems of each table as data, the values of their persons, and the tables made from these.

A system is a Stage I and a critic of Stage II, and all take the same number of steps. λ_self is `critics.BALANCED`,
except where a system's name says so. Gains are paired: the same persons, the same noise, the same seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from v2f_core.artefacts.profiles import Profile
from v2f_core.diffusion.consistency import Critic, denoise, describe, paper, teacher
from v2f_core.evaluation import metrics, tables
from v2f_core.evaluation.systems import Faces
from v2f_core.studies.critics import BALANCED, contrast, cycle, generated, innermost, likeness
from v2f_core.training.pairs import Pairs
from v2f_core.training.stage1 import Stage1Settings
from v2f_core.training.stage2 import Stage2Settings, from_profile

WITHOUT = "w/o DSC"  # the system that the others are compared with
COLUMNS = ["system", "mode", "parts", "seed", "person", "metric", "value"]


@dataclass(frozen=True)
class Ablation:
    """A row of a table."""

    system: str  # its name, unique within the table
    critic: Critic | None = None  # L_self; None is "w/o DSC"
    weight_self: float | None = None  # λ_self; None takes `critics.BALANCED`
    trains: str = "both"  # the part that L_self trains: "both", "aligner" or "lora"
    regression: bool = False  # Stage I by cosine regression alone ("CosReg" of Table 4)
    stage2: Mapping[str, Any] = field(default_factory=dict)  # settings of Stage II that differ from the profile's
    speech: bool = False  # "w/o ArcFace": speech is mapped to the condition, without an identity and without Stage II
    draws: int = 1  # number of faces of which the one most like ẑ is kept

    @property
    def mode(self) -> str:
        """The name of the critic, or "none"."""
        return innermost(self.critic) if self.critic else "none"

    @property
    def described(self) -> dict[str, Any]:
        """All attributes as JSON can hold them; the same in every process."""
        return {**vars(self), "critic": self.critic and describe(self.critic), "stage2": dict(self.stage2)}

    def settings(self, profile: Profile, seed: int, steps: int | None = None) -> Stage2Settings:
        """The settings of Stage II; those of Stage I, and of L_id, are its ``identity``."""
        alone = {"weight_am": 0.0, "weight_info": 0.0, "weight_cosine": 1.0} if self.regression else {}
        identity = Stage1Settings(**{**profile.stage1, **alone, "seed": seed})
        weight = 0.0 if self.critic is None else self.weight_self
        changes: dict[str, Any] = {"weight_self": BALANCED[self.mode] if weight is None else weight, **self.stage2}
        changes |= {"seed": seed, "trains": self.trains, "identity": identity}
        return from_profile(profile, **changes | ({"steps": steps} if steps else {}))


PHI = "aligner"
TABLES: Mapping[str, tuple[Ablation, ...]] = {
    "table4": (  # of the paper
        Ablation("w/o ArcFace", speech=True),
        Ablation("CosReg", regression=True),
        Ablation("CosReg + DSC", paper, regression=True),
        Ablation(WITHOUT),
        Ablation("paper", paper),
    ),
    "modes": (  # the other critics, and best of four, which needs none
        Ablation(WITHOUT),
        Ablation("best of 4 by ẑ", draws=4),
        Ablation("denoise", denoise),
        Ablation("teacher", teacher),
        Ablation("contrast", contrast, trains=PHI),
        Ablation("cycle, φ alone", partial(generated, critic=cycle), trains=PHI),
        Ablation("likeness, φ alone", partial(generated, critic=likeness), trains=PHI),
    ),
    "rank": (  # Table 3's curve; "paper" has rank 16
        Ablation(WITHOUT),
        Ablation("paper", paper),
        *(Ablation(f"rank {rank}", paper, stage2={"rank": rank, "alpha": float(rank)}) for rank in (4, 8, 32)),
    ),
}


def tidy(
    row: Ablation,
    seed: int,
    test: Pairs,
    predicted: np.ndarray | None,
    faces: Faces,
    again: Faces,
    photographs: Faces,
    guidance: float,
) -> pd.DataFrame:
    """All measures of one system with one seed: a row for each person and metric; measures of a set have no person.

    ``again`` are second faces of the first persons; ``photographs`` are the gallery's.
    """
    truth, sexes = test.gallery().numpy(), np.array(test.sexes)
    values: dict[str, np.ndarray] = {
        "L2": metrics.l2(faces.identities, truth),
        "second scorer": metrics.cosine(faces.features, photographs.features),
        "detected": faces.identities.any(1).astype(float),
        "diversity": metrics.diversity(np.stack([faces.identities[: len(again.identities)], again.identities], 1)),
    }
    for of, z in (("", faces.identities), (" of ẑ", predicted)):
        if z is not None:
            scores = metrics.score_matrix(z, truth)
            values[f"cosine{of}"], values[f"rank{of}"] = metrics.cosine(z, truth), metrics.rank(scores).astype(float)
            for name, measure in (("rank", metrics.rank), ("matching", metrics.matching)):
                values[f"{name}{of} within sex"] = metrics.within(measure, scores, sexes)
    rows = [(who, name, x) for name, column in values.items() for who, x in zip(test.persons, column, strict=False)]
    rows += [("", "VFS", metrics.vfs(faces.posteriors).value), ("", "guidance", guidance)]
    keys = {"system": row.system, "mode": row.mode, "parts": row.trains if row.critic else "none", "seed": seed}
    return pd.DataFrame(rows, columns=["person", "metric", "value"]).assign(**keys)[COLUMNS]


def summary(tidy: pd.DataFrame) -> pd.DataFrame:
    """The summary of tidy rows, with R@5 and R@10 in place of ranks, and gains over "w/o DSC"."""
    is_rank, of_the_set = tidy.metric.str.startswith("rank"), tidy.person == ""
    ranks = tidy[is_rank]
    recalls = [
        ranks.assign(metric=ranks.metric.str.replace("rank", f"R@{k}"), value=(ranks.value <= k).astype(float))
        for k in (5, 10)
    ]
    rows = pd.concat([tidy[~is_rank & ~of_the_set], *recalls, tidy[of_the_set]])
    return tables.summarise(rows, WITHOUT, resamples=2000)


def save(tidy: pd.DataFrame, name: str, folder: str | Path, shown: tuple[str, ...]) -> pd.DataFrame:
    """Write the tidy rows, their summary as CSV and some metrics as Markdown; returns the summary."""
    table = summary(tidy)
    tables.write(folder, f"{name}_persons.csv.gz", tidy)
    tables.write(folder, f"{name}.csv", table)
    tables.write(folder, f"{name}.md", tables.markdown(tables.wide(table, shown), shown))
    return table
