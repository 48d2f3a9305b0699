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


def test_every_row_makes_sense_and_a_system_that_stands_in_two_tables_is_trained_once():
    profile, by_name = load_profile("mini"), {}
    for rows in TABLES.values():
        assert len({row.system for row in rows}) == len(rows)
        for row in rows:
            settings = row.settings(profile, seed=3, steps=5)
            assert (settings.steps, settings.seed, settings.identity.seed) == (5, 3, 3)
            assert bool(settings.weight_self) == (row.mode != "none")
            of_l_id = [settings.identity.weight_am, settings.identity.weight_info, settings.identity.weight_cosine]
            assert not row.regression or of_l_id == [0, 0, 1]
            assert by_name.setdefault(row.system, row.described) == row.described


def test_every_measure_by_hand():
    """Faces, second faces, photographs and ẑ that have nothing in common, and one face that is not detected."""
    g, n = np.random.default_rng(0), 10
    test = people(n, seed=3).pairs

    def seen(count):
        z, features = (normalise(torch.from_numpy(g.normal(size=(count, dim))).float()).numpy() for dim in (512, 8))
        return Faces(z, g.dirichlet(np.ones(4), count).astype(np.float32), features, [None] * count)

    faces, again, photographs, predicted = seen(n), seen(3), seen(n), seen(n).identities
    faces.identities[4] = 0
    row = Ablation("teacher", teacher, trains="lora")
    found = ablation.tidy(row, 7, test, predicted, faces, again, photographs, 2.5)
    assert list(found.columns) == ablation.COLUMNS
    assert {*map(tuple, found[["system", "mode", "parts", "seed"]].values)} == {("teacher", "teacher", "lora", 7)}
    truth, sexes = test.gallery().numpy().astype(float), np.array(test.sexes)

    def place(z, i, rivals):
        worse = [z[i] @ truth[i] - z[i] @ truth[j] for j in rivals if j != i]
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


def test_recall_is_counted_from_ranks():
    ranks = {WITHOUT: np.arange(1, 61), "new": np.maximum(np.arange(1, 61) - 5, 1)}
    keys = {"mode": "m", "parts": "both", "seed": 0, "person": [f"P{i}" for i in range(60)], "metric": "rank"}
    tidy = pd.concat(pd.DataFrame({"system": name, **keys, "value": places}) for name, places in ranks.items())
    found = ablation.summary(tidy).set_index(["metric", "system"]).loc["R@10"]
    assert (found.value * 60).to_dict() == pytest.approx({WITHOUT: 10, "new": 15})
    assert found.gain["new"] == pytest.approx(5 / 60)
