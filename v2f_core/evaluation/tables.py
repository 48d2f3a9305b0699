"""The tables over systems: likeness and retrieval by ẑ and by face, quality of sets of faces, both by group of persons.

Every number is a mean of values per person (draws and shuffles averaged first), with a bootstrap interval over persons;
beside each stand its gallery size and chance. An undetected face is a miss with cosine 0, and counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped

from v2f_core.evaluation import metrics
from v2f_core.evaluation.distribution import COMPONENTS, frechet_on_components, kernel_distance
from v2f_core.evaluation.person_values import (
    COSINE,
    L2,
    MATCHING,
    galleries_of,
    gallery_size,
    interval,
    person_values,
    put,
)
from v2f_core.evaluation.protocols import Protocol, everybody
from v2f_core.evaluation.scorer import Faces
from v2f_core.evaluation.stage1_report import Ceiling
from v2f_core.evaluation.systems import System

if TYPE_CHECKING:
    from v2f_core.evaluation.perception import Perception

BY_Z, BY_FACE, BY_SECOND = "ẑ", "face", "second scorer"
FEW = 10  # persons below whom a group's numbers are shown, but flagged


def likeness(
    systems: Iterable[System],
    gallery: Faces,
    galleries: Sequence[Protocol],
    reference: Mapping[str, System],
    ceilings: Mapping[str, Ceiling] | None = None,
    resamples: int = 4000,
) -> pd.DataFrame:
    """A row for each system, way of looking (by ẑ, by face, by the second scorer) and protocol.

    Args:
        systems: in the order of the table.
        gallery: everybody's first photograph.
        galleries: of `protocols`.
        reference: for ``"all"`` and ``"within sex"``, whose ẑ has skill 0 in cosine.
        ceilings: the best anybody could do, where the world is known; skills need them.
        resamples: of the bootstrap.
    """
    rows = []
    for system in systems:
        for by, queries, truth in _ways(system, gallery):
            for protocol in galleries:
                values = person_values(queries, truth, protocol, system.shuffles)
                asked = _asked(system, truth) & np.isfinite(values[MATCHING])
                groups = galleries_of(protocol, len(truth))[asked]
                row: dict[str, object] = {"gallery": protocol.name, "by": by, "system": system.name}
                row |= {"n": int(asked.sum()), "draws": len(queries) if by != BY_Z else 0}
                row |= {"gallery size": gallery_size(protocol)}
                for name, value in values.items():
                    if by == BY_SECOND and name in (COSINE, L2):
                        continue  # another space: its cosines are not ArcFace's
                    put(row, name, interval(value[asked], groups, resamples))
                best, base = (ceilings or {}).get(protocol.name), reference.get(protocol.name)
                if by == BY_SECOND or system.shown:
                    best = None
                if best is not None and base is not None and base.predicted is not None:
                    pair = np.stack([values[COSINE], metrics.cosine(base.predicted, gallery.identities)], axis=1)
                    hits = values["R@10"][asked] if "R@10" in values else np.zeros(0)
                    _skills(row, pair[asked], hits, best, protocol.chance(10), groups, resamples)
                rows.append(row)
    return pd.DataFrame(rows)


def sets(systems: Iterable[System], real: Faces, perception: Perception | None = None) -> pd.DataFrame:
    """A row for each system with faces: VFS with its N, distances between drawn and real faces, diversity, misses.

    With ``perception`` FID too, against the photographs in ``real``, and LPIPS of one's faces: a second diversity.
    """
    rows = []
    for system in systems:
        if not system.faces or system.shuffles is not None:
            continue  # a set does not change when it is shuffled
        asked = _asked(system, real.identities)
        row: dict[str, object] = {"system": system.name, "images": int(asked.sum()) * len(system.faces)}
        row["undetected"] = system.undetected
        if system.guidance is not None:
            row["guidance"] = system.guidance
        posteriors = np.concatenate([draw.posteriors[asked] for draw in system.faces])
        if posteriors.shape[1] and len(posteriors) >= 10:
            score = metrics.vfs(posteriors)
            row |= {"VFS": score.value, "VFS deviation": score.deviation, "VFS images": score.images}
        features = np.concatenate([draw.features[asked] for draw in system.faces])
        faces = min(int(cloud.any(axis=1).sum()) for cloud in (features, real.features))
        if faces >= 8:
            row["kernel distance"] = kernel_distance(features, real.features, subsets=0).value
            components = min(COMPONENTS, features.shape[1], faces // 2)
            row["Fréchet distance"] = frechet_on_components(features, real.features, components).value
            row["Fréchet components"] = components
        if len(system.faces) > 1:
            drawn = np.stack([draw.identities[asked] for draw in system.faces], axis=1)
            put(row, "diversity", interval(metrics.diversity(drawn)))
        if perception is not None:
            row |= _perceived(system, asked, real, perception)
        rows.append(row)
    return pd.DataFrame(rows)


def _perceived(system: System, asked: Bool[np.ndarray, " n"], real: Faces, perception: Perception) -> dict[str, float]:
    """FID, and LPIPS of every two faces of a person."""
    drawn = [[draw.paths[i] for i in np.flatnonzero(asked)] for draw in system.faces]
    photographs = [path for path in real.paths if path is not None]
    row = {"FID": perception.fid([path for draw in drawn for path in draw if path is not None], photographs)}
    pairs = [(a, b) for one, other in combinations(drawn, 2) for a, b in zip(one, other, strict=True) if a and b]
    return row | ({"LPIPS": float(perception.lpips(*zip(*pairs, strict=True)).mean())} if pairs else {})


def fairness(
    systems: Iterable[System], gallery: Faces, attributes: pd.DataFrame, resamples: int = 2000
) -> pd.DataFrame:
    """Cosine, R@10 (over all) and VFS by sex, age band, skin tone: a row for each system, way of looking and group.

    Args:
        systems: those of the table; shuffled rows are left out.
        gallery: everybody's first photograph.
        attributes: a column an attribute, a row a person in the gallery's order; "" where it is not known.
        resamples: of the bootstrap.
    Returns:
        groups with nobody in them have n = 0 and no numbers; below 10 persons ``few`` is set.
    """
    rows = []
    for system in systems:
        if system.shuffles is not None:
            continue
        for by, queries, truth in _ways(system, gallery):
            if by == BY_SECOND:
                continue
            values = person_values(queries, truth, everybody([str(i) for i in range(len(truth))]))
            values = {name: values[name] for name in (COSINE, MATCHING, "R@10") if name in values}
            asked = _asked(system, truth)
            for attribute in attributes.columns:
                column = attributes[attribute]
                order = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else sorted(set(column))
                for group in (g for g in order if g != ""):
                    of = asked & (column == group).to_numpy()
                    row: dict[str, object] = {"system": system.name, "by": by, "attribute": attribute, "group": group}
                    row |= {"n": int(of.sum()), "few": bool(of.sum() < FEW), "gallery size": len(truth)}
                    for name, value in values.items():
                        if of.sum() >= 2:
                            put(row, name, interval(value[of], None, resamples))
                    if by == BY_FACE and system.faces[0].posteriors.shape[1] and of.sum() >= FEW:
                        score = metrics.vfs(np.concatenate([draw.posteriors[of] for draw in system.faces]), splits=2)
                        row |= {"VFS": score.value, "VFS images": score.images}
                    rows.append(row)
    return pd.DataFrame(rows)


def centred(features: Float[np.ndarray, "n width"], on: Float[np.ndarray, "m width"]) -> Float[np.ndarray, "n width"]:
    """Unit vectors about a common centre; a net's last features all point the same way before."""
    moved = features - on.mean(axis=0)
    return moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)


