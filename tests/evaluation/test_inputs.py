"""What an evaluation reads: photographs in order, labels, splits that share nobody."""

import numpy as np
import pandas as pd
import pytest
import torch

from v2f_core.data.manifest import COLUMNS, Manifest
from v2f_core.errors import InputError
from v2f_core.evaluation.inputs import (
    AGE,
    TONE,
    attributes,
    check_splits,
    first_of_each_sex,
    photographs,
    read_labels,
    truth_of,
)
from v2f_core.training.embeddings import Embeddings
from v2f_core.training.pairs import Pairs, pair_up


def pairs(names, seed):
    g, n = torch.Generator().manual_seed(seed), len(names)
    starts = torch.arange(n + 1)
    faces = torch.nn.functional.normalize(torch.randn(n, 16, generator=g), dim=1)
    return Pairs(names, ["f", "m"] * (n // 2), torch.randn(n, 8, generator=g), starts, faces, starts)


def test_photographs_follow_the_identities_and_skip_what_was_skipped(tmp_path):
    rows = [
        (who, sex, "test", "face", "", f"{who}/{i}.png") for who, sex in (("Bea", "f"), ("Ada", "f")) for i in (0, 1)
    ]
    rows += [(who, "f", "test", "voice", "v", f"{who}.wav") for who in ("Ada", "Bea")]
    manifest = Manifest(tmp_path, pd.DataFrame(rows, columns=COLUMNS))
    faces = Embeddings(torch.eye(3), ["Ada/1.png", "Bea/0.png", "Bea/1.png"], [("Ada/0.png", "dark")], {})
    voices = Embeddings(torch.eye(2), ["Ada.wav", "Bea.wav"], [], {})
    test = pair_up(manifest, voices, faces, "test")
    found = photographs(manifest, faces, test)
    assert found == [[tmp_path / "Ada/1.png"], [tmp_path / "Bea/0.png", tmp_path / "Bea/1.png"]]
    for person, paths in enumerate(found):  # path k is identity k
        part = test.face[test.face_start[person] : test.face_start[person + 1]]
        expected = [faces.vectors[faces.items.index(path.relative_to(tmp_path).as_posix())] for path in paths]
        torch.testing.assert_close(part, torch.stack(expected))


def test_photographs_of_another_split_are_asked_for_by_its_name(tmp_path):
    rows = [(who, "f", split, "face", "", f"{who}.png") for who, split in (("Ada", "test"), ("Bea", "val"))]
    rows += [(who, "f", split, "voice", "v", f"{who}.wav") for who, split in (("Ada", "test"), ("Bea", "val"))]
    manifest = Manifest(tmp_path, pd.DataFrame(rows, columns=COLUMNS))
    faces = Embeddings(torch.eye(2), ["Ada.png", "Bea.png"], [], {})
    voices = Embeddings(torch.eye(2), ["Ada.wav", "Bea.wav"], [], {})
    found = photographs(manifest, faces, pair_up(manifest, voices, faces, "val"), "val")
    assert found == [[tmp_path / "Bea.png"]]


def test_a_limit_takes_the_first_of_each_sex_alike():
    sexes = ["m"] * 10 + ["f"] * 5
    kept = first_of_each_sex(sexes, 9)
    assert kept == [0, 1, 2, 3, 10, 11, 12, 13, 14]
    assert first_of_each_sex(["f"] * 6, 4) == [0, 1, 2, 3]
    with pytest.raises(InputError, match="at least 8"):
        first_of_each_sex(sexes, 7)


def test_labels_that_are_not_there_are_unknown_and_not_guessed(tmp_path):
    (tmp_path / "l.csv").write_text("person,age,skin tone\nAda,25,0.1\nBea,50,\nCoe,70,0.9\n")
    labels = read_labels(tmp_path / "l.csv")
    np.testing.assert_array_equal(truth_of(labels, ["Bea", "Nobody", "Ada"], AGE), [50, np.nan, 25])
    np.testing.assert_array_equal(truth_of(pd.DataFrame(), ["Ada"], AGE), [np.nan])
    table = attributes(labels, ["Ada", "Bea", "Dee"], np.array(["f", "f", "m"]), ["Ada", "Coe"])
    assert table["sex"].tolist() == ["women", "women", "men"]
    assert table["age band"].tolist() == ["under 30", "45 to 59", ""]
    assert table[TONE].tolist() == ["light", "", ""]
    assert attributes(pd.DataFrame(), ["Ada"], np.array(["f"]), ["Coe"]).columns.tolist() == ["sex"]


@pytest.mark.parametrize(
    "text", ["age\n3\n", "person,age\nAda,old\n", "person,height\nAda,3\n", "person,age\nA,1\nA,2\n"]
)
def test_labels_that_make_no_sense_are_refused(text, tmp_path):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(InputError, match=r"l\.csv"):
        read_labels(tmp_path / "l.csv")


def test_splits_that_share_somebody_are_refused():
    training, test = pairs(list("abcdef"), 0), pairs(list("uvwxyz"), 1)
    assert check_splits(training, test, {}) == []
    with pytest.raises(InputError, match="both train and test: u"):
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
    with pytest.warns(UserWarning, match=r"judge was trained on 1 person of the test: w"):
        check_splits(training, test, {"judge": tmp_path})
