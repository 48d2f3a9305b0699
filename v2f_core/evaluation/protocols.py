"""Who is sought among whom: the galleries of the field's protocols, and who falls out of them.

A protocol is made before any score is looked at. Rows are the test persons' places in a score matrix, in their usual
order (by name). Nobody is dropped in silence: persons and strata that cannot take part are in ``left_out`` and
``empty``. A score from a protocol means nothing without the size of its galleries, which ``table`` gives with chance.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from v2f_core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


class Gallery(NamedTuple):
    """A name, and the rows of the persons in it; each of them is also a query. Chance of R@k is k / size."""

    name: str
    members: Int[np.ndarray, " size"]


class Answer(NamedTuple):
    """A measure under a protocol, ready for ``bootstrap(values, groups=groups)``, which lets galleries count alike.

    Attributes:
        values: one a person, gallery after gallery.
        rows: whose each is.
        groups: the gallery's name.
    """

    values: Float[np.ndarray, " n"]
    rows: Int[np.ndarray, " n"]
    groups: Shaped[np.ndarray, " n"]


@dataclass(frozen=True)
class Protocol:
    """Galleries that share no person.

    Attributes:
        name: of the protocol, for tables.
        galleries: at least one, each of two persons or more.
        left_out: person → why they are in no gallery.
        empty: strata that exist and in which there is nobody.
    """

    name: str
    galleries: tuple[Gallery, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    empty: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.galleries:
            raise InputError(f"protocol {self.name!r}: no gallery of two persons or more; {_tell(self.left_out)}")

    def answer(
        self, measure: Callable[[Float[np.ndarray, "m m"]], Float[np.ndarray, " m"]], scores: Float[np.ndarray, "n n"]
    ) -> Answer:
        """The measure per person, each against their own gallery.

        Example:
            >>> from v2f_core.evaluation.metrics import matching
            >>> scores = np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]])  # hears sex alone
            >>> same_sex = stratified("same sex", list("abcd"), list("ffmm"))
            >>> everybody(list("abcd")).answer(matching, scores).values.mean().round(3)
            np.float64(0.833)
            >>> same_sex.answer(matching, scores).values.mean()
            np.float64(0.5)
        """
        values = [measure(scores[np.ix_(g.members, g.members)]) for g in self.galleries]
        names = np.repeat([g.name for g in self.galleries], [len(g.members) for g in self.galleries])
        return Answer(np.concatenate(values), np.concatenate([g.members for g in self.galleries]), names)

    def chance(self, k: int) -> float:
        """R@k of a random order, the mean over galleries of k / size (at most 1)."""
        return float(np.mean([min(k / len(g.members), 1) for g in self.galleries]))

    def table(self) -> pd.DataFrame:
        """One row a gallery: protocol, gallery, persons, chance of R@1, R@5, R@10, how many are left out or empty."""
        import pandas as pd

        counts = {"left out": len(self.left_out), "empty strata": len(self.empty)}
        rows = [
            {"protocol": self.name, "gallery": g.name, "persons": len(g.members)}
            | {f"chance of R@{k}": min(k / len(g.members), 1) for k in (1, 5, 10)}
            | counts
            for g in self.galleries
        ]
        return pd.DataFrame(rows)


def everybody(persons: Sequence[str], left_out: Mapping[str, str] | None = None) -> Protocol:
    """All test persons in one gallery, as the paper has it (378 of HQ-VoxCeleb: chance of R@10 is 2.6 %).

    Args:
        persons: names; person i is row i.
        left_out: person → why they have no row; ``Pairs.left_out``, for instance.
    """
    return Protocol("all", _galleries({"all": np.arange(len(persons))}, 2), left_out or {})


def sf2f(
    persons: Sequence[str], galleries: int = 3, size: int = 100, left_out: Mapping[str, str] | None = None
) -> Protocol:
    """SF2F's protocol: the list of test persons cut at 100, 200 and 300; chance of R@10 is 10 %. The rest are left out.

    (Its published code has a gallery of each person's *mean* identity over all photos; ours holds one photo, unless
    the scores were made with ``Pairs.centroids``.)

    Raises:
        InputError: there are not so many persons; says what is possible.

    Example:
        >>> sf2f([f"person {i}" for i in range(40)])
        Traceback (most recent call last):
        v2f_core.errors.InputError: 3 galleries of 100 need 300 persons, there are 40; possible: 0 of 100, or 3 of 13
    """
    need = galleries * size
    if min(galleries, size - 1) < 1 or need > len(persons):
        raise InputError(
            f"{galleries} galleries of {size} need {need} persons, there are {len(persons)}; "
            f"possible: {len(persons) // max(size, 1)} of {size}, or {galleries} of {len(persons) // max(galleries, 1)}"
        )
    cuts = {f"{i * size + 1}-{(i + 1) * size}": np.arange(i * size, (i + 1) * size) for i in range(galleries)}
    rest = dict.fromkeys(persons[need:], f"beyond the first {need} persons")
    return Protocol(f"SF2F {galleries}x{size}", _galleries(cuts, 2), {**(left_out or {}), **rest})


def stratified(
    name: str,
    persons: Sequence[str],
    labels: Sequence[str | None],
    levels: Sequence[str] | None = None,
    least: int = 2,
    left_out: Mapping[str, str] | None = None,
) -> Protocol:
    """A gallery of each stratum: same sex, or same sex and age band (labels such as "f, 30-45"; see :func:`crossed`).

    Args:
        name: "same sex".
        persons: names; person i is row i.
        labels: the stratum of each, None where it is not known.
        levels: all strata that there could be, so that empty ones are counted.
        least: persons in a stratum smaller than this are left out (R@10 needs 10; to be found among oneself is no art).
        left_out: person → why they have no row.
    Raises:
        InputError: not a label a person, a label that is no level, or no stratum of ``least`` persons.

    Example:
        >>> protocol = stratified("same sex", ["Ada", "Bea", "Cy"], ["f", "f", "m"], levels=["f", "m", "x"])
        >>> [g.name for g in protocol.galleries], protocol.left_out, protocol.empty
        (['f'], {'Cy': "1 in stratum 'm': fewer than 2"}, ('x',))
    """
    if len(labels) != len(persons):
        raise InputError(f"{len(labels)} labels of {len(persons)} persons: expected one each")
    known = sorted({label for label in labels if label is not None})
    levels = list(known if levels is None else levels)
    if strange := set(known) - set(levels):
        raise InputError(f"{name}: label {min(strange)!r} is none of {', '.join(levels)}")
    members = {level: np.array([i for i, label in enumerate(labels) if label == level], int) for level in levels}
    out = {**(left_out or {}), **{p: "no label" for p, label in zip(persons, labels, strict=True) if label is None}}
    for level, rows in members.items():
        if len(rows) < least:
            out |= {persons[i]: f"{len(rows)} in stratum {level!r}: fewer than {least}" for i in rows}
    empty = tuple(level for level, rows in members.items() if not len(rows))
    return Protocol(name, _galleries(members, least), out, empty)


def crossed(*labels: Sequence[str | None]) -> list[str | None]:
    """Labels of two or more kinds put together, person by person; None where one of them is not known.

    Example:
        >>> crossed(["f", "m", None], ["30-45", "45-60", "30-45"])
        ['f, 30-45', 'm, 45-60', None]
    """
    rows = zip(*labels, strict=True)
    return [None if None in row else ", ".join(str(label) for label in row) for row in rows]


def check_disjoint(splits: Mapping[str, Collection[str]]) -> None:
    """Make sure that no person is in two splits. To be called before any number is computed.

    Raises:
        InputError: naming the persons who are.

    Example:
        >>> check_disjoint({"train": ["Ada", "Bea"], "test": ["Bea"]})
        Traceback (most recent call last):
        v2f_core.errors.InputError: 1 person in both train and test: Bea; take them out of one
    """
    for (one, persons), (other, others) in combinations(splits.items(), 2):
        if both := sorted(set(persons) & set(others)):
            raise InputError(f"{_count(both)} in both {one} and {other}: {_some(both)}; take them out of one")


def check_scorer(scorer: str, known: Collection[str] | None, test: Collection[str]) -> list[str]:
    """The test persons whom a scorer (a face recogniser, a judge) was itself trained on, with a warning if there are.

    A scorer knows its own training persons too well: likeness to them is overrated for every system alike, so that it
    is a warning and no error. It also warns when nobody can say who they were (``known`` is None).

    Example:
        >>> check_scorer("judge", ["Zoe"], ["Ada", "Bea"])
        []
    """
    if known is None:
        warnings.warn(f"{scorer}: its training persons are not known; test persons may be among them", stacklevel=2)
        return []
    if both := sorted(set(known) & set(test)):
        warnings.warn(f"{scorer} was trained on {_count(both)} of the test: {_some(both)}", stacklevel=2)
    return both


def _galleries(members: Mapping[str, np.ndarray], least: int) -> tuple[Gallery, ...]:
    return tuple(Gallery(name, rows) for name, rows in members.items() if len(rows) >= max(least, 2))


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} person{'s' * (len(names) > 1)}"


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def _tell(left_out: Mapping[str, str]) -> str:
    return f"left out: {_some([f'{who} ({why})' for who, why in left_out.items()])}" if left_out else "nobody is there"
