"""What the report shows beside its tables, chosen by rank and never by hand: faces, retrievals, curves, failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from v2f_core.errors import InputError
from v2f_core.evaluation import metrics
from v2f_core.evaluation.person_values import interval
from v2f_core.evaluation.protocols import Protocol

SHOWN, TOP, BINS = 4, 5, 30
WRONG_AGE, WRONG_TONE = 15.0, 0.2  # years; of a tone from 0 (light) to 1 (dark)
AVERAGE = 0.95  # more like the mean face than this share of real photographs: collapsed to it


def by_rank(values: Float[np.ndarray, " n"], count: int = SHOWN) -> dict[str, list[int]]:
    """The persons with the highest, middle and lowest values; ties go by place. With few persons, fewer of each.

    Example:
        >>> by_rank(np.array([0.1, 0.9, 0.5, 0.4, 0.6, 0.2]), count=2)
        {'best': [1, 4], 'median': [2, 3], 'worst': [5, 0]}
    """
    order = np.argsort(-values, kind="stable")
    count = max(1, min(count, len(order) // 3))
    middle = (len(order) - count) // 2
    parts = {"best": order[:count], "median": order[middle : middle + count], "worst": order[-count:]}
    return {name: rows.tolist() for name, rows in parts.items()}


def retrieval(scores: Float[np.ndarray, "n n"], person: int, count: int = TOP) -> dict[str, Any]:
    """One query: the rank of the true face and the best faces of the gallery, the true one marked.

    Example:
        >>> found = retrieval(np.array([[0.1, 0.9, 0.2], [0.0, 0.5, 0.1], [0.0, 0.1, 0.4]]), person=0, count=2)
        >>> found["rank"], [(face["person"], face["true"]) for face in found["top"]]
        (3, [(1, False), (2, False)])
    """
    order = np.argsort(-scores[person], kind="stable")[:count]
    top = [{"person": int(i), "score": float(scores[person, i]), "true": bool(i == person)} for i in order]
    return {"person": person, "rank": int(metrics.rank(scores)[person]), "of": len(scores), "top": top}


def rank_curve(
    queries: Sequence[Float[np.ndarray, "n dim"]],
    truth: Float[np.ndarray, "n dim"],
    protocol: Protocol,
    asked: Bool[np.ndarray, " n"] | None = None,
) -> list[float]:
    """R@k for every k from 1 to the smallest gallery's size, averaged over draws; galleries count alike.

    Example:
        >>> from v2f_core.evaluation.protocols import everybody
        >>> rank_curve([np.eye(3)], np.eye(3), everybody(["Ada", "Bea", "Cy"]))
        [1.0, 1.0, 1.0]
    """
    kept = np.ones(len(truth), bool) if asked is None else asked
    places = np.arange(1, min(len(gallery.members) for gallery in protocol.galleries) + 1)
    curves = []
    for query in queries:
        found = protocol.answer(_ranks, metrics.score_matrix(query, truth))
        for group in np.unique(found.groups):
            ranks = found.values[(found.groups == group) & kept[found.rows]]
            if len(ranks):
                curves.append((ranks[:, None] <= places).mean(axis=0))
    return [round(float(x), 5) for x in np.mean(curves, axis=0)]


def histograms(
    queries: Sequence[Float[np.ndarray, "n dim"]],
    truth: Float[np.ndarray, "n dim"],
    sexes: Shaped[np.ndarray, " n"],
) -> dict[str, Any]:
    """Shares of cosines: of faces with their own person, with others of the same sex, and with the other sex."""
    scores = np.stack([metrics.score_matrix(query, truth) for query in queries])
    own = np.eye(len(truth), dtype=bool)
    same = (sexes[:, None] == sexes) & ~own
    edges = np.linspace(-0.6, 1, BINS + 1)
    groups = {"own face": own, "same sex": same, "other sex": ~same & ~own}
    found: dict[str, Any] = {"edges": edges.round(4).tolist(), "shares": {}, "means": {}}
    for name, mask in groups.items():
        values = scores[:, mask].ravel()
        if len(values):
            counts = np.histogram(values.clip(edges[0], edges[-1]), edges)[0]
            found["shares"][name] = (counts / len(values)).round(6).tolist()
            found["means"][name] = float(values.mean())
    return found


def failures(
    faces: Float[np.ndarray, "n dim"],
    real: Float[np.ndarray, "n dim"],
    mean_face: Float[np.ndarray, " dim"],
    probed: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    asked: Bool[np.ndarray, " n"] | None = None,
) -> list[dict[str, Any]]:
    """How drawn faces fail, how often, and how often a real photograph is judged so too (the probes err as well).

    Args:
        faces: f_arc of one drawn face a person; zero where none was found.
        real: of one real photograph each.
        mean_face: of the training persons; a face more like it than 95 % of the real ones has collapsed to it.
        probed: "sex", "age" (years), "skin tone" (0 to 1) → truth, read from the drawn face, read from the real one.
        asked: whom to count; all when None.
    Returns:
        kind, n judged, count, share with its interval, the share among real photographs, and who (worst first).
    """
    kept = np.ones(len(faces), bool) if asked is None else asked
    seen = faces.any(axis=1)
    kinds: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]] = []
    missed = np.where(seen, 0.0, 1.0)
    kinds.append(("no face found", missed, kept, np.where(real.any(axis=1), 0.0, 1.0)))
    likeness, real_likeness = faces @ mean_face, real @ mean_face
    limit = float(np.quantile(real_likeness, AVERAGE))
    kinds.append(("collapse to the mean face", likeness - limit, kept & seen, real_likeness - limit))
    for name, (truth, drawn, photo) in probed.items():
        if name == "sex":
            far, far_real = (drawn != truth).astype(float), (photo != truth).astype(float)
            known = np.array([value != "" for value in truth])
        else:
            margin = WRONG_AGE if name == "age" else WRONG_TONE
            far, far_real = np.abs(drawn - truth) - margin, np.abs(photo - truth) - margin
            known = np.isfinite(truth)
        kinds.append(
            (f"wrong {name}", np.nan_to_num(far, nan=-1), kept & seen & known, np.nan_to_num(far_real, nan=-1))
        )
    found = []
    for kind, badness, judged, real_badness in kinds:
        wrong = (badness > 0) & judged
        rate = interval((badness > 0)[judged].astype(float))
        worst = np.argsort(-np.where(wrong, badness, -np.inf), kind="stable")[: min(SHOWN, int(wrong.sum()))]
        found.append(
            {
                "kind": kind,
                "n": int(judged.sum()),
                "count": int(wrong.sum()),
                "share": {"value": rate.value, "low": rate.low, "high": rate.high},
                "real share": float((real_badness > 0)[judged].mean()) if judged.any() else float("nan"),
                "examples": worst.tolist(),
            }
        )
    return found


def bands(ages: Float[np.ndarray, " n"], edges: Sequence[float] = (30, 45, 60)) -> list[str]:
    """Age bands as text; "" where the age is unknown.

    Example:
        >>> bands(np.array([18.0, 45.0, 70.0, np.nan]))
        ['under 30', '45 to 59', '60 and over', '']
    """
    names = [f"under {edges[0]:g}", *(f"{a:g} to {b - 1:g}" for a, b in pairwise(edges))]
    names.append(f"{edges[-1]:g} and over")
    return ["" if np.isnan(age) else names[int(np.searchsorted(edges, age, side="right"))] for age in ages]


def thirds(values: Float[np.ndarray, " n"], reference: Float[np.ndarray, " m"], names: Sequence[str]) -> list[str]:
    """In which third of a reference population each value lies; "" where it is unknown.

    Raises:
        InputError: no reference value is known.

    Example:
        >>> thirds(np.array([0.0, 0.5, 9.0]), np.arange(10) / 10, ["light", "medium", "dark"])
        ['light', 'medium', 'dark']
    """
    known = reference[np.isfinite(reference)]
    if not len(known):
        raise InputError("thirds of nothing: expected at least one known value")
    cuts = np.quantile(known, [1 / 3, 2 / 3])
    return ["" if np.isnan(value) else names[int(np.searchsorted(cuts, value))] for value in values]


def _ranks(scores: Float[np.ndarray, "m m"]) -> Float[np.ndarray, " m"]:
    return metrics.rank(scores).astype(np.float64)
