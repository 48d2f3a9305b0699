"""Ages and skin tones, and the groups of persons that they form."""

import numpy as np
import pandas as pd

from v2f_core.evaluation.protocols import AGE, TONE, attributes, truth_of


def test_labels_that_are_not_there_are_unknown_and_not_guessed():
    labels = pd.DataFrame({AGE: [25.0, 50, 70], TONE: [0.1, np.nan, 0.9]}, index=["Ada", "Bea", "Coe"])
    np.testing.assert_array_equal(truth_of(labels, ["Bea", "Nobody", "Ada"], AGE), [50, np.nan, 25])
    np.testing.assert_array_equal(truth_of(pd.DataFrame(), ["Ada"], AGE), [np.nan])
    table = attributes(labels, ["Ada", "Bea", "Dee"], np.array(["f", "f", "m"]), ["Ada", "Coe"])
    assert table["sex"].tolist() == ["women", "women", "men"]
    assert table["age band"].tolist() == ["under 30", "45 to 59", ""]
    assert table[TONE].tolist() == ["light", "", ""]
    assert attributes(pd.DataFrame(), ["Ada"], np.array([""]), ["Coe"]).sex.tolist() == [""]


def test_a_tone_on_an_edge_belongs_to_the_third_below():
    tones = [0.0, 1.0, 2.0, 3.0]  # of the training persons; their thirds end at 1 and 2
    labels = pd.DataFrame({TONE: [*tones, 1.0, 2.0]}, index=["a", "b", "c", "d", "Ada", "Bo"])
    groups = attributes(labels, ["Ada", "Bo"], np.array(["f", "m"]), ["a", "b", "c", "d"])
    assert groups[TONE].tolist() == ["light", "medium"]
