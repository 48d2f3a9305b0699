"""Pairs that are to be told "same person" or "different": drawn from a split, or read from a list of trials."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from v2f_core.errors import InputError

SEEN, UNSEEN = "seen-heard", "unseen-unheard"
HEADER = ("label", "first", "second")


class CrossPairs(NamedTuple):
    """Voices and faces to be told "same" or "different", as many of each for every ``negatives``.

    Attributes:
        voice, face: rows of a score matrix; ``scores[voice, face]`` are the pairs' scores.
        same: whether they are of one person.
        left_out: persons who have nobody to be mistaken for.
    """

    voice: Int[np.ndarray, " pairs"]
    face: Int[np.ndarray, " pairs"]
    same: Bool[np.ndarray, " pairs"]
    left_out: tuple[str, ...]


def cross_pairs(
    persons: Sequence[str],
    training: Collection[str],
    strata: Sequence[str] | None = None,
    negatives: int = 1,
    seed: int = 0,
) -> dict[str, CrossPairs]:
    """Voice-face pairs of persons known from training ("seen-heard") and of all others ("unseen-unheard").

    After Nagrani et al. 2018 (Learnable PINs). Of each person there is the true pair, and ``negatives`` pairs of their
    voice with somebody else's face, of the same side and, when strata are given, the same stratum (sex): without that,
    half of the pairs are won by hearing the sex. The seen persons' clips and photos must be ones not trained on.

    Example:
        >>> pairs = cross_pairs(["Ada", "Bea", "Cy"], training={"Cy"})
        >>> {side: (len(found.same), found.left_out) for side, found in pairs.items()}
        {'seen-heard': (0, ('Cy',)), 'unseen-unheard': (4, ())}
    """
    generator = np.random.default_rng(seed)
    seen = np.array([name in set(training) for name in persons], bool)
    labels = np.array(["" for _ in persons] if strata is None else list(strata))
    found = {}
    for side, here in ((SEEN, seen), (UNSEEN, ~seen)):
        voice, face, same, alone = [], [], [], []
        for i in np.flatnonzero(here).tolist():
            others = np.flatnonzero(here & (labels == labels[i]))
            others = others[others != i]
            if len(others) < negatives:
                alone.append(persons[i])
                continue
            voice += [i] * (negatives + 1)
            face += [i, *generator.choice(others, negatives, replace=False)]
            same += [True] + [False] * negatives
        found[side] = CrossPairs(np.array(voice, int), np.array(face, int), np.array(same, bool), tuple(alone))
    return found


class Scored(NamedTuple):
    """Scores of a list of trials, as ``verification`` takes them.

    Attributes:
        same, different: cosines of trials of one person, and of two.
        left_out: files without a vector, each once; their trials are not scored.
    """

    same: Float[np.ndarray, " same"]
    different: Float[np.ndarray, " different"]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Trials:
    """A list of trials: whether the two files of each are of one person."""

    same: Bool[np.ndarray, " trials"]
    first: Sequence[str]
    second: Sequence[str]

    def score(self, vectors: Mapping[str, Float[np.ndarray, " dim"]], most_missing: float = 0.05) -> Scored:
        """Cosine of each trial's two vectors; an undetected face (a zero vector) scores 0.

        Args:
            vectors: unit vectors by the names that the list has, of voices and faces alike.
            most_missing: share of trials that may lack a vector.
        Raises:
            InputError: more trials than that lack one.

        Example:
            >>> trials = Trials(np.array([True, False]), ["a", "a"], ["b", "c"])
            >>> trials.score({"a": np.array([1.0, 0]), "b": np.array([1.0, 0]), "c": np.array([0.0, 1])})
            Scored(same=array([1.]), different=array([0.]), left_out=())
        """
        pairs = list(zip(self.first, self.second, strict=True))
        whole = np.array([a in vectors and b in vectors for a, b in pairs], bool)
        missing = sorted({name for pair in pairs for name in pair if name not in vectors})
        if (~whole).mean() > most_missing:
            raise InputError(
                f"{(~whole).sum()} of {len(pairs)} trials lack a vector ({missing[0]}, …), more than "
                f"{most_missing:.0%}; extract those files, or check that names start at the same folder"
            )
        cosine = np.array([vectors[a] @ vectors[b] for (a, b), w in zip(pairs, whole, strict=True) if w], np.float64)
        return Scored(cosine[self.same[whole]], cosine[~self.same[whole]], tuple(missing))


def read_trials(path: str | Path) -> Trials:
    """A list of trials: VoxCeleb's ("1 id1/a.wav id1/b.wav" a line), or a CSV with the columns label, first, second.

    A label is 1 (one person) or 0 (two). Blank lines are passed over; every other line must be whole.

    Raises:
        InputError: the file cannot be read, has no trial, or a line is bad (named with its number).

    Example:
        >>> import tempfile
        >>> mine = Path(tempfile.mkdtemp()) / "veri_test.txt"
        >>> _ = mine.write_text("1 id1/a.wav id1/b.wav\\n0 id1/a.wav id2/c.wav\\n")
        >>> read_trials(mine).same.tolist()
        [True, False]
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); expected a list of trials in UTF-8") from error
    is_csv = path.suffix.lower() == ".csv"
    rows = list(csv.reader(text.splitlines())) if is_csv else [line.split() for line in text.splitlines()]
    columns = [0, 1, 2]
    if is_csv:
        header = [name.strip().lower() for name in rows[0]] if rows else []
        if absent := [name for name in HEADER if name not in header]:
            raise InputError(f"{path}, line 1: no column {absent[0]!r}; expected {', '.join(HEADER)}")
        columns = [header.index(name) for name in HEADER]
    trials = []
    for number, row in enumerate(rows[is_csv:], 1 + is_csv):
        if not any(cell.strip() for cell in row):
            continue
        fields = [row[c].strip() for c in columns] if len(row) > max(columns) and (is_csv or len(row) == 3) else []
        if not all(fields) or not fields or fields[0] not in ("0", "1"):
            raise InputError(f"{path}, line {number}: {' '.join(row)!r}; expected 0 or 1 and two files")
        trials.append(fields)
    if not trials:
        raise InputError(f"{path}: no trials in it; expected lines of 0 or 1 and two files")
    labels, first, second = zip(*trials, strict=True)
    return Trials(np.array([label == "1" for label in labels]), first, second)
