"""Which guidance suits a row: chosen for each by the likeness of the validation persons' faces, never by the test's.

A scale that suits one system flatters it beside another; so every row that is drawn gets its own choice from the same
scales, by the same persons and the same noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from v2f_core.evaluation import metrics

if TYPE_CHECKING:
    from v2f_core.evaluation.controls import Bench
    from v2f_core.evaluation.systems import System

GUIDANCES = (1.0, 2.0, 3.0, 4.5)


def tuned(
    validation: Bench, rows: Callable[[Bench], Iterable[System]], scales: Sequence[float] = GUIDANCES
) -> dict[str, dict[float, float]]:
    """The mean cosine of each row's faces under each scale; rows that no guidance changes are left out.

    Args:
        validation: a bench whose ``test`` are the validation persons.
        rows: gives a bench's rows, those of `controls.rows`.
        scales: to try.

    Example:
        >>> likeness = tuned(bench, lambda bench: controls.rows(bench, aligner, cosreg))  # doctest: +SKIP
        >>> best(likeness)["w/o DSC (Stage I)"]  # doctest: +SKIP
        3.0
    """
    truth, found = validation.gallery.identities, dict[str, dict[float, float]]()
    for scale in scales:
        for row in rows(replace(validation, drawing=replace(validation.drawing, guidance=scale), draws=1)):
            if row.guidance is not None and row.shuffles is None:
                asked = slice(None) if row.asked is None else row.asked
                cosines = metrics.cosine(row.faces[0].identities[asked], truth[asked])
                found.setdefault(row.name, {})[scale] = float(np.mean(cosines))
    return found


def best(likeness: dict[str, dict[float, float]]) -> dict[str, float]:
    """The likeliest scale of each row; of equally good ones the smallest.

    Example:
        >>> best({"oracle": {1.0: 0.7, 2.0: 0.8, 3.0: 0.8}})
        {'oracle': 2.0}
    """
    return {name: max(sorted(by_scale), key=by_scale.__getitem__) for name, by_scale in likeness.items()}


def told(likeness: dict[str, dict[float, float]], persons: int) -> str:
    """What was tried and chosen, for the report.

    Example:
        >>> told({"oracle": {1.0: 0.7, 3.0: 0.8}}, 100)
        'guidance was chosen for each row by the cosine of 100 validation persons: oracle 3 (1: 0.700, 3: 0.800)'
    """
    chosen = best(likeness)
    rows = [
        f"{name} {chosen[name]:g} ({', '.join(f'{scale:g}: {value:.3f}' for scale, value in tried.items())})"
        for name, tried in likeness.items()
    ]
    return f"guidance was chosen for each row by the cosine of {persons} validation persons: {'; '.join(rows)}"
