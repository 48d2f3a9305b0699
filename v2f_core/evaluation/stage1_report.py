"""How good Stage I is: predicted identities against honest baselines, with chance, ceilings and intervals.

A query is the pooled voice of one test person; the gallery holds one photo of each. "Within sex" is the macro-average
of two galleries, the women's and the men's. All figures are of ẑ itself; no image is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped

from v2f_core.artefacts.files import atomic_write
from v2f_core.errors import InputError
from v2f_core.evaluation import metrics
from v2f_core.identity.sphere import mean_direction

if TYPE_CHECKING:
    import pandas as pd

    from v2f_core.identity.aligner import Aligner
    from v2f_core.training.pairs import Pairs

ALL, WITHIN = "all", "within sex"
K = 10


class Ceiling(NamedTuple):
    """The best anybody could do in a known world, over one kind of gallery; see ``mini.ceilings``."""

    cosine: float
    recall: float
    matching: float


def predictions(test: Pairs, training: Pairs, aligner: Aligner, seed: int = 0) -> dict[str, np.ndarray]:
    """Identities predicted for each test person by the aligner and by what it must beat.

    - mean face: of the training persons, the same for everybody;
    - same-sex mean face: the training women's or men's, as if sex alone were heard;
    - shuffled voice: the aligner, given another test person's voice (no fixed point).
    """
    sexes, centroids = np.array(training.sexes), training.centroids()
    of_sex = {sex: mean_direction(centroids[sexes == sex]) for sex in set(training.sexes)}
    with torch.no_grad():
        full = aligner(test.pooled_voices())
    return {
        "mean face": mean_direction(centroids).expand(len(full), -1).numpy(),
        "same-sex mean face": torch.stack([of_sex[sex] for sex in test.sexes]).numpy(),
        "shuffled voice": full.numpy()[derangement(len(full), seed)],
        "full": full.numpy(),
    }


def derangement(n: int, seed: int) -> Shaped[np.ndarray, " n"]:
    """A random permutation that leaves nobody in place.

    Example:
        >>> bool((derangement(50, seed=0) == np.arange(50)).any())
        False
    """
    if n < 2:
        raise InputError(f"a derangement of {n}: expected at least 2 persons")
    generator = np.random.default_rng(seed)
    while True:
        order = generator.permutation(n)
        if not (order == np.arange(n)).any():
            return order


def report(
    systems: Mapping[str, Float[np.ndarray, "n dim"]],
    truth: Float[np.ndarray, "n dim"],
    sexes: Shaped[np.ndarray, " n"],
    ceilings: Mapping[str, Ceiling] | None = None,
    resamples: int = 4000,
    ranked: Mapping[str, Float[np.ndarray, "n n"]] | None = None,
) -> pd.DataFrame:
    """The table: a row a system and gallery, with cosine, R@1, R@10, 1:2 matching and skills, each with its interval.

    Skill in cosine counts from the mean face (all) or the same-sex mean face (within sex), which must be among the
    systems; skill in R@10 from chance. Both need ceilings.

    Args:
        systems: predicted identities by name.
        truth: the gallery, one identity a person.
        sexes: "f" or "m", one a person.
        ceilings: for ``"all"`` and ``"within sex"``, where the world is known.
        resamples: of the bootstrap.
        ranked: score matrices by name, of what ranks faces without predicting an identity; such rows have no cosine.
    Returns:
        a row a system and gallery; for each measure the columns ``m``, ``m low`` and ``m high``.
    """
    import pandas as pd

    rows = []
    groups = {ALL: None, WITHIN: sexes}
    references = {ALL: "mean face", WITHIN: "same-sex mean face"}
    for gallery, strata in groups.items():
        size = len(truth) if strata is None else min(int((sexes == sex).sum()) for sex in np.unique(sexes))
        reference = metrics.cosine(systems[references[gallery]], truth)
        best = (ceilings or {}).get(gallery)
        found = {name: _measures(metrics.score_matrix(z, truth), strata) for name, z in systems.items()}
        for name, scores in (ranked or {}).items():
            found[name] = {k: values for k, values in _measures(scores, strata).items() if k != "cosine"}
        for name, measures in found.items():
            row = {"gallery": gallery, "system": name, "n": len(truth), "gallery size": size}
            for measure, values in measures.items():
                _put(row, measure, metrics.bootstrap(values, groups=strata, resamples=resamples))
            if best is not None:
                _skills(row, measures, reference, best, K / size, strata, resamples)
            rows.append(row)
        chance = {"cosine": np.nan, "R@1": 1 / size, f"R@{K}": K / size, "1:2 matching": 0.5}
        rows.append({"gallery": gallery, "system": "chance", "gallery size": size, **chance})
        if best is not None:
            top = {"cosine": best.cosine, f"R@{K}": best.recall, "1:2 matching": best.matching}
            rows.append({"gallery": gallery, "system": "ceiling", "gallery size": size, **top})
    return pd.DataFrame(rows)


def save(table: pd.DataFrame, folder: str | Path, name: str = "stage1") -> None:
    """Write the table as ``<name>.csv`` (every digit) and ``<name>.md`` (to be read)."""
    with atomic_write(Path(folder) / f"{name}.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    with atomic_write(Path(folder) / f"{name}.md") as temporary:
        temporary.write_text(markdown(table), encoding="utf-8")


def markdown(table: pd.DataFrame) -> str:
    """The table as Markdown, one section a gallery: value [95 % interval].

    Example:
        >>> import pandas as pd
        >>> row = {"gallery": "all", "gallery size": 9, "system": "full"}
        >>> row |= {"R@10": 0.5, "R@10 low": 0.4, "R@10 high": 0.6}
        >>> print(markdown(pd.DataFrame([row])))
        Gallery: all (9 faces)
        <BLANKLINE>
        | system | R@10 |
        |---|---|
        | full | 0.500 [0.400, 0.600] |
        <BLANKLINE>
    """
    measures = [column for column in table.columns if f"{column} low" in table.columns]
    lines: list[str] = []
    for (gallery, size), part in table.groupby(["gallery", "gallery size"], sort=False):
        lines += [f"Gallery: {gallery} ({size} faces)", "", "| system | " + " | ".join(measures) + " |"]
        lines += ["|" + "---|" * (len(measures) + 1)]
        lines += [
            f"| {row['system']} | " + " | ".join(_cell(row, m) for m in measures) + " |" for _, row in part.iterrows()
        ]
        lines += [""]
    return "\n".join(lines)


def _measures(scores: np.ndarray, strata: np.ndarray | None) -> dict[str, np.ndarray]:
    functions = {
        "R@1": lambda s: metrics.recall(s, 1),
        f"R@{K}": lambda s: metrics.recall(s, min(K, len(s))),
        "1:2 matching": metrics.matching,
    }
    values = {"cosine": np.diag(scores)}
    for name, function in functions.items():
        values[name] = function(scores) if strata is None else metrics.within(function, scores, strata)
    return values


def _skills(
    row: dict[str, object],
    measures: dict[str, np.ndarray],
    reference: np.ndarray,
    best: Ceiling,
    chance: float,
    strata: np.ndarray | None,
    resamples: int,
) -> None:
    mean = float(metrics.bootstrap(reference, groups=strata, resamples=2).value)
    if "cosine" in measures and best.cosine > mean:
        # the reference is a mean over the same persons, so that both are resampled together
        paired = np.stack([measures["cosine"], reference], axis=1)
        gain = metrics.bootstrap(paired, lambda m: (m[..., 0] - m[..., 1]) / (best.cosine - mean), strata, resamples)
        _put(row, "skill, cosine", gain)
    recall = measures[f"R@{K}"]
    if best.recall > chance:
        _put(
            row,
            f"skill, R@{K}",
            metrics.bootstrap(recall, lambda m: (m[..., 0] - chance) / (best.recall - chance), strata, resamples),
        )


def _put(row: dict[str, object], name: str, interval: metrics.Interval) -> None:
    row[name], row[f"{name} low"], row[f"{name} high"] = interval


def _cell(row: pd.Series, measure: str) -> str:
    value, low, high = row[measure], row[f"{measure} low"], row[f"{measure} high"]
    if np.isnan(value):
        return ""
    return f"{value:.3f}" if np.isnan(low) else f"{value:.3f} [{low:.3f}, {high:.3f}]"
