"""The values of an ablation's systems as tidy rows, and the table that :mod:`v2f_core.evaluation.tables` makes of them.

Gains are paired: the same persons, the same noise, the same seeds. A person's values are averaged over seeds first,
since one generalises to persons; how much the seeds differ stands apart.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from v2f_core.artefacts.files import atomic_write
from v2f_core.errors import InputError
from v2f_core.evaluation import metrics, tables
from v2f_core.evaluation.systems import Faces
from v2f_core.studies.ablations import WITHOUT, Ablation

if TYPE_CHECKING:
    from v2f_core.training.pairs import Pairs

AT = (5, 10)
COLUMNS = ["system", "mode", "parts", "seed", "person", "metric", "value"]


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
    """All measures of one system with one seed: a row a person and metric; measures of all images have no person.

    Args:
        row, seed: what was run.
        test: the persons; their gallery is the truth.
        predicted: ẑ, where there is one.
        faces, again: a face of everybody, and a second one of the first persons.
        photographs: the gallery's pictures as the scorers see them.
        guidance: the scale that was chosen.
    """
    truth, sexes = test.gallery().numpy(), np.array(test.sexes)
    values: dict[str, np.ndarray] = {
        "cosine": metrics.cosine(faces.identities, truth),
        "L2": metrics.l2(faces.identities, truth),
        "second scorer": metrics.cosine(faces.features, photographs.features),
        "detected": faces.identities.any(1).astype(float),
        "diversity": metrics.diversity(np.stack([faces.identities[: len(again.identities)], again.identities], 1)),
        **_ranks("", metrics.score_matrix(faces.identities, truth), sexes),
    }
    if predicted is not None:
        values["cosine of ẑ"] = metrics.cosine(predicted, truth)
        values |= _ranks(" of ẑ", metrics.score_matrix(predicted, truth), sexes)
    frames = [
        pd.DataFrame({"person": test.persons[: len(value)], "metric": name, "value": value})
        for name, value in values.items()
    ]
    whole = {"VFS": metrics.vfs(faces.posteriors).value, "guidance": guidance}
    frames += [pd.DataFrame({"person": "", "metric": [name], "value": value}) for name, value in whole.items()]
    same = {"system": row.system, "mode": row.mode, "parts": row.parts, "seed": seed}
    return pd.concat(frames, ignore_index=True).assign(**same)[COLUMNS]


def _ranks(of: str, scores: np.ndarray, sexes: np.ndarray) -> dict[str, np.ndarray]:
    return {
        f"rank{of}": metrics.rank(scores).astype(float),
        f"rank{of} within sex": metrics.within(metrics.rank, scores, sexes),
        f"matching{of} within sex": metrics.within(metrics.matching, scores, sexes),
    }


def summary(tidy: pd.DataFrame, against: str = WITHOUT, resamples: int = 2000) -> pd.DataFrame:
    """One row a system and metric, with R@5 and R@10 in place of ranks, and the gain over the system ``against``.

    Raises:
        InputError: systems were measured on other persons or with other seeds.
    """
    if len({tuple(sorted(seeds)) for seeds in tidy.groupby("system").seed.unique()}) > 1:
        raise InputError("systems were run with different seeds; run the table again to fill it up")
    is_rank = tidy.metric.str.startswith("rank")
    ranks, whole = tidy[is_rank], tidy.person == ""
    recalls = [
        ranks.assign(metric=ranks.metric.str.replace("rank", f"R@{k}"), value=(ranks.value <= k).astype(float))
        for k in AT
    ]
    rows = pd.concat([tidy[~is_rank & ~whole], *recalls, tidy[whole]])
    return tables.summarise(rows, against, resamples)


def markdown(table: pd.DataFrame, shown: tuple[str, ...]) -> str:
    """Some metrics of a :func:`summary`, to be read: value [interval], and the gain with its own."""
    return tables.markdown(tables.wide(table, shown), shown)


def save(tidy: pd.DataFrame, name: str, folder: str | Path, shown: tuple[str, ...]) -> pd.DataFrame:
    """Write the tidy rows, their summary and what to read; give the summary."""
    table, folder = summary(tidy), Path(folder)
    with atomic_write(folder / f"{name}_persons.csv.gz") as path:
        path.write_bytes(gzip.compress(tidy.to_csv(index=False, float_format="%.4g").encode(), mtime=0))
    tables.write(folder, f"{name}.csv", table)
    tables.write(folder, f"{name}.md", markdown(table, shown))
    return table