def _ways(system: System, gallery: Faces) -> list[tuple[str, list[np.ndarray], np.ndarray]]:
    ways: list[tuple[str, list[np.ndarray], np.ndarray]] = []
    if system.predicted is not None:
        ways.append((BY_Z, [system.predicted], gallery.identities))
    if system.faces:
        ways.append((BY_FACE, [draw.identities for draw in system.faces], gallery.identities))
        if gallery.features.shape[1]:
            seen = [centred(draw.features, gallery.features) for draw in system.faces]
            ways.append((BY_SECOND, seen, centred(gallery.features, gallery.features)))
    return ways


def _asked(system: System, like: np.ndarray) -> Bool[np.ndarray, " n"]:
    return np.ones(len(like), bool) if system.asked is None else system.asked


def _skills(
    row: dict[str, object],
    pair: Float[np.ndarray, "n 2"],
    hits: Float[np.ndarray, " m"],
    best: Ceiling,
    chance: float,
    groups: Shaped[np.ndarray, " n"],
    resamples: int,
) -> None:
    if min((groups == group).sum() for group in np.unique(groups)) < 2:
        return
    base = metrics.bootstrap(pair[:, 1], groups=groups, resamples=2).value
    if best.cosine > base:
        # the reference is a mean over the same persons: both are resampled together
        room = best.cosine - base
        put(row, "skill, cosine", metrics.bootstrap(pair, lambda m: (m[..., 0] - m[..., 1]) / room, groups, resamples))
    if len(hits) and best.recall > chance:
        room = best.recall - chance
        gained = metrics.bootstrap(hits, lambda m: (m[..., 0] - chance) / room, groups, resamples)
        put(row, "skill, R@10", gained)
