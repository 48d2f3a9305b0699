"""Leaks: shuffled voices must land on chance, and no person may be in both splits.

When everybody's voice is exchanged for another person's, a system that only listens is at chance: once the speaker's
own face is taken out of the gallery, the 1:2 matching of a wrong person's face averages *exactly* 1/2 over
derangements, and R@K averages K / (n − 1). A system that also reads names, or the order of files, differs from that.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from v2f_core.errors import InputError
from v2f_core.evaluation.controls import DERANGEMENTS, SHUFFLED, derangements
from v2f_core.evaluation.intervals import holm
from v2f_core.evaluation.metrics import score_matrix
from v2f_core.evaluation.protocols import ALL, WITHIN
from v2f_core.training.pairs import Pairs

# A system: pooled voices and the persons' names, which an honest system ignores → identities.
Predict = Callable[[Float[Tensor, "n speaker"], Sequence[str]], Float[Tensor, "n dim"]]
REFUSE_BELOW = 0.001  # Holm-corrected p
# cosines of one and the same file: a photograph may be compressed again, a recording is embedded in another batch
SAME_PICTURE, SAME_RECORDING = 0.9999, 0.999999


class Control(NamedTuple):
    """One measure of one control, over all derangements."""

    name: str
    gallery: str  # "all" or "within sex"
    measure: str  # "1:2 matching" or "R@K"
    value: float  # mean over derangements
    deviation: float  # over derangements
    chance: float  # the expected mean
    p: float  # of a two-sided t-test against chance
    corrected: float = float("nan")  # p after Holm's correction over all controls of a run


def shuffled_measures(scores: Float[np.ndarray, "n n"], order: Int[np.ndarray, " n"], k: int) -> tuple[float, float]:
    """Mean 1:2 matching and R@k of n persons under a shuffle; the face of the person heard is left out.

    Ties count their expected share, so that a system with one answer for everybody is at chance.

    Args:
        scores: row i holds the scores of person i's answer, given after the shuffle, with everybody's face.
        order: row i was answered with the voice of person ``order[i]``.
        k: of R@k; its chance is k / (n − 1).

    Example:
        >>> matching, recall = shuffled_measures(np.zeros((5, 5)), np.roll(np.arange(5), 1), k=1)
        >>> matching, round(recall, 3)
        (0.5, 0.25)
    """
    n = len(scores)
    truth = np.diag(scores)[:, None]
    rival = np.ones((n, n), bool)
    rival[np.arange(n), np.arange(n)] = rival[np.arange(n), order] = False
    above, tied = ((scores > truth) & rival).sum(axis=1), ((scores == truth) & rival).sum(axis=1)
    matching = 1 - (above + tied / 2) / (n - 2)
    recall = np.clip((k - above) / (tied + 1), 0, 1)
    return float(matching.mean()), float(recall.mean())


def control(
    name: str,
    answer: Callable[[Int[np.ndarray, " n"]], Float[np.ndarray, "n dim"]],
    gallery: Float[np.ndarray, "n dim"],
    sexes: Shaped[np.ndarray, " n"],
    k: int = 10,
    times: int = DERANGEMENTS,
    seed: int = 0,
) -> list[Control]:
    """A control over all and within sex: matching and R@k under many derangements, tested against chance.

    Args:
        answer: an order → identities; row i answers for person i with the voice (or face) of person order[i].
        gallery, sexes: one identity, and "f" or "m", a person.
        k: of R@k; the largest possible where a gallery is smaller.
        times, seed: of the derangements of each gallery.
    Raises:
        InputError: fewer than four persons of a sex.
    """
    from scipy.stats import ttest_1samp

    controls = []
    fewest = min(int((sexes == sex).sum()) for sex in np.unique(sexes))
    if fewest < 4:
        raise InputError(f"{fewest} persons of a sex: shuffled controls need at least 4; evaluate more persons")
    for where, strata in ((ALL, None), (WITHIN, sexes)):
        labels = np.zeros(len(sexes)) if strata is None else strata
        groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        top = min(k, min(map(len, groups)) - 2)
        values = []
        for order in derangements(strata, len(sexes), times, seed):
            scores = score_matrix(answer(order), gallery)
            parts = [shuffled_measures(scores[np.ix_(g, g)], np.searchsorted(g, order[g]), top) for g in groups]
            values.append(np.mean(parts, axis=0))
        chances = {"1:2 matching": 0.5, f"R@{top}": float(np.mean([top / (len(g) - 1) for g in groups]))}
        for (measure, chance), column in zip(chances.items(), np.array(values).T, strict=True):
            constant = np.ptp(column) < 1e-12  # equal under all derangements: a t-test is not defined
            p = float(np.isclose(column[0], chance)) if constant else float(ttest_1samp(column, chance).pvalue)
            controls.append(Control(name, where, measure, float(column.mean()), float(column.std()), chance, p))
    return controls


def shuffled_voice(predict: Predict, test: Pairs, times: int = DERANGEMENTS, seed: int = 0) -> list[Control]:
    """The control "shuffled voice" of a system; see :func:`control`."""
    voices, gallery = test.pooled_voices(), test.gallery().numpy()

    def answer(order: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n dim"]:
        with torch.no_grad():
            return predict(voices[torch.from_numpy(order)], test.persons).numpy()

    return control(SHUFFLED, answer, gallery, np.array(test.sexes), times=times, seed=seed)


def judge_controls(
    controls: Sequence[Control], predict: Predict | None = None, test: Pairs | None = None
) -> list[Control]:
    """The controls with Holm-corrected p; a run with a control off chance is refused.

    Args:
        controls: all controls of one run.
        predict, test: the system and its persons, to name the suspected leak.
    Raises:
        InputError: a control is off chance at p < 0.001.

    Example:
        >>> judge_controls([Control("random real face", "all", "1:2 matching", 0.501, 0.02, 0.5, 0.5)])[0].corrected
        0.5
    """
    adjusted = holm(np.array([c.p for c in controls]))
    judged = [c._replace(corrected=float(p)) for c, p in zip(controls, adjusted, strict=True)]
    if off := [c for c in judged if c.corrected < REFUSE_BELOW]:
        worst = max(off, key=lambda c: abs(c.value - c.chance))
        suspect = "the gallery: the same photograph under several persons, or rows in another order than the queries"
        if worst.name == SHUFFLED and predict is not None and test is not None:
            suspect = _suspect(predict, test)
        raise InputError(
            f"{worst.name}, {worst.gallery}: {worst.measure} is {worst.value:.3f} where chance is {worst.chance:.3f} "
            f"(Holm-corrected p = {worst.corrected:.1e}). Suspected leak: {suspect}. No table is written; mend it first"
        )
    return judged


def _suspect(predict: Predict, test: Pairs) -> str:
    voices, n = test.pooled_voices(), len(test.persons)
    usual = predict(voices, test.persons)
    if not torch.allclose(usual, predict(voices, ["somebody"] * n), atol=1e-4):
        return "names or file names (the answers change when they are hidden)"
    back = torch.arange(n).flip(0)
    reversed_rows = predict(voices[back], [test.persons[i] for i in back.tolist()])[back]
    if not torch.allclose(usual, reversed_rows, atol=1e-4):
        return "the order of persons or files (the answers change when the rows are reversed)"
    return "neither names nor the order of rows explain the answers; look for stored answers"


# --- splits with a person in common


def contamination(training: Pairs, test: Pairs) -> list[tuple[str, str, str]]:
    """(test person, other person, reason) for each name, photograph or recording that is in both splits, and for each
    photograph that two test persons share.

    Raises:
        InputError: the identities or voices of the splits differ in width.
    """
    shared = [(name, name, "the same name") for name in sorted(set(test.persons) & set(training.persons))]
    photos, sounds = (test.face_start, training.face_start), (test.voice_start, training.voice_start)
    for reason, same, ours, theirs, starts in (
        ("the same photograph", SAME_PICTURE, test.face[:], training.face[:], photos),
        ("the same recording", SAME_RECORDING, test.voice[:], training.voice[:], sounds),
    ):
        if ours.shape[1] != theirs.shape[1]:
            widths = f"{ours.shape[1]} and {theirs.shape[1]} wide"
            raise InputError(f"{reason}: embeddings are {widths}; expected one encoder for both splits")
        owners = [np.repeat(p.persons, s.diff().numpy()) for p, s in zip((test, training), starts, strict=True)]
        centre = theirs.mean(dim=0)  # speaker embeddings share most of their direction
        ours, theirs = F.normalize(ours - centre, dim=1), F.normalize(theirs - centre, dim=1)
        shared += [(str(owners[0][row]), str(owners[1][column]), reason) for row, column in twins(ours, theirs, same)]
    gallery = test.gallery()
    for row, column in (torch.triu(gallery @ gallery.T, 1) > SAME_PICTURE).nonzero().tolist():
        shared.append((test.persons[row], test.persons[column], "one photograph of two test persons"))
    return sorted(set(shared))


def twins(ours: Float[Tensor, "n dim"], theirs: Float[Tensor, "m dim"], same: float) -> Iterator[tuple[int, int]]:
    """Pairs of rows of unit vectors whose cosine is above ``same``, without a table of all pairs (10¹⁰ at full size).

    Example:
        >>> list(twins(torch.eye(3), torch.eye(3)[1:], 0.999))
        [(1, 0), (2, 1)]
    """
    # projected onto any direction, two vectors are at most as far apart as in space
    direction = F.normalize(torch.randn(ours.shape[1], generator=torch.Generator().manual_seed(0)), dim=0)
    place, order = (theirs @ direction).sort()
    reach, mine = (2 - 2 * same) ** 0.5 + 1e-6, ours @ direction
    low, high = torch.searchsorted(place, mine - reach), torch.searchsorted(place, mine + reach, right=True)
    for row, (start, stop) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        near = order[start:stop]
        yield from ((row, int(column)) for column in near[theirs[near] @ ours[row] > same])


def check_splits(training: Pairs, test: Pairs, scorers: Mapping[str, Path], all_known: bool = False) -> list[str]:
    """Refuse a test with persons of the training; warn of test persons whom a scorer was trained on.

    Likeness to a scorer's own training persons is overrated for every system alike.

    Args:
        scorers: name → folder; a file ``training_persons.txt`` in it lists the scorer's training persons, one a line.
        all_known: no scorer was trained on any person of the dataset (true of MiniVox by construction).
    Returns:
        the warnings as text; they are also issued.
    Raises:
        InputError: a person, photograph or recording is in both splits, or two test persons share a photograph.
    """
    if leaks := contamination(training, test):
        examples = "; ".join(f"{one} and {other}: {reason}" for one, other, reason in leaks[:3])
        raise InputError(f"split contamination, {len(leaks)} in all: {examples}; take them out of one split")
    notes = []
    for name, folder in scorers.items():
        path = folder / "training_persons.txt"
        if path.is_file():
            if met := sorted(set(path.read_text(encoding="utf-8").split("\n")) & set(test.persons)):
                names = ", ".join(met[:5]) + (", …" if len(met) > 5 else "")
                notes.append(f"{name} was trained on {len(met)} of the test persons: {names}")
        elif not all_known:
            notes.append(f"{name}: its training persons are not known; test persons may be among them")
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return notes
