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
RANKED = (MATCHING, *(f"R@{k}" for k in KS))
MEASURES = (COSINE, L2, *RANKED, "skill, cosine", "skill, R@10", *(f"{name} by ratio" for name in RANKED))
ENDS = ("low", "high", "gain", "gain low", "gain high")
REFERENCE = {ALL: MEAN, WITHIN: SEX_MEAN}  # the systems with skill 0 in cosine
# scores of a gallery's faces for identities: higher is likelier; see IdentityPosterior.log_ratio_of
Ratio = Callable[[Float32[np.ndarray, "n dim"], Float32[np.ndarray, "m dim"]], Float[np.ndarray, "n m"]]
Labels = Shaped[np.ndarray, " n"]  # the gallery of each person, as in `protocols`


class Ceiling(NamedTuple):
    """The best possible values in a known world, over one kind of gallery; see :mod:`minivox.ceilings`."""

    cosine: float
    recall: float
    matching: float


def summarise(tidy: pd.DataFrame, against: str | None = None, resamples: int = 4000) -> pd.DataFrame:
    """The mean of each key of a tidy frame, with its interval, and its gain over ``against``, person by person.

    A person's values are averaged over seeds and draws, then persons are resampled; fewer than two in a stratum have no
    interval. ``seed sd`` is the deviation of the seeds' means. Systems that were measured on other persons than
    ``against`` are refused.
    """
    keys = [name for name in KEYS if name in tidy]
    seeds = tidy.groupby([*keys, "seed"]).value.mean() if "seed" in tidy else None
    tidy = tidy if "stratum" in tidy else tidy.assign(stratum="")
    means = tidy.groupby([*keys, "person"], sort=False).agg({"value": "mean", "stratum": "first"})
    frames = {key: part.droplevel(keys) for key, part in means.groupby(level=keys, sort=False)}
    rows = []
    for key, part in frames.items():
        row: dict[str, object] = dict(zip(keys, key, strict=True))
        base = frames.get(tuple(against if name == "system" else value for name, value in row.items()))
        of_persons = part.index[0] != ""
        row |= {"value": float(part.value.mean())} | ({"n": len(part)} if of_persons else {})
        row |= {} if seeds is None else {"seeds": len(seeds.loc[key]), "seed sd": float(seeds.loc[key].std())}
        if of_persons and part.stratum.value_counts().min() >= 2:
            values, strata = part.value.to_numpy(), part.stratum.to_numpy(dtype=str)
            row |= metrics.bootstrap(values, groups=strata, resamples=resamples)._asdict()
            if base is not None and row["system"] != against:
                if set(base.index) != set(part.index):
                    raise InputError(f"{row['system']} and {against} were measured on different persons")
                gain = metrics.paired_difference(values, base.value.loc[part.index].to_numpy(), strata, resamples)
                row |= dict(zip(("gain", "gain low", "gain high"), gain, strict=True))
        rows.append(row)
    table = pd.DataFrame(rows)
    order = ["n", "seeds", "value", "low", "high", "seed sd", "gain", "gain low", "gain high"]
    return table[[*keys, *(name for name in order if name in table)]]


def wide(table: pd.DataFrame, measures: Sequence[str] = MEASURES) -> pd.DataFrame:
    """A summary with the measures as columns, ``m``, ``m low``, ``m high`` (and ``m gain`` …), instead of rows."""
    keys = [name for name in KEYS[:-1] if name in table]
    ends = {name: f" {name}".removesuffix(" value") for name in ("value", *ENDS) if name in table}
    frame = table.set_index([*keys, "metric"])[[*ends]].unstack(sort=False)
    frame.columns = [f"{measure}{ends[name]}" for name, measure in frame.columns]
    order = [f"{measure}{end}" for measure in measures for end in ends.values()]
    frame = frame[[name for name in order if name in frame]]
    if "n" in table:
        frame.insert(0, "n", table.groupby(keys).n.max())
    return frame.reset_index()


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
    rows = table.to_dict("records")
    cells = {name: [cell(row, name).partition("<br>")[0] for row in rows] for name in measures}
    return pd.DataFrame({"": table.system.to_list(), **cells}).to_string(index=False)


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


def person_values(scores: Float[np.ndarray, "n n"], labels: Labels) -> dict[str, Float[np.ndarray, " n"]]:
    """1:2 matching, rank and R@k of each person among the faces of their gallery; NaN for a person without one."""
    ranks = metrics.within(metrics.rank, scores, labels)
    recalls = {f"R@{k}": np.where(np.isnan(ranks), np.nan, ranks <= k) for k in KS}
    return {MATCHING: metrics.within(metrics.matching, scores, labels), RANK: ranks, **recalls}


