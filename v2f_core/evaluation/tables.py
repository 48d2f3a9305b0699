"""One engine for every table: values of each person in a tidy frame → means with intervals, gains, chance, ceilings.

A tidy frame has one value a row. The columns of `KEYS` identify the measure; ``person`` is "" for a measure of all
images together; ``seed`` or ``draw`` number repeated runs; galleries, the person's is ``stratum``, have equal weight.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Shaped

from v2f_core.artefacts.files import atomic_write
from v2f_core.errors import InputError
from v2f_core.evaluation import metrics, protocols
from v2f_core.evaluation.controls import MEAN, SEX_MEAN
from v2f_core.evaluation.protocols import ALL, WITHIN
from v2f_core.evaluation.systems import Faces, System

KEYS = ("gallery", "by", "system", "metric")
BY_Z, BY_FACE, BY_SECOND = "ẑ", "face", "second scorer"
COSINE, L2, MATCHING, RANK, KS = "cosine", "L2", "1:2 matching", "rank", (1, 5, 10)
BY_RATIO = tuple(f"{name} by ratio" for name in (MATCHING, *(f"R@{k}" for k in KS)))
MEASURES = (COSINE, L2, MATCHING, *(f"R@{k}" for k in KS), "skill, cosine", "skill, R@10", *BY_RATIO)
ENDS = ("low", "high", "gain", "gain low", "gain high")
REFERENCE = {ALL: MEAN, WITHIN: SEX_MEAN}  # the systems with skill 0 in cosine
# scores of a gallery's faces for identities: higher is likelier; see IdentityPosterior.log_ratio_of
Ratio = Callable[[Float32[np.ndarray, "n dim"], Float32[np.ndarray, "m dim"]], Float[np.ndarray, "n m"]]


class Ceiling(NamedTuple):
    """The best possible values in a known world, over one kind of gallery; see :mod:`minivox.ceilings`."""

    cosine: float
    recall: float
    matching: float


# --- the engine


def summarise(tidy: pd.DataFrame, against: str | None = None, resamples: int = 4000) -> pd.DataFrame:
    """The mean of each key of a tidy frame, with its interval, its spread over seeds and its gain over a system.

    A person's values are averaged over seeds and draws, then persons are resampled; fewer than two in a stratum have no
    interval. ``seed sd`` is the deviation of the seeds' means; a gain over ``against`` is paired person by person.

    Raises:
        InputError: a system and ``against`` were measured on different persons.

    Example:
        >>> tidy = pd.DataFrame(
        ...     {"system": s, "metric": "cosine", "seed": k, "person": f"P{i}", "value": 0.1 * i + 0.01 * (s == "new")}
        ...     for s in ("old", "new") for k in (0, 1) for i in range(9)
        ... )
        >>> table = summarise(tidy, against="old").set_index("system")
        >>> table.loc["new", ["value", "seed sd", "gain"]].round(3).to_dict()
        {'value': 0.41, 'seed sd': 0.0, 'gain': 0.01}
    """
    keys = [name for name in KEYS if name in tidy]
    seeds = tidy.groupby([*keys, "seed"]).value.mean() if "seed" in tidy else None
    by_person = tidy.groupby([*keys, "person"], sort=False)
    means = by_person.value.mean().to_frame()
    means["stratum"] = by_person.stratum.first() if "stratum" in tidy else ""
    frames = {key: part.droplevel(keys) for key, part in means.groupby(level=keys, sort=False)}
    rows = []
    for key, part in frames.items():
        row: dict[str, object] = dict(zip(keys, key, strict=True))
        of_persons = part.index[0] != ""
        if of_persons:
            row["n"] = len(part)
        if seeds is not None:
            of_seeds = seeds.loc[key]
            row |= {"seeds": len(of_seeds), "seed sd": float(of_seeds.std()) if len(of_seeds) > 1 else np.nan}
        row["value"] = float(part.value.mean())
        few = not of_persons or part.stratum.value_counts().min() < 2
        values, strata = part.value.to_numpy(), part.stratum.to_numpy(dtype=str)
        row |= {} if few else metrics.bootstrap(values, groups=strata, resamples=resamples)._asdict()
        base = frames.get(tuple(against if name == "system" else value for name, value in row.items() if name in keys))
        if against is not None and base is not None and row["system"] != against and not few:
            if set(base.index) != set(part.index):
                raise InputError(f"{row['system']} and {against} were measured on different persons")
            gain = metrics.paired_difference(values, base.value.loc[part.index].to_numpy(), strata, resamples)
            row |= {"gain": gain.value, "gain low": gain.low, "gain high": gain.high}
        rows.append(row)
    table = pd.DataFrame(rows)
    order = ["n", "seeds", "value", "low", "high", "seed sd", "gain", "gain low", "gain high"]
    return table[[*keys, *(name for name in order if name in table)]]


def wide(table: pd.DataFrame, measures: Sequence[str] = MEASURES) -> pd.DataFrame:
    """A summary with the measures as columns, ``m``, ``m low``, ``m high`` (and ``m gain`` …), instead of rows."""
    keys = [name for name in KEYS[:-1] if name in table]
    ends = {name: f" {name}".removesuffix(" value") for name in ("value", *ENDS) if name in table}
    rows = []
    for key, part in table.groupby(keys, sort=False):
        values = part.set_index("metric")
        row = dict(zip(keys, key, strict=True)) | ({"n": part.n.max()} if "n" in part else {})
        for measure in (measure for measure in measures if measure in values.index):
            row |= {f"{measure}{end}": values.loc[measure, name] for name, end in ends.items()}
        rows.append(row)
    frame = pd.DataFrame(rows)
    order = [f"{measure}{end}" for measure in measures for end in ends.values()]
    return frame[[*frame.columns[~frame.columns.isin(order)], *(name for name in order if name in frame)]]


def markdown(table: pd.DataFrame, measures: Sequence[str], rows: Sequence[str] = ("system",)) -> str:
    """Some measures of a :func:`wide` table as Markdown, by :func:`cell`."""
    measures = [measure for measure in measures if measure in table]
    lines = ["| " + " | ".join([*rows, *measures]) + " |", "|" + "---|" * (len(rows) + len(measures))]
    for row in table.to_dict("records"):
        cells = [str(row[name]) for name in rows] + [cell(row, measure) for measure in measures]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plain(table: pd.DataFrame, measures: Sequence[str]) -> str:
    """Some measures of a :func:`wide` table for a terminal, without gains."""
    rows = [
        {"": row["system"]} | {name: cell(row, name).partition("<br>")[0] for name in measures}
        for row in table.to_dict("records")
    ]
    return pd.DataFrame(rows).to_string(index=False)


def cell(row: Mapping[str, Any], measure: str) -> str:
    """A measure of one row with its interval, and its gain if it has one."""
    parts = []
    for name, sign in ((measure, ""), (f"{measure} gain", "+")):
        value, low, high = (row.get(f"{name}{end}", np.nan) for end in ("", " low", " high"))
        if np.isfinite(value):
            ends = f" [{low:{sign}.3f}, {high:{sign}.3f}]" if np.isfinite(low) else ""
            parts.append(f"{value:{sign}.3f}{ends}")
    return "<br>".join(parts)


def by_gallery(table: pd.DataFrame, measures: Sequence[str], rows: Sequence[str] = ("system",)) -> str:
    """:func:`markdown` of each gallery of a table, below a line with its size."""
    return "".join(
        f"Gallery: {where} ({size} faces)\n\n{markdown(part, measures, rows)}\n"
        for (where, size), part in table.groupby(["gallery", "gallery size"], sort=False)
    )


def write(folder: str | Path, name: str, table: pd.DataFrame | str) -> None:
    """Write a table as CSV (``.csv``, ``.csv.gz``), or a text, atomically and with the same bytes each time."""
    with atomic_write(Path(folder) / name) as temporary:
        if isinstance(table, str):
            temporary.write_text(table, encoding="utf-8")
        else:
            data = table.to_csv(index=False, float_format="%.6g").encode()
            temporary.write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)


# --- likeness and retrieval


def person_values(
    scores: Float[np.ndarray, "n n"], labels: Shaped[np.ndarray, " n"]
) -> dict[str, Float[np.ndarray, " n"]]:
    """1:2 matching, rank and R@k of each person among the faces of their gallery; NaN for a person without one."""
    ranks = metrics.within(metrics.rank, scores, labels)
    recalls = {f"R@{k}": np.where(np.isnan(ranks), np.nan, ranks <= k) for k in KS}
    return {MATCHING: metrics.within(metrics.matching, scores, labels), RANK: ranks, **recalls}


def likeness(
    systems: Sequence[System],
    gallery: Faces,
    persons: Sequence[str],
    galleries: Mapping[str, Shaped[np.ndarray, " n"]],
    ceilings: Mapping[str, Ceiling] | None = None,
    ratio: Ratio | None = None,
) -> pd.DataFrame:
    """Every measure of each person and system, by ẑ, by face and by the second scorer, as a tidy frame.

    Draws have a row each; derangements are averaged. The second scorer gives ranks only: its cosines have another
    scale. Skill is given where there are ceilings, for systems whose input is a voice, and needs those of `REFERENCE`.
    ``ratio`` ranks the faces once more, by how much likelier a voice makes them, with a drawn face's identity for ẑ.
    """
    n, truth, frames = len(persons), gallery.identities, []
    predicted = {system.name: system.predicted for system in systems if system.predicted is not None}
    reference = {
        where: metrics.cosine(predicted[name], truth) for where, name in REFERENCE.items() if name in predicted
    }
    for system in systems:
        for by, draw, z, scores in _answers(system, gallery):
            near = {} if z is None else _near(z, truth, system.shuffles)
            likelier = None if z is None or ratio is None else _ratios(ratio, z, truth)
            for where, labels in galleries.items():
                values = near | _averaged(scores, labels, system.shuffles)
                if likelier is not None:
                    ranked = _averaged(likelier, labels, system.shuffles)
                    values |= {f"{name} by ratio": ranked[name] for name in ranked if name != RANK}
                answered = system.of(n) & (labels != "")
                best = (ceilings or {}).get(where)
                if best is not None and not system.shown and by != BY_SECOND and where in reference:
                    values |= _skills(values, reference[where], best, labels, answered)
                keys = {"gallery": where, "by": by, "system": system.name, "draw": draw}
                frame = pd.DataFrame({"person": persons, "stratum": labels, **values})[answered]
                frames.append(frame.melt(["person", "stratum"], var_name="metric").assign(**keys))
    columns = ["gallery", "by", "system", "metric", "draw", "person", "stratum", "value"]
    return pd.concat(frames, ignore_index=True)[columns]


def _answers(
    system: System, gallery: Faces
) -> Iterable[tuple[str, int, Float32[np.ndarray, "n dim"] | None, Float[np.ndarray, "n n"]]]:
    """How persons are compared, the number of the draw, identities of f_arc if there are any, and the score matrix."""
    if system.scores is not None:
        yield BY_Z, 0, None, system.scores
    elif system.predicted is not None:
        yield BY_Z, 0, system.predicted, metrics.score_matrix(system.predicted, gallery.identities)
    for draw, faces in enumerate(system.faces):
        yield BY_FACE, draw, faces.identities, metrics.score_matrix(faces.identities, gallery.identities)
        if gallery.features.shape[1]:
            centre = gallery.features.mean(axis=0)  # a net's last features have a large mean
            centred = [features - centre for features in (faces.features, gallery.features)]
            seen, known = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in centred)
            yield BY_SECOND, draw, None, metrics.score_matrix(seen, known)


def _ratios(ratio: Ratio, z: Float[np.ndarray, "n dim"], truth: Float[np.ndarray, "m dim"]) -> Float[np.ndarray, "n m"]:
    """The ratios, 0 where either face is undetected: nothing is learned from it."""
    seen, known = np.flatnonzero(z.any(axis=1)), np.flatnonzero(truth.any(axis=1))
    scores = np.zeros((len(z), len(truth)))
    if len(seen) and len(known):
        scores[np.ix_(seen, known)] = ratio(z[seen].astype(np.float32), truth[known].astype(np.float32))
    return scores


def _near(z: np.ndarray, truth: np.ndarray, shuffles: np.ndarray | None) -> dict[str, np.ndarray]:
    orders = [np.arange(len(z))] if shuffles is None else shuffles
    measures = {COSINE: metrics.cosine, L2: metrics.l2}
    return {name: np.mean([of(z[order], truth) for order in orders], axis=0) for name, of in measures.items()}


def _averaged(scores: np.ndarray, labels: np.ndarray, shuffles: np.ndarray | None) -> dict[str, np.ndarray]:
    """The values of each person, averaged over shuffles; ranks are left out."""
    if shuffles is None:
        return person_values(scores, labels)
    values = [person_values(scores[order], labels) for order in shuffles]
    return {name: np.mean([value[name] for value in values], axis=0) for name in values[0] if name != RANK}


def _skills(
    values: Mapping[str, np.ndarray], reference: np.ndarray, best: Ceiling, labels: np.ndarray, answered: np.ndarray
) -> dict[str, np.ndarray]:
    """Skill as a value of each person, whose mean is the skill: the reference is the same person's."""
    skills = {}
    names = sorted(set(labels[answered].tolist()))
    mean = float(np.mean([reference[answered & (labels == name)].mean() for name in names]))
    if COSINE in values and best.cosine > mean:
        skills["skill, cosine"] = (values[COSINE] - reference) / (best.cosine - mean)
    chance = protocols.chance(labels, 10)
    if best.recall > chance:
        skills["skill, R@10"] = (values["R@10"] - chance) / (best.recall - chance)
    return skills


