"""A person, photograph or recording in two splits is refused, and persons whom a scorer knows are warned of."""

import pytest
import torch

from v2f_core.errors import InputError
from v2f_core.evaluation.leaks import check_splits
from v2f_core.training.pairs import Pairs


def pairs(names, seed):
    g, n = torch.Generator().manual_seed(seed), len(names)
    starts = torch.arange(n + 1)
    faces = torch.nn.functional.normalize(torch.randn(n, 16, generator=g), dim=1)
    return Pairs(names, ["f", "m"] * (n // 2), torch.randn(n, 8, generator=g), starts, faces, starts)


def test_splits_that_share_somebody_are_refused():
    training, test = pairs(list("abcdef"), 0), pairs(list("uvwxyz"), 1)
    assert check_splits(training, test, {}) == []
    with pytest.raises(InputError, match="u and u: the same name"):
        check_splits(Pairs(**{**training.__dict__, "persons": list("abcdeu")}), test, {})
    training.face[2] = test.face[3]
    with pytest.raises(InputError, match="x and c: the same photograph"):
        check_splits(training, test, {})


def test_persons_whom_a_scorer_knows_are_warned_of(tmp_path):
    training, test = pairs(list("abcdef"), 0), pairs(list("uvwxyz"), 1)
    with pytest.warns(UserWarning, match="not known"):
        notes = check_splits(training, test, {"judge": tmp_path})
    assert len(notes) == 1
    assert check_splits(training, test, {"judge": tmp_path}, all_known=True) == []
    (tmp_path / "training_persons.txt").write_text("zoe\nw\n")
    with pytest.warns(UserWarning, match="judge was trained on 1 of the test persons: w"):
        check_splits(training, test, {"judge": tmp_path})
