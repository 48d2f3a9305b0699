"""Measures of each person under a protocol, and their means with intervals: what every cell of a table is made of."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from jaxtyping import Float, Shaped

from v2f_core.errors import InputError
from v2f_core.evaluation import metrics
from v2f_core.evaluation.protocols import Answer, Protocol, everybody, sf2f, stratified
from v2f_core.evaluation.stage1_report import WITHIN

KS = (1, 5, 10)
COSINE, L2, MATCHING = "cosine", "L2", "1:2 matching"


def protocols(persons: Sequence[str], sexes: Shaped[np.ndarray, " n"]) -> list[Protocol]:
    """The galleries of every table: all, within sex, and SF2F's three of 100 where there are 300 persons.

    Raises:
        InputError: fewer than two persons, or of no sex two.
    """
    if len(persons) < 2:
        raise InputError(f"a gallery of {len(persons)} face: expected at least 2 test persons")
    return [
        everybody(persons),
        stratified(WITHIN, persons, sexes.tolist()),
        *([sf2f(persons)] if len(persons) >= 300 else []),
    ]


def person_values(
    queries: Sequence[Float[np.ndarray, "n dim"]],
    truth: Float[np.ndarray, "n dim"],
    protocol: Protocol,
    shuffles: Shaped[np.ndarray, "times n"] | None = None,
) -> dict[str, Float[np.ndarray, " n"]]:
    """Each measure of each person, averaged over draws and shuffles; NaN for who is in no gallery.

    Args:
        queries: the identities of each draw.
        truth: one photograph a person.
        protocol: who is sought among whom.
        shuffles: rows say whose answer each person gets.
    Returns:
        cosine, L2, 1:2 matching and every R@k that the galleries allow (k below the size of the smallest).

    Example:
        >>> values = person_values([np.eye(12)], np.eye(12), everybody([str(i) for i in range(12)]))
        >>> {name: float(value.mean()) for name, value in values.items()}
        {'cosine': 1.0, 'L2': 0.0, '1:2 matching': 1.0, 'R@1': 1.0, 'R@5': 1.0, 'R@10': 1.0}
    """
    size, found = gallery_size(protocol), dict[str, list[np.ndarray]]()
    for query in queries:
        for order in [np.arange(len(truth))] if shuffles is None else shuffles:
            scores = metrics.score_matrix(query[order], truth)
            values = {COSINE: np.diag(scores), L2: metrics.l2(query[order], truth)}
            values[MATCHING] = _placed(protocol.answer(metrics.matching, scores), len(truth))
            for k in (k for k in KS if k < size):
                values[f"R@{k}"] = _placed(protocol.answer(partial(metrics.recall, k=k), scores), len(truth))
            for name, value in values.items():
                found.setdefault(name, []).append(value)
    return {name: np.mean(values, axis=0) for name, values in found.items()}


def gallery_size(protocol: Protocol) -> int:
    """Faces in the smallest gallery.

    Example:
        >>> gallery_size(everybody(["Ada", "Bea"]))
        2
    """
    return min(len(gallery.members) for gallery in protocol.galleries)


def interval(
    values: Float[np.ndarray, " n"], groups: Shaped[np.ndarray, " n"] | None = None, resamples: int = 4000
) -> metrics.Interval:
    """A mean with its interval; with fewer than two persons (in a group) without one."""
    few = len(values) < 2 or (groups is not None and min((groups == g).sum() for g in np.unique(groups)) < 2)
    if few:
        return metrics.Interval(float(values.mean()) if len(values) else np.nan, np.nan, np.nan)
    return metrics.bootstrap(values, groups=groups, resamples=resamples)


def put(row: dict[str, object], name: str, found: metrics.Interval) -> None:
    """Three columns of a measure: ``m``, ``m low``, ``m high``."""
    row[name], row[f"{name} low"], row[f"{name} high"] = found


def _placed(answer: Answer, n: int) -> Float[np.ndarray, " n"]:
    values = np.full(n, np.nan)
    values[answer.rows] = answer.values
    return values


def galleries_of(protocol: Protocol, n: int) -> Shaped[np.ndarray, " n"]:
    """The gallery's name of each of n persons; "" of who is in none."""
    names = np.full(n, "", dtype=object)
    for gallery in protocol.galleries:
        names[gallery.members] = gallery.name
    return names.astype(str)
