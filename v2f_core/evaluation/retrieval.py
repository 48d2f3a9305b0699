"""Who is it, of a hundred or a million? Exact search in a gallery that need not fit in the memory of the device.

No index and no approximation: every query meets every face, block by block, and only counts are kept. Small galleries
of one face a person are served by ``metrics``, from a whole score matrix and by the same conventions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Integer, Shaped
from torch import Tensor

from v2f_core.errors import InputError
from v2f_core.evaluation.metrics import win_probability

TIE = 1e-6  # cosines that differ by less are ties: about ten times the rounding of a float32 sum of 512 products
QUERIES, FACES = 512, 32_768  # of one block: 64 MB of scores


@dataclass(frozen=True)
class Search:
    """Where each query's own faces came out. Entry i of every array is query i.

    Attributes:
        faces: size of the gallery.
        own: how many faces of the query's person are in it.
        rank: place of the best of them, 1 the best; a rival that ties stands before it.
        below, tied: how many faces of others score below that best own face, and how many the same.
        average_precision: mean over the own faces of (own faces up to its place) / (its place); of one own face it is
            1 / rank. Its mean over queries is mAP.
    """

    faces: int
    own: Integer[np.ndarray, " n"]
    rank: Integer[np.ndarray, " n"]
    below: Integer[np.ndarray, " n"]
    tied: Integer[np.ndarray, " n"]
    average_precision: Float[np.ndarray, " n"]

    def recall(self, k: int) -> Float[np.ndarray, " n"]:
        """R@k per query: 1 when an own face is among the k best faces, else 0."""
        self._check(k)
        return (self.rank <= k).astype(np.float64)

    def matching(self, of: int = 2) -> Float[np.ndarray, " n"]:
        """1:N matching per query, by its best own face; chance is 1 / N for queries of one own face."""
        return win_probability(self.below, self.tied, self.faces - self.own, of)

    @property
    def median_rank(self) -> float:
        """Median over queries of the rank; chance is about half the gallery, for queries of one own face."""
        return float(np.median(self.rank))

    def chance_recall(self, k: int) -> Float[np.ndarray, " n"]:
        """R@k of a random order: 1 − C(faces − own, k) / C(faces, k), which is k / faces of one own face."""
        from scipy.special import gammaln

        self._check(k)
        others = self.faces - self.own
        left = np.maximum(others - k, 0)
        log = gammaln(others + 1) - gammaln(left + 1) + gammaln(self.faces - k + 1) - gammaln(self.faces + 1)
        return 1 - np.where(others >= k, np.exp(log), 0)

    @property
    def chance_precision(self) -> Float[np.ndarray, " n"]:
        """Average precision of a random order: [H + (own − 1)(faces − H) / (faces − 1)] / faces, H = Σ 1/i."""
        harmonic = (1 / np.arange(1, self.faces + 1)).sum()
        return (harmonic + (self.own - 1) * (self.faces - harmonic) / max(self.faces - 1, 1)) / self.faces

    def _check(self, k: int) -> None:
        if not 1 <= k <= self.faces:
            raise InputError(f"R@{k} of a gallery of {self.faces}: expected k between 1 and {self.faces}")


def search(
    query: Float[Tensor, "n dim"],
    person: Shaped[np.ndarray, " persons"],
    gallery: Float[Tensor, "m width"],
    gallery_person: Shaped[np.ndarray, " faces"],
    device: str = "cpu",
) -> Search:
    """Meet every query with every face of the gallery, by cosine.

    Ties count against us, and a difference below 1e-6 is a tie: the same faces in another place of a block differ by
    rounding, which shall not help a constant prediction. An undetected face of a query (a zero vector) ties with
    all and comes last.

    Args:
        query: predicted identities, unit or zero, any float type; may lie in a memory-mapped file, as may ``gallery``.
        person: whose voice each query is.
        gallery: the faces, unit or zero; several may be of one person. One pass is made over it.
        gallery_person: whose face each is.
        device: where blocks are multiplied, "cpu" or "cuda"; it holds the queries and one block of the gallery.
    Raises:
        InputError: a query's person is not in the gallery; lengths or widths do not fit; a vector is NaN or is neither
            of norm 1 nor zero.

    Example:
        >>> found = search(torch.eye(3), np.arange(3), torch.eye(3)[[0, 0, 2, 1]], np.array([0, 1, 2, 2]))
        >>> found.rank.tolist(), found.own.tolist()
        ([2, 4, 1], [1, 1, 2])
    """
    if len(query) != len(person) or len(gallery) != len(gallery_person) or query.shape[1] != gallery.shape[1]:
        raise InputError(
            f"queries {tuple(query.shape)} of {len(person)} persons, gallery {tuple(gallery.shape)} of "
            f"{len(gallery_person)}: expected a person to each row, and rows of one width"
        )
    order, start, own = _own_faces(person, gallery_person)
    n, most = len(query), int(own.max())
    queries = _checked(query.to(device), "query", 0)

    # the scores of each query's own faces, best first; thresholds that do not exist are never undercut
    threshold = torch.full((n, most), -torch.inf, device=device)
    for place in range(most):
        has = np.flatnonzero(own > place)
        theirs = gallery[torch.from_numpy(order[start[has] + place])].to(queries)
        threshold[has, place] = (queries[has] * theirs).sum(dim=1)
    threshold = threshold.sort(dim=1, descending=True).values

    below = torch.zeros((n, most), dtype=torch.int64, device=device)
    above = torch.zeros(n, dtype=torch.int64, device=device)
    for first in range(0, m := len(gallery), FACES):
        block = _checked(gallery[first : first + FACES].to(device), "gallery", first)
        for begin in range(0, n, QUERIES):
            part = slice(begin, begin + QUERIES)
            scores = queries[part] @ block.T
            for place in range(most):
                below[part, place] += torch.count_nonzero(scores < threshold[part, place, None] - TIE, dim=1)
            above[part] += torch.count_nonzero(scores > threshold[part, :1] + TIE, dim=1)
    return _summary(m, own, threshold.cpu().numpy(), below.cpu().numpy(), above.cpu().numpy())


def _summary(faces: int, own: np.ndarray, threshold: np.ndarray, below: np.ndarray, above: np.ndarray) -> Search:
    exists = np.arange(threshold.shape[1]) < own[:, None]
    # own faces that are below a threshold themselves are no rivals
    own_below = np.stack([((threshold < at[:, None] - TIE) & exists).sum(axis=1) for at in threshold.T], axis=1)
    rivals = faces - own
    # clipped, since own faces at the very edge of a tie may be rounded to either side of it
    rivals_below = np.clip(below - own_below, 0, rivals[:, None])
    not_below = rivals[:, None] - rivals_below
    own_so_far = np.arange(1, threshold.shape[1] + 1)
    precision = np.where(exists, own_so_far / (own_so_far + not_below), 0).sum(axis=1) / own
    return Search(
        faces=faces,
        own=own,
        rank=not_below[:, 0] + 1,
        below=rivals_below[:, 0],
        tied=np.maximum(not_below[:, 0] - above, 0),
        average_precision=precision,
    )


def _own_faces(
    person: np.ndarray, gallery_person: np.ndarray
) -> tuple[Integer[np.ndarray, " m"], Integer[np.ndarray, " n"], Integer[np.ndarray, " n"]]:
    # rows order[start : start + own] of the gallery are those of the query's person
    order = np.argsort(gallery_person, kind="stable")
    owners = gallery_person[order]
    start, end = (np.searchsorted(owners, person, side=side) for side in ("left", "right"))
    if not len(person):
        raise InputError("no queries: expected at least one")
    if (missing := end == start).any():
        i = missing.argmax()
        raise InputError(
            f"query {i}: person {person[i]} has no face in the gallery; leave such persons out, and count them"
        )
    return order, start, end - start


def _checked(rows: torch.Tensor, what: str, first: int) -> torch.Tensor:
    rows = rows.float()
    norm = rows.norm(dim=1)
    bad = ~(((norm - 1).abs() < 1e-3) | (norm == 0))
    if bad.any():
        at = int(bad.int().argmax())
        raise InputError(f"{what} row {first + at} has norm {norm[at]:.4g}; expected 1, or 0 for an undetected face")
    return rows
