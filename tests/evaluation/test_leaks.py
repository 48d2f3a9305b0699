"""Shuffled voices are at chance exactly, however good a system is; one that peeks is refused, with its leak named."""

import itertools

import numpy as np
import pytest
import torch

from v2f_core.errors import InputError
from v2f_core.evaluation.leaks import (
    check_splits,
    control,
    judge_controls,
    shuffled_measures,
    shuffled_voice,
    twins,
)
from v2f_core.identity.sphere import normalise
from v2f_core.training.pairs import Pairs

N, TIMES = 40, 60


def unit(n, dim=16, seed=0):
    return normalise(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)))


@pytest.fixture(scope="module")
def test_persons():
    faces = unit(N)
    starts = torch.arange(N + 1)
    # a voice tells its face, sex included: the mean of women's and men's faces differ
    faces = normalise(faces + 0.5 * (torch.arange(N) % 2 * 2 - 1)[:, None])
    voices = faces + 0.1 * torch.randn(N, 16, generator=torch.Generator().manual_seed(1))
    return Pairs([f"P{i:02d}" for i in range(N)], ["f", "m"] * (N // 2), voices, starts, faces, starts)


def listens(voices, persons):
    return normalise(voices)


def test_a_perfect_listener_is_at_chance_when_voices_are_shuffled(test_persons):
    found = judge_controls(shuffled_voice(listens, test_persons, TIMES))
    assert {c.gallery for c in found} == {"all", "within sex"}
    for c in found:
        assert c.value == pytest.approx(c.chance, abs=0.02)
        assert c.corrected >= c.p


def test_chance_is_exact_over_all_derangements():
    """All 9 derangements of 4 persons, any scores: 1:2 matching averages to 1/2, R@1 to 1/3."""
    scores = np.random.default_rng(0).normal(size=(4, 4))
    orders = [np.array(p) for p in itertools.permutations(range(4)) if all(i != j for i, j in enumerate(p))]
    assert len(orders) == 9
    found = np.mean([shuffled_measures(scores[order], order, k=1) for order in orders], axis=0)
    np.testing.assert_allclose(found, [1 / 2, 1 / 3], atol=1e-12)


def test_a_constant_answer_is_at_chance_not_below():
    matching, recall = shuffled_measures(np.ones((12, 12)), np.roll(np.arange(12), 1), k=3)
    assert matching == 0.5
    assert recall == pytest.approx(3 / 11)


def names_leak(test):
    truth = dict(zip(test.persons, test.gallery(), strict=True))
    return lambda voices, persons: torch.stack([truth.get(person, torch.eye(16)[0]) for person in persons])


def order_leak(test):
    return lambda voices, persons: normalise(voices + 2 * test.gallery())


@pytest.mark.parametrize(("leak", "named"), [(names_leak, "file names"), (order_leak, "order of persons or files")])
def test_a_planted_leak_is_refused_and_named(test_persons, leak, named):
    predict = leak(test_persons)
    with pytest.raises(InputError, match=named):
        judge_controls(shuffled_voice(predict, test_persons, TIMES), predict, test_persons)


def test_a_gallery_in_which_everybody_is_found_by_anybody_is_refused(test_persons):
    faces, sexes = test_persons.gallery().numpy(), np.array(test_persons.sexes)
    honest = control("random real face", lambda order: faces[order], faces, sexes, times=TIMES)
    judge_controls(honest)
    wrong = control("random real face", lambda order: faces, faces, sexes, times=TIMES)  # forgot to shuffle
    with pytest.raises(InputError, match="the gallery"):
        judge_controls(wrong)


def test_twins_are_found_among_many_as_by_comparing_all():
    ours, theirs = unit(60, seed=3), unit(500, seed=4)
    theirs[[7, 90, 91]] = torch.nn.functional.normalize(ours[[3, 20, 20]] + 1e-4 * unit(3, seed=5), dim=1)
    expected = [(i, j) for i, j in (ours @ theirs.T > 0.9999).nonzero().tolist()]
    assert sorted(twins(ours, theirs, 0.9999)) == expected == [(3, 7), (20, 90), (20, 91)]


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
