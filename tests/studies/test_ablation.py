"""Ablations: rows that make sense, measures by hand, and R@k from ranks."""

import numpy as np
import pandas as pd
import pytest
import torch
from fakes import people

from v2f_core.artefacts.profiles import load_profile
from v2f_core.diffusion.consistency import teacher
from v2f_core.evaluation.metrics import vfs
from v2f_core.evaluation.systems import Faces
from v2f_core.identity.sphere import normalise
from v2f_core.studies import ablation
from v2f_core.studies.ablation import TABLES, WITHOUT, Ablation

ROWS = [row for rows in TABLES.values() for row in rows]


# --- tables as data


@pytest.mark.parametrize("name", TABLES)
def test_every_row_makes_sense_and_has_a_name_of_its_own(name):
    rows = TABLES[name]
    assert len({row.system for row in rows}) == len(rows)
    for row in rows:
        settings = row.settings(load_profile("mini"), seed=3, steps=5)
        assert (settings.steps, settings.seed, settings.identity.seed) == (5, 3, 3)
        assert bool(settings.weight_self) == (row.mode != "none")
        of_l_id = [settings.identity.weight_am, settings.identity.weight_info, settings.identity.weight_cosine]
        assert not row.regression or of_l_id == [0, 0, 1]


def test_a_system_that_stands_in_two_tables_is_trained_once():
    by_name = {}
    for row in ROWS:
        assert by_name.setdefault(row.system, row.described) == row.described


# --- measures


def test_every_measure_by_hand():
    """Faces, second faces, photographs and ẑ that have nothing in common, and one face that is not detected."""
    g, n = np.random.default_rng(0), 10
    test = people(n, seed=3).pairs

    def seen(count):
        z = normalise(torch.from_numpy(g.normal(size=(count, 512))).float()).numpy()
        posteriors = g.dirichlet(np.ones(4), count).astype(np.float32)
        features = normalise(torch.from_numpy(g.normal(size=(count, 8))).float()).numpy()
        return Faces(z, posteriors, features, [None] * count)

    faces, again, photographs, predicted = seen(n), seen(3), seen(n), seen(n).identities
    faces.identities[4] = 0
    row = Ablation("teacher", teacher, trains="lora")
    found = ablation.tidy(row, 7, test, predicted, faces, again, photographs, 2.5)
    assert list(found.columns) == ablation.COLUMNS
    assert found[["system", "mode", "parts", "seed"]].drop_duplicates().values.tolist() == [
        ["teacher", "teacher", "lora", 7]
    ]
    truth, sexes = test.gallery().numpy().astype(float), np.array(test.sexes)

    def place(z, i, rivals):
        others = [j for j in rivals if j != i]
        worse = [z[i] @ truth[i] - z[i] @ truth[j] for j in others]
        return 1 + sum(d <= 0 for d in worse), np.mean([(d > 0) + 0.5 * (d == 0) for d in worse])

    expected = {
        "cosine": [faces.identities[i] @ truth[i] for i in range(n)],
        "L2": [np.linalg.norm(faces.identities[i] - truth[i]) if i != 4 else 2**0.5 for i in range(n)],
        "second scorer": [faces.features[i] @ photographs.features[i] for i in range(n)],
        "detected": [float(i != 4) for i in range(n)],
        "diversity": [1 - faces.identities[i] @ again.identities[i] for i in range(3)],
        "cosine of ẑ": [predicted[i] @ truth[i] for i in range(n)],
    }
    for of, z in (("", faces.identities.astype(float)), (" of ẑ", predicted.astype(float))):
        expected[f"rank{of}"] = [place(z, i, range(n))[0] for i in range(n)]
        same_sex = [place(z, i, np.flatnonzero(sexes == sexes[i])) for i in range(n)]
        expected[f"rank{of} within sex"], expected[f"matching{of} within sex"] = zip(*same_sex, strict=True)
    for metric, values in expected.items():
        rows = found[found.metric == metric]
        assert rows.person.tolist() == test.persons[: len(values)]
        np.testing.assert_allclose(rows.value, values, rtol=1e-5, atol=1e-6, err_msg=metric)
    whole = found[found.person == ""].set_index("metric").value
    assert whole.to_dict() == {"VFS": vfs(faces.posteriors).value, "guidance": 2.5}
    assert set(found.metric) == expected.keys() | whole.index


# --- the summary; the engine's own tests are those of evaluation.tables


def test_recall_is_counted_from_ranks():
    ranks = {WITHOUT: np.arange(1, 61), "new": np.maximum(np.arange(1, 61) - 5, 1)}
    keys = {"mode": "m", "parts": "both", "seed": 0, "person": [f"P{i}" for i in range(60)], "metric": "rank"}
    tidy = pd.concat(pd.DataFrame({"system": name, **keys, "value": places}) for name, places in ranks.items())
    found = ablation.summary(tidy).set_index(["system", "metric"])
    assert found.loc[WITHOUT, "R@10"].value == pytest.approx(10 / 60)
    assert found.loc["new", "R@10"].value == pytest.approx(15 / 60)
    assert found.loc["new", "R@10"].gain == pytest.approx(5 / 60)