def likeness(
    systems: Sequence[System],
    gallery: Faces,
    persons: Sequence[str],
    galleries: Mapping[str, Labels],
    ceilings: Mapping[str, Ceiling] | None = None,
    ratio: Ratio | None = None,
) -> pd.DataFrame:
    """Every measure of each person and system, by ẑ, by face and by the second scorer, as a tidy frame.

    Draws have a row each; derangements are averaged. The second scorer gives ranks only: its cosines have another
    scale. Skill is given where there are ceilings, for systems whose input is a voice, and needs those of `REFERENCE`.
    ``ratio`` ranks the faces once more, with a drawn face's identity for ẑ.
    """
    n, truth, frames = len(persons), gallery.identities, []
    predicted = {system.name: system.predicted for system in systems if system.predicted is not None}
    reference = {where: metrics.cosine(predicted[of], truth) for where, of in REFERENCE.items() if of in predicted}
    for system in systems:
        orders = np.arange(n)[None] if system.shuffles is None else system.shuffles
        for by, draw, z, scores in _answers(system, gallery):
            near, likelier = {}, None
            if z is not None:
                for name, of in ((COSINE, metrics.cosine), (L2, metrics.l2)):
                    near[name] = np.mean([of(z[order], truth) for order in orders], axis=0)
                likelier = None if ratio is None else _ratios(ratio, z, truth)
            for where, labels in galleries.items():
                values = near | _averaged(scores, labels, orders)
                if likelier is not None:
                    ranked = _averaged(likelier, labels, orders)
                    values |= {f"{name} by ratio": ranked[name] for name in RANKED}
                asked = np.where(system.of(n), labels, "")
                best = (ceilings or {}).get(where)
                if best is not None and not system.shown and by != BY_SECOND and where in reference:
                    values |= _skills(values, reference[where], best, labels, asked)
                keys = {"gallery": where, "by": by, "system": system.name, "draw": draw}
                frames.append(tidy_rows(keys, values, persons, asked))
    return pd.concat(frames, ignore_index=True)


def tidy_rows(
    keys: Mapping[str, object], values: Mapping[str, np.ndarray], persons: Sequence[str], labels: Labels
) -> pd.DataFrame:
    """A tidy frame of the measures of the persons who stand in a gallery, whose label is not ""."""
    there, columns = labels != "", {"person": np.array(persons), "stratum": labels}
    rows = {name: np.tile(column[there], len(values)) for name, column in columns.items()}
    rows["value"] = np.concatenate([column[there] for column in values.values()])
    return pd.DataFrame({**keys, "metric": np.repeat([*values], there.sum()), **rows})


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
    seen, known = z.any(axis=1), truth.any(axis=1)
    scores = np.zeros((len(z), len(truth)))
    if seen.any() and known.any():
        scores[np.ix_(seen, known)] = ratio(z[seen].astype(np.float32), truth[known].astype(np.float32))
    return scores


def _averaged(scores: np.ndarray, labels: Labels, orders: np.ndarray) -> dict[str, np.ndarray]:
    """Each person's values, averaged over the orders in which the answers are dealt to persons."""
    parts = [person_values(scores[order], labels) for order in orders]
    return {name: np.mean([part[name] for part in parts], axis=0) for name in parts[0]}


def _skills(
    values: Mapping[str, np.ndarray], reference: np.ndarray, best: Ceiling, labels: np.ndarray, asked: np.ndarray
) -> dict[str, np.ndarray]:
    """Skill as a value of each person, whose mean is the skill: the reference is the same person's."""
    mean = float(np.mean([reference[asked == name].mean() for name in sorted({*asked} - {""})]))
    chance, skills = protocols.chance(labels, 10), {}
    if COSINE in values and best.cosine > mean:
        skills["skill, cosine"] = (values[COSINE] - reference) / (best.cosine - mean)
    if best.recall > chance:
        skills["skill, R@10"] = (values["R@10"] - chance) / (best.recall - chance)
    return skills


def likeness_table(
    tidy: pd.DataFrame, galleries: Mapping[str, Labels], ceilings: Mapping[str, Ceiling] | None = None
) -> pd.DataFrame:
    """The wide table of :func:`likeness`, each gallery with its size, chance and ceiling."""
    table, parts = wide(summarise(tidy[tidy.metric != RANK])), []
    for where, labels in galleries.items():
        edges = [{"system": "chance", MATCHING: 0.5} | {f"R@{k}": protocols.chance(labels, k) for k in KS}]
        if best := (ceilings or {}).get(where):
            edges.append({"system": "ceiling", COSINE: best.cosine, "R@10": best.recall, MATCHING: best.matching})
        part = pd.concat([table[table.gallery == where], pd.DataFrame(edges).assign(gallery=where)])
        part.insert(part.columns.get_loc("n") + 1, "gallery size", min(protocols.sizes(labels)))
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def save_identity_table(table: pd.DataFrame, folder: str | Path, name: str = "stage1", note: str = "") -> None:
    """Write Stage I's table as ``<name>.csv`` and, with fewer measures and a note below, as ``<name>.md``."""
    shown = (COSINE, "R@1", "R@10", MATCHING, "skill, cosine", "skill, R@10", "R@10 by ratio", f"{MATCHING} by ratio")
    write(folder, f"{name}.csv", table)
    write(folder, f"{name}.md", by_gallery(table, shown) + note)


def set_table(systems: Iterable[System], real: Faces) -> pd.DataFrame:
    """A row for each system with faces of its own: VFS with its N, kernel distance to real faces, diversity, misses."""
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
