"""The engine gives the committed tables again: from the values of persons, and from the shipped aligner."""

from pathlib import Path

import pandas as pd
import pytest

from v2f_core.app.evaluate import posterior_for, stage1_table
from v2f_core.artefacts.profiles import load_profile
from v2f_core.data.voxceleb import open_dataset
from v2f_core.evaluation.folds import ridge_rows
from v2f_core.identity.aligner import Aligner
from v2f_core.studies.ablation import summary
from v2f_core.training.embeddings import embed_dataset
from v2f_core.training.pairs import pair_up

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.mark.parametrize("name", ["table4", "chosen"])
def test_an_ablation_again_from_the_values_of_its_persons(name):
    """They were stored with four digits, so that a mean may differ in the fourth; every hit and rank is the same."""
    keys = ["system", "metric"]
    committed = pd.read_csv(RESULTS / f"ablate_{name}.csv")
    table = summary(pd.read_csv(RESULTS / f"ablate_{name}_persons.csv.gz", keep_default_na=False))
    assert table[keys].values.tolist() == committed[keys].values.tolist()
    assert list(table.columns) == list(committed.columns)
    pd.testing.assert_frame_equal(table, committed, check_dtype=False, rtol=1e-3, atol=1e-3)
    recalls = table.metric.str.startswith("R@")
    pd.testing.assert_frame_equal(table[recalls], committed[recalls], check_dtype=False, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_stage_1_again_from_the_shipped_aligner():
    """Every figure of the table to 3 digits, intervals, skills, chance and ceilings among them."""
    profile = load_profile("mini")
    manifest = open_dataset(profile)
    voices, faces = embed_dataset(profile, manifest)
    training, test = (pair_up(manifest, voices, faces, split) for split in ("train", "test"))
    keys = ["gallery", "system"]
    aligner = Aligner.from_pretrained(profile.part("aligner"))
    posterior, ridge = posterior_for(profile, aligner), ridge_rows(training, test)
    table = stage1_table(aligner, training, test, posterior, ridge).set_index(keys)
    committed = pd.read_csv(RESULTS / "stage1.csv").set_index(keys)
    assert set(table.index) == set(committed.index)
    columns = list(committed.columns)
    pd.testing.assert_frame_equal(table.loc[committed.index, columns], committed, check_dtype=False, rtol=0, atol=2e-3)
