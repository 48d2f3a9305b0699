"""Protocols: galleries and subsets of persons, and their photographs, fixed before any score is computed.

A gallery is given as a label for each person: persons with the same label form a gallery; "" is in no gallery.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from v2f_core.data.manifest import Manifest
from v2f_core.errors import InputError
from v2f_core.training.embeddings import Embeddings
from v2f_core.training.pairs import Pairs

ALL, WITHIN, SF2F = "all", "within sex", "SF2F 3x100"


def galleries(sexes: Sequence[str]) -> dict[str, Shaped[np.ndarray, " n"]]:
    """The galleries of every table: all persons, those of one sex, and SF2F's three of 100 where there are 300.

    SF2F cuts its list of test persons, here in the order of ``sexes``, at 100, 200 and 300. (Its gallery has each
    person's *mean* identity over all photos; ours holds one photo.) Fewer than two persons are refused.
    """
    n, counts = len(sexes), Counter(sexes)
    if n < 2:
        raise InputError(f"a gallery of {n} face: expected at least 2 test persons")
    labels = {ALL: [ALL] * n, WITHIN: [sex if counts[sex] > 1 else "" for sex in sexes]}
    if n >= 300:
        labels[SF2F] = [f"{i // 100 * 100 + 1}-{i // 100 * 100 + 100}" if i < 300 else "" for i in range(n)]
    return {name: np.array(column) for name, column in labels.items() if any(column)}


def sizes(labels: Shaped[np.ndarray, " n"]) -> list[int]:
    """The number of faces in each gallery."""
    return [int((labels == name).sum()) for name in sorted(set(labels.tolist()) - {""})]


def chance(labels: Shaped[np.ndarray, " n"], k: int) -> float:
    """R@k of a random order: the mean over galleries of min(1, k / size)."""
    return float(np.mean([min(1.0, k / size) for size in sizes(labels)]))


def first_of_each_sex(sexes: Sequence[str], count: int) -> list[int]:
    """The indices of the first ``count`` persons, as many of each sex; fewer than four of a sex are refused."""
    kinds = sorted(set(sexes))
    if count < 4 * len(kinds):
        raise InputError(f"limit {count}: expected at least {4 * len(kinds)} persons, four of each sex")
    share = {sex: count // len(kinds) + (number < count % len(kinds)) for number, sex in enumerate(kinds)}
    return sorted(i for sex in kinds for i in [i for i, s in enumerate(sexes) if s == sex][: share[sex]])


def photographs(manifest: Manifest, faces: Embeddings, pairs: Pairs, split: str = "test") -> list[list[Path]]:
    """The usable photographs of each person of a split, in the order of their identities in ``pairs``."""
    owner = dict(zip(manifest.table.path, manifest.table.person, strict=True))
    paths: dict[str, list[Path]] = {person: [] for person in pairs.persons}
    for item in faces.of(manifest.faces(split).path)[1]:
        if owner[item] in paths:
            paths[owner[item]].append(manifest.root / item)
    return [paths[person] for person in pairs.persons]
