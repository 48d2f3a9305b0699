"""Leaks: no person, photograph or recording may be in both splits, and scorers should not know the test persons."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from v2f_core.errors import InputError
from v2f_core.training.pairs import Pairs

# cosines of one and the same file: a photograph may be compressed again, a recording is embedded in another batch
SAME_PICTURE, SAME_RECORDING = 0.9999, 0.999999
AT_ONCE = 256  # rows compared with the training's together: 1 GB for a million windows


def contamination(training: Pairs, test: Pairs) -> list[tuple[str, str, str]]:
    """(test person, other person, reason) for each name, photograph or recording in both splits, and for each
    photograph that two test persons share. Splits whose embeddings differ in width are refused.
    """
    shared = [(name, name, "the same name") for name in set(test.persons) & set(training.persons)]
    for what, kind, same in (("face", "photograph", SAME_PICTURE), ("voice", "recording", SAME_RECORDING)):
        ours, theirs = (getattr(pairs, what)[:] for pairs in (test, training))
        if ours.shape[1] != theirs.shape[1]:
            widths = f"{ours.shape[1]} and {theirs.shape[1]} wide"
            raise InputError(f"the same {kind}: embeddings are {widths}; expected one encoder for both splits")
        owners = [np.repeat(p.persons, getattr(p, f"{what}_start").diff().numpy()) for p in (test, training)]
        centre = theirs.mean(dim=0)  # speaker embeddings share most of their direction
        ours, theirs = normalize(ours - centre, dim=1), normalize(theirs - centre, dim=1)
        for start in range(0, len(ours), AT_ONCE):
            for row, column in (ours[start : start + AT_ONCE] @ theirs.T > same).nonzero().tolist():
                shared.append((str(owners[0][start + row]), str(owners[1][column]), f"the same {kind}"))
    gallery = test.gallery()
    for row, column in (torch.triu(gallery @ gallery.T, 1) > SAME_PICTURE).nonzero().tolist():
        shared.append((test.persons[row], test.persons[column], "one photograph of two test persons"))
    return sorted(set(shared))


def check_splits(training: Pairs, test: Pairs, scorers: Mapping[str, Path], all_known: bool = False) -> list[str]:
    """Refuse splits with :func:`contamination`; warn of test persons whom a scorer was trained on, and return that.

    ``training_persons.txt`` in a scorer's folder lists its training persons, one a line; with ``all_known`` no scorer
    was trained on any person of the dataset.
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
