"""An ablation's tidy rows as a table: each system with its interval over persons, its spread over seeds, its gain.

Persons are what one generalises to, so that a person's values are averaged over seeds first and persons are resampled;
how much the seeds differ stands apart. Gains are paired: the same persons, the same noise, the same seeds.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from v2f_core.artefacts.files import atomic_write
from v2f_core.errors import InputError
from v2f_core.evaluation import metrics
from v2f_core.evaluation.intervals import bootstrap, paired_difference
from v2f_core.studies.ablations import WITHOUT, Ablation

if TYPE_CHECKING:
    import pandas as pd

    from v2f_core.evaluation.systems import Faces
    from v2f_core.training.pairs import Pairs

RANKS = ("rank", "rank within sex", "rank of ẑ", "rank of ẑ within sex")
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
    import pandas as pd

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
    same = {"system": row.system, "mode": row.mode, "parts": row.parts, "seed": seed}
    frames = [
        pd.DataFrame({**same, "person": test.persons[: len(value)], "metric": name, "value": value})
        for name, value in values.items()
    ]
    whole = {"VFS": metrics.vfs(faces.posteriors).value, "guidance": guidance}
    frames += [pd.DataFrame([{**same, "person": "", "metric": name, "value": value} for name, value in whole.items()])]
    return pd.concat(frames, ignore_index=True)[COLUMNS]


def _ranks(of: str, scores: np.ndarray, sexes: np.ndarray) -> dict[str, np.ndarray]:
    return {
        f"rank{of}": metrics.rank(scores).astype(float),
        f"rank{of} within sex": metrics.within(lambda s: metrics.rank(s).astype(float), scores, sexes),
        f"matching{of} within sex": metrics.within(metrics.matching, scores, sexes),
    }


def per_person(tidy: pd.DataFrame) -> pd.DataFrame:
    """The tidy rows with R@5 and R@10 in place of ranks, averaged over seeds: one row a system, metric and person."""
    import pandas as pd

    ranks = tidy[tidy.metric.isin(RANKS)]
    parts = [tidy[~tidy.metric.isin(RANKS) & (tidy.person != "")]]
    for k in AT:
        renamed = ranks.metric.str.replace("rank", f"R@{k}", regex=False)
        parts.append(ranks.assign(metric=renamed, value=(ranks.value <= k).astype(float)))
    return pd.concat(parts).groupby(["system", "metric", "person"], sort=False).value.mean().reset_index()


def summary(tidy: pd.DataFrame, against: str = WITHOUT, resamples: int = 2000) -> pd.DataFrame:
    """One row a system and metric: ``value`` with ``low`` and ``high`` (95 %, over persons), ``seed sd`` (of the seeds'
    means), and ``gain`` over the system ``against`` with its paired interval.

    Raises:
        InputError: systems were measured on other persons or with other seeds.

    Example:
        >>> import pandas as pd
        >>> row = {"mode": "none", "parts": "none", "metric": "cosine"}
        >>> tidy = pd.DataFrame(
        ...     {**row, "system": s, "seed": k, "person": f"P{i}", "value": 0.1 * i + 0.01 * (s == "new")}
        ...     for s in ("w/o DSC", "new") for k in (0, 1) for i in range(9)
        ... )
        >>> summary(tidy).set_index("system").loc["new", ["value", "seed sd", "gain"]].round(3).to_dict()
        {'value': 0.41, 'seed sd': 0.0, 'gain': 0.01}
    """
    import pandas as pd

    if len(set(tidy.groupby("system", sort=False).seed.unique().map(lambda seeds: tuple(sorted(seeds))))) > 1:
        raise InputError("systems were run with different seeds; run the table again to fill it up")
    people = per_person(tidy)
    by_seed = pd.concat([per_person(part).assign(seed=seed) for seed, part in tidy.groupby("seed")])
    means = dict(list(by_seed.groupby(["system", "metric", "seed"]).value.mean().groupby(level=["system", "metric"])))
    rows = []
    for (system, metric), part in people.groupby(["system", "metric"], sort=False):
        values = part.set_index("person").value
        seeds = means[system, metric]
        row: dict[str, object] = {"system": system, "metric": metric, "n": len(values), "seeds": len(seeds)}
        row |= dict(zip(("value", "low", "high"), bootstrap(values.to_numpy(), resamples=resamples), strict=True))
        row["seed sd"] = float(seeds.std()) if len(seeds) > 1 else np.nan
        base = people[(people.system == against) & (people.metric == metric)].set_index("person").value
        if system != against and len(base):
            if set(base.index) != set(values.index):
                raise InputError(f"{system} and {against} were measured on different persons; run them on the same")
            gain = paired_difference(values.to_numpy(), base[values.index].to_numpy(), resamples=resamples)
            row |= {"gain": gain.value, "gain low": gain.low, "gain high": gain.high}
        rows.append(row)
    for (system, metric), part in tidy[tidy.person == ""].groupby(["system", "metric"], sort=False):
        spread = float(part.value.std()) if len(part) > 1 else np.nan
        rows.append(
            {"system": system, "metric": metric, "seeds": len(part), "value": part.value.mean(), "seed sd": spread}
        )
    return pd.DataFrame(rows)


def as_diverse(
    base: Sequence[Mapping[str, Float[np.ndarray, " n"]]], diversity: float
) -> dict[str, Float[np.ndarray, " n"]] | None:
    """What a system's persons would have where its faces are just so diverse: fairly compared with another system.

    Args:
        base: the system's values of every person by measure, "diversity" among them, under several guidance scales.
        diversity: the mean wanted.
    Returns:
        the mixture of the two scales between which it lies; None where it lies beyond all.

    Example:
        >>> wide = {"diversity": np.array([0.4, 0.6]), "cosine": np.array([0.1, 0.2])}
        >>> tight = {"diversity": np.array([0.1, 0.3]), "cosine": np.array([0.3, 0.4])}
        >>> as_diverse([wide, tight], 0.35)["cosine"].round(3).tolist()
        [0.2, 0.3]
    """
    ordered = sorted(base, key=lambda values: float(values["diversity"].mean()))
    for less, more in pairwise(ordered):
        low, high = less["diversity"].mean(), more["diversity"].mean()
        if low <= diversity <= high:
            share = (diversity - low) / (high - low)
            return {name: (1 - share) * less[name] + share * more[name] for name in less}
    return None


def markdown(table: pd.DataFrame, metrics: tuple[str, ...]) -> str:
    """Some metrics of a :func:`summary`, to be read: value [interval], and the gain in brackets of its own."""
    lines = ["| system | " + " | ".join(metrics) + " |", "|" + "---|" * (len(metrics) + 1)]
    for system, part in table.groupby("system", sort=False):
        found = part.set_index("metric")
        lines.append(f"| {system} | " + " | ".join(_cell(found, metric) for metric in metrics) + " |")
    return "\n".join(lines) + "\n"


def _cell(found: pd.DataFrame, metric: str) -> str:
    if metric not in found.index:
        return ""
    row = found.loc[metric]
    text = f"{row.value:.3f}"
    if np.isfinite(row.get("low", np.nan)):
        text += f" [{row.low:.3f}, {row.high:.3f}]"
    if np.isfinite(row.get("gain", np.nan)):
        text += f"<br>{row.gain:+.3f} [{row['gain low']:+.3f}, {row['gain high']:+.3f}]"
    return text


def save(tidy: pd.DataFrame, name: str, folder: str | Path, shown: tuple[str, ...]) -> pd.DataFrame:
    """Write the tidy rows, their summary and what to read; give the summary."""
    table, folder = summary(tidy), Path(folder)
    with atomic_write(folder / f"{name}_persons.csv.gz") as path:
        path.write_bytes(gzip.compress(tidy.to_csv(index=False, float_format="%.4g").encode(), mtime=0))
    with atomic_write(folder / f"{name}.csv") as path:
        table.to_csv(path, index=False, float_format="%.5g")
    with atomic_write(folder / f"{name}.md") as path:
        path.write_text(markdown(table, shown), encoding="utf-8")
    return table
