"""Pairs of seen and of unseen persons, counted by hand; lists of trials as they are found in the wild."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from v2f_core.errors import InputError
from v2f_core.evaluation import trials


def names(n):
    return [f"person {i:03d}" for i in range(n)]


@given(st.integers(0, 1000), st.integers(1, 2))
def test_pairs_stay_on_their_side_and_in_their_stratum(seed, negatives):
    g = np.random.default_rng(seed)
    sex, training = g.choice(["f", "m"], 14), set(g.choice(names(14), 7, replace=False))
    for side, found in trials.cross_pairs(names(14), training, sex.tolist(), negatives, seed).items():
        here = {i for i, name in enumerate(names(14)) if (name in training) == (side == trials.SEEN)}
        assert here == {*found.voice.tolist(), *(names(14).index(name) for name in found.left_out)}
        assert set(found.face.tolist()) <= here
        assert (sex[found.voice] == sex[found.face]).all()
        assert ((found.voice == found.face) == found.same).all()
        assert (~found.same).sum() == negatives * found.same.sum()
        assert len({*zip(found.voice.tolist(), found.face.tolist(), strict=True)}) == len(found.voice)
        for i in here:
            rivals = sum(sex[j] == sex[i] for j in here) - 1
            assert (names(14)[i] in found.left_out) == (rivals < negatives)


def test_the_same_seed_gives_the_same_pairs():
    a, b, other = (trials.cross_pairs(names(30), [], seed=seed)[trials.UNSEEN].face.tolist() for seed in (1, 1, 2))
    assert a == b != other


# --- lists of trials

VECTORS = {"a": np.array([1.0, 0]), "b": np.array([0.6, 0.8]), "c": np.array([0.0, 1]), "lost": np.zeros(2)}


def written(folder, text, name="list.txt"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_voxcelebs_form_and_csv_say_the_same(tmp_path):
    plain = trials.read_trials(written(tmp_path, "1 a b\n\n0  a\tc\n"))
    table = trials.read_trials(written(tmp_path, "\ufeffsecond, Label,first,note\nb,1,a,x\nc,0,a,\n", "list.CSV"))
    for found in (plain, table):
        assert (found.same.tolist(), [*found.first], [*found.second]) == ([True, False], ["a", "a"], ["b", "c"])


def test_a_csv_may_have_commas_and_spaces_in_its_names(tmp_path):
    found = trials.read_trials(written(tmp_path, 'label,first,second\n1,"a, b.wav",c d.wav\n', "x.csv"))
    assert (found.first, found.second) == (("a, b.wav",), ("c d.wav",))


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("1 a b\n2 a b\n", "x.txt", r"x.txt, line 2: '2 a b'; expected 0 or 1 and two files"),
        ("1 a b\n\n1 a\n", "x.txt", "line 3: '1 a'"),
        ("1 a b c\n", "x.txt", "line 1"),
        ("a b 1\n", "x.txt", "line 1"),
        ("label,first,second\n1,a,\n", "x.csv", "line 2"),
        ("label,first,second\n1,a\n", "x.csv", "line 2: '1 a'"),
        ("label,first\n1,a\n", "x.csv", "line 1: no column 'second'"),
        ("", "x.csv", "no column 'label'"),
        ("\n\n", "x.txt", "no trials"),
        ("label,first,second\n", "x.csv", "no trials"),
    ],
)
def test_a_bad_line_is_named(tmp_path, text, name, message):
    with pytest.raises(InputError, match=message):
        trials.read_trials(written(tmp_path, text, name))


def test_what_is_no_text_is_refused(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "x.txt", tmp_path / "absent.txt"):
        with pytest.raises(InputError, match="cannot be read"):
            trials.read_trials(path)


def test_scores_are_cosines_and_a_lost_face_scores_0():
    found = trials.Trials(np.array([True, False, True]), ["a", "b", "a"], ["b", "c", "lost"]).score(VECTORS)
    assert found.same.tolist() == pytest.approx([0.6, 0])
    assert found.different.tolist() == pytest.approx([0.8])


def test_trials_without_a_vector_are_left_out_named_and_limited():
    some = trials.Trials(np.array([True] * 39 + [False]), ["a"] * 40, ["b"] * 39 + ["nowhere"])
    found = some.score(VECTORS)
    assert (len(found.same), len(found.different), found.left_out) == (39, 0, ("nowhere",))
    with pytest.raises(InputError, match=r"1 of 40 trials lack a vector \(nowhere, …\), more than 1%"):
        some.score(VECTORS, most_missing=0.01)
