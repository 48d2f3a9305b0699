"""Labels of ages and skin tones, and the groups of persons that they form."""

import numpy as np
import pandas as pd
import pytest

from v2f_core.errors import InputError
from v2f_core.evaluation.protocols import AGE, TONE, attributes, read_labels, truth_of


def test_labels_that_are_not_there_are_unknown_and_not_guessed(tmp_path):
    (tmp_path / "l.csv").write_text("person,age,skin tone\nAda,25,0.1\nBea,50,\nCoe,70,0.9\n")
    labels = read_labels(tmp_path / "l.csv")
    np.testing.assert_array_equal(truth_of(labels, ["Bea", "Nobody", "Ada"], AGE), [50, np.nan, 25])
    np.testing.assert_array_equal(truth_of(pd.DataFrame(), ["Ada"], AGE), [np.nan])
    table = attributes(labels, ["Ada", "Bea", "Dee"], np.array(["f", "f", "m"]), ["Ada", "Coe"])
    assert table["sex"].tolist() == ["women", "women", "men"]
    assert table["age band"].tolist() == ["under 30", "45 to 59", ""]
    assert table[TONE].tolist() == ["light", "", ""]
    assert attributes(pd.DataFrame(), ["Ada"], np.array([""]), ["Coe"]).sex.tolist() == [""]


@pytest.mark.parametrize(
    "text", ["age\n3\n", "person,age\nAda,old\n", "person,height\nAda,3\n", "person,age\nA,1\nA,2\n"]
)
def test_labels_that_make_no_sense_are_refused(text, tmp_path):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(InputError, match=r"l\.csv"):
        read_labels(tmp_path / "l.csv")


def test_a_tone_on_an_edge_belongs_to_the_third_below():
    tones = [0.0, 1.0, 2.0, 3.0]  # of the training persons; their thirds end at 1 and 2
    labels = pd.DataFrame({TONE: [*tones, 1.0, 2.0]}, index=["a", "b", "c", "d", "Ada", "Bo"])
    groups = attributes(labels, ["Ada", "Bo"], np.array(["f", "m"]), ["a", "b", "c", "d"])
    assert groups[TONE].tolist() == ["light", "medium"]