def likeness_table(
    tidy: pd.DataFrame,
    galleries: Mapping[str, Shaped[np.ndarray, " n"]],
    ceilings: Mapping[str, Ceiling] | None = None,
    resamples: int = 4000,
) -> pd.DataFrame:
    """The wide table of :func:`likeness`, each gallery with its size, chance and ceiling."""
    table = wide(summarise(tidy[tidy.metric != RANK], resamples=resamples))
    parts = []
    for where, labels in galleries.items():
        edges = [{"system": "chance", MATCHING: 0.5} | {f"R@{k}": protocols.chance(labels, k) for k in KS}]
        if best := (ceilings or {}).get(where):
            edges.append({"system": "ceiling", COSINE: best.cosine, "R@10": best.recall, MATCHING: best.matching})
        part = pd.concat([table[table.gallery == where], pd.DataFrame(edges).assign(gallery=where)])
        parts.append(part.assign(**{"gallery size": min(protocols.sizes(labels))}))
    columns = list(table.columns)
    columns.insert(columns.index("n") + 1, "gallery size")
    return pd.concat(parts, ignore_index=True)[columns]


def identity_table(
    systems: Mapping[str, Float[np.ndarray, "n dim"]],
    truth: Float[np.ndarray, "n dim"],
    sexes: Shaped[np.ndarray, " n"],
    ceilings: Mapping[str, Ceiling] | None = None,
    ranked: Mapping[str, Float[np.ndarray, "n n"]] | None = None,
    resamples: int = 4000,
    ratio: Ratio | None = None,
) -> pd.DataFrame:
    """Stage I's table of predicted identities: a row a system and gallery, columns ``m``, ``m low``, ``m high``.

    ``truth`` is the gallery; ``ranked`` are score matrices of systems that rank faces without an identity; the rest is
    as in :func:`likeness`.
    """
    answers = [System(name, "", z.astype(np.float32)) for name, z in systems.items()]
    answers += [System(name, "", scores=scores) for name, scores in (ranked or {}).items()]
    galleries, persons = protocols.galleries(sexes.tolist()), [f"{i:06d}" for i in range(len(truth))]
    tidy = likeness(answers, Faces.of(truth.astype(np.float32)), persons, galleries, ceilings, ratio)
    return likeness_table(tidy, galleries, ceilings, resamples).drop(columns="by")


