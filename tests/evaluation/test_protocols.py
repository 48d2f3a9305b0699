"""Who is in which gallery, counted by hand; who falls out; and that no person is on both sides."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from v2f_core.errors import InputError
from v2f_core.evaluation import metrics
from v2f_core.evaluation import protocols as p
from v2f_core.evaluation.intervals import bootstrap


def names(n):
    return [f"person {i:03d}" for i in range(n)]


labels = st.lists(st.sampled_from(["f, 18-30", "f, 30-45", "m, 18-30", "m, 30-45", None]), min_size=4, max_size=30)


def test_sf2f_cuts_the_list_at_100_200_300():
    protocol = p.sf2f(names(378))
    assert [g.members.tolist() for g in protocol.galleries] == [[*range(100)], [*range(100, 200)], [*range(200, 300)]]
    assert list(protocol.left_out) == names(378)[300:]
    assert protocol.chance(10) == pytest.approx(0.1)
    assert p.everybody(names(378)).chance(10) == pytest.approx(0.026, abs=0.0005)


@pytest.mark.parametrize(
    ("persons", "galleries", "size", "possible"),
    [(40, 3, 100, "0 of 100, or 3 of 13"), (200, 3, 100, "2 of 100, or 3 of 66"), (5, 0, 2, "2 of 2"), (5, 2, 1, "1")],
)
def test_an_impossible_gallery_says_what_is_possible(persons, galleries, size, possible):
    with pytest.raises(InputError, match=possible):
        p.sf2f(names(persons), galleries, size)


@given(labels, st.integers(2, 4))
def test_everybody_is_in_exactly_one_gallery_or_left_out_for_a_reason(strata, least):
    levels = ["f, 18-30", "f, 30-45", "m, 18-30", "m, 30-45", "m, 45-60"]
    persons = names(len(strata))
    if max(strata.count(level) for level in levels) < least:
        with pytest.raises(InputError, match="no gallery"):
            p.stratified("same sex and age", persons, strata, levels, least)
        return
    protocol = p.stratified("same sex and age", persons, strata, levels, least)
    inside = [persons[i] for g in protocol.galleries for i in g.members]
    assert sorted([*inside, *protocol.left_out]) == persons
    assert all(len(g.members) >= least and {strata[i] for i in g.members} == {g.name} for g in protocol.galleries)
    assert set(protocol.empty) == {level for level in levels if level not in strata}


@given(st.integers(0, 1000))
def test_an_answer_is_the_measure_on_each_gallery_alone(seed):
    g = np.random.default_rng(seed)
    sex, scores = g.permutation(list("fffmmmm")), g.standard_normal((7, 7))
    found = p.stratified("same sex", names(7), sex.tolist()).answer(metrics.matching, scores)
    back = np.empty(7)
    back[found.rows] = found.values
    assert back.tolist() == metrics.within(metrics.matching, scores, sex).tolist()
    assert (sex[found.rows] == found.groups).all()


def test_galleries_count_alike_in_the_interval():
    scores = np.eye(12)
    scores[:10, :10] = 1  # the ten women cannot be told apart, the two men can
    found = p.stratified("same sex", names(12), list("ffffffffffmm")).answer(metrics.matching, scores)
    assert bootstrap(found.values, groups=found.groups).value == pytest.approx((0.5 + 1) / 2)


def test_chance_and_table_tell_sizes_and_who_is_missing():
    strata = p.crossed(list("ffffmm"), ["young"] * 4 + ["old", None])
    protocol = p.stratified(
        "sex and age", names(6), strata, ["f, young", "m, old", "m, young"], left_out={"X": "no voice"}
    )
    assert protocol.left_out == {
        "X": "no voice",
        "person 004": "1 in stratum 'm, old': fewer than 2",
        "person 005": "no label",
    }
    assert protocol.empty == ("m, young",)
    (row,) = protocol.table().to_dict("records")
    assert (row["persons"], row["chance of R@1"], row["chance of R@10"]) == (4, 0.25, 1)
    assert (row["left out"], row["empty strata"]) == (3, 1)


@pytest.mark.parametrize(
    ("strata", "levels", "message"),
    [
        (["f"], None, "1 labels of 3"),
        (["f", "f", "q"], ["f", "m"], "'q' is none of f, m"),
        (list("abc"), None, "1 in stratum"),
    ],
)
def test_strata_that_make_no_gallery_are_refused(strata, levels, message):
    with pytest.raises(InputError, match=message):
        p.stratified("s", names(3), strata, levels)


# --- nobody on both sides


def test_persons_in_two_splits_are_named():
    p.check_disjoint({"train": names(3), "val": [], "test": ["Zoe"]})
    with pytest.raises(InputError, match=r"7 persons in both train and test: person 000, .*person 004, …; take"):
        p.check_disjoint({"train": names(9), "val": ["Zoe"], "test": names(7)})


def test_a_scorer_that_knows_test_persons_is_warned_of():
    assert p.check_scorer("judge", ["Zoe"], names(3)) == []
    with pytest.warns(UserWarning, match="judge was trained on 1 person of the test: person 001"):
        assert p.check_scorer("judge", ["person 001"], names(3)) == ["person 001"]
    with pytest.warns(UserWarning, match="not known"):
        assert p.check_scorer("ArcFace", None, names(3)) == []