def save_identity_table(table: pd.DataFrame, folder: str | Path, name: str = "stage1", note: str = "") -> None:
    """Write Stage I's table as ``<name>.csv`` and, with fewer measures and a note below, as ``<name>.md``."""
    shown = (COSINE, "R@1", "R@10", MATCHING, "skill, cosine", "skill, R@10", "R@10 by ratio", f"{MATCHING} by ratio")
    write(folder, f"{name}.csv", table)
    write(folder, f"{name}.md", by_gallery(table, shown) + note)


# --- sets of faces


def set_table(systems: Iterable[System], real: Faces) -> pd.DataFrame:
    """A row for each system with faces: VFS with its N, kernel distance to real faces, diversity, misses.

    Shuffled systems are left out, since a shuffle does not change a set.
    """
    rows = []
    for system in (system for system in systems if system.faces and system.shuffles is None):
        answered = system.of(len(real.paths))
        row: dict[str, object] = {"system": system.name, "images": int(answered.sum()) * len(system.faces)}
        row |= {"undetected": system.undetected, "guidance": np.nan if system.guidance is None else system.guidance}
        posteriors = np.concatenate([draw.posteriors[answered] for draw in system.faces])
        if posteriors.shape[1] and len(posteriors) >= 10:
            score = metrics.vfs(posteriors)
            row |= {"VFS": score.value, "VFS deviation": score.deviation, "VFS images": score.images}
        features = np.concatenate([draw.features[answered] for draw in system.faces])
        if min(int(cloud.any(axis=1).sum()) for cloud in (features, real.features)) >= 8:
            row["kernel distance"] = metrics.kernel_distance(features, real.features)
        if len(system.faces) > 1 and answered.sum() > 1:
            values = metrics.diversity(np.stack([draw.identities[answered] for draw in system.faces], axis=1))
            row |= dict(zip(("diversity", "diversity low", "diversity high"), metrics.bootstrap(values), strict=True))
        rows.append(row)
    return pd.DataFrame(rows)
