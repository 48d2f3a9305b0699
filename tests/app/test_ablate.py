"""Ablations: every system is trained with what its row says, goes on after a kill, and is compared person by person."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from fakes import Pack, Recogniser, people

from v2f_core import cli
from v2f_core.app import ablate
from v2f_core.app.ablate import Plan
from v2f_core.artefacts.profiles import load_profile
from v2f_core.diffusion.consistency import teacher
from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError
from v2f_core.evaluation.judge import Judge
from v2f_core.evaluation.metrics import vfs
from v2f_core.evaluation.systems import Scorer
from v2f_core.identity.sphere import normalise
from v2f_core.studies import ablation
from v2f_core.studies.ablation import TABLES, WITHOUT, Ablation, table

STAGE1 = {"steps": 4, "batch": 4, "hidden_width": 8, "evaluate_every": 2}
STAGE2 = {"steps": 2, "batch": 3, "rank": 2, "evaluate_every": 2, "monitored": 2, "monitor_bands": 1, "warmup": 0}


@pytest.fixture(scope="module")
def plan(tiny_profile, tmp_path_factory):
    folders = {part: tmp_path_factory.mktemp(part) for part in ("faces", "judge")}
    for folder in folders.values():
        (folder / "weights").write_text("none")
    profile = replace(tiny_profile, stage1=STAGE1, stage2=STAGE2, **folders)
    return Plan(profile, tmp_path_factory.mktemp("runs"), persons=6, drawn_steps=2, varied=2)


@pytest.fixture
def kit(plan, monkeypatch):
    """As many test persons as are planned; a judge and a recogniser that see colours."""
    torch.manual_seed(0)
    size = {"size": 16, "mean": [127.0] * 3, "scale": [64.0] * 3, "channels": "RGB"}
    judge = Judge({"architecture": "plain", "widths": [4, 8], "n_classes": 6, **size}).eval()
    opened = []

    def open_kit(plan):
        scorer = Scorer(Pack(), judge)
        scorer.photographs = lambda paths: scorer_faces(scorer, len(paths))
        test = people(plan.persons, seed=3).pairs
        prior = Prior.from_folder(plan.profile.prior)
        opened.append(prior)
        return ablate.Kit(
            people(7, seed=1), people(5, seed=2), test, [None] * len(test.persons), prior, scorer, Recogniser()
        )

    monkeypatch.setattr(ablate, "open_kit", open_kit)
    monkeypatch.setattr(ablate, "GUIDANCES", (1.0, 2.0))
    return opened


def scorer_faces(scorer, n):
    from v2f_core.evaluation.systems import Faces

    grey = scorer([np.full((32, 32, 3), 20 * i + 30, np.uint8) for i in range(n)])
    return Faces(**grey, paths=[None] * n)


ROWS = (
    Ablation(WITHOUT),
    Ablation("speech alone", speech=True),
    Ablation("teacher", teacher, weight_self=1.0),
    Ablation("of 2", draws=2),
)


@pytest.fixture
def tidy(plan, kit, monkeypatch):
    monkeypatch.setattr(ablate, "table", lambda name: ROWS)
    return ablate.ablate("mine", 2, plan)


def user_critic(view, identity, faces):
    """A critic that no table knows, as a user's own."""
    return teacher(view, identity, faces) ** 0.5


def test_a_critic_of_ones_own_makes_a_row(plan, kit, tmp_path):
    rows = ablate.measured(Ablation("mine", user_critic, weight_self=2.0), 0, replace(plan, folder=tmp_path))
    assert set(rows["mode"]) == {"user_critic"}
    made = json.loads((tmp_path / "mine-0" / "stage2" / "provenance.json").read_text())
    assert (made["critic"], made["settings"]["weight_self"]) == ("user_critic", 2.0)
    claimed = json.loads((tmp_path / "mine-0" / "plan.json").read_text())
    assert claimed["row"]["critic"] == "user_critic"


def test_all_systems_and_seeds_stand_in_one_tidy_table(tidy, kit, plan):
    assert list(tidy.columns) == ablation.COLUMNS
    assert set(zip(tidy.system, tidy.seed, strict=True)) == {(row.system, seed) for row in ROWS for seed in (0, 1)}
    cosines = tidy[tidy.metric == "cosine"]
    assert (cosines.groupby(["system", "seed"]).person.nunique() == 6).all()
    assert "cosine of ẑ" not in set(tidy[tidy.system == "speech alone"].metric)
    assert tidy[tidy.metric == "rank"].value.between(1, 6).all()
    parts = tidy.drop_duplicates("system").set_index("system").parts
    assert parts.to_dict() == {WITHOUT: "none", "speech alone": "none", "teacher": "both", "of 2": "none"}

    before = len(kit)
    again = ablate.ablate("mine", 2, plan)
    assert len(kit) == before + 1  # opened to make the stores, no system is run again
    pd.testing.assert_frame_equal(tidy, again)


def test_in_parallel_those_that_choose_the_guidance_come_first_and_the_table_is_the_same(tidy, plan, monkeypatch):
    asked = []

    class Pool:
        def __init__(self, jobs, context, begin, given):
            asked.append((jobs, context.get_start_method(), begin, given))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def map(self, run, *given):
            given = pickle.loads(pickle.dumps(given))  # as another process gets them
            asked.append(list(zip(*given[:2], strict=True)))
            return map(run, *given)

    monkeypatch.setattr(ablate, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(ablate.os, "cpu_count", lambda: 6)
    pd.testing.assert_frame_equal(ablate.ablate("mine", 2, plan, jobs=2), tidy)
    pool = (2, "spawn", torch.set_num_threads, (3,))
    assert asked == [pool, [(row, 0) for row in ROWS], pool, [(row, 1) for row in ROWS]]


def test_the_chosen_guidance_is_the_one_that_suits_the_validation_persons(tidy, plan):
    likeness = json.loads((plan.run("teacher", 0) / "guidance.json").read_text())
    used = tidy[(tidy.metric == "guidance") & (tidy.system == "teacher")].value.unique()
    assert set(likeness) == {"1.0", "2.0"}
    assert used.tolist() == [float(max(likeness, key=likeness.get))]


def test_a_folder_of_another_plan_is_refused(tidy, plan):
    with pytest.raises(InputError, match="other settings; choose another folder"):
        ablate.measured(ROWS[0], 0, replace(plan, drawn_steps=3))


def test_other_persons_are_drawn_without_training_again(tidy, kit, plan):
    """What was chosen on some persons is measured on others with the same weights, and each has its own rows."""
    before = (plan.run("teacher", 1) / "stage2" / "history.csv").read_bytes()
    before_checkpoint = (plan.run("teacher", 1) / "stage2" / "checkpoint.pt").stat().st_mtime_ns
    fewer = ablate.measured(ROWS[2], 1, replace(plan, persons=5))
    assert fewer[fewer.metric == "cosine"].person.tolist() == ["P0", "P1", "P2", "P3", "P4"]
    assert (plan.run("teacher", 1) / "stage2" / "history.csv").read_bytes() == before
    assert (plan.run("teacher", 1) / "stage2" / "checkpoint.pt").stat().st_mtime_ns == before_checkpoint
    assert {folder.name for folder in plan.run("teacher", 1).glob("test-*")} == {"test-5", "test-6"}


def test_weights_are_known_by_what_they_are_and_not_by_where_they_lie(tidy, kit, plan, tmp_path):
    import shutil

    moved = replace(plan.profile, judge=shutil.copytree(plan.profile.judge, tmp_path / "judge"))
    assert len(ablate.measured(ROWS[0], 0, replace(plan, profile=moved))) == len(tidy[tidy.system == WITHOUT]) / 2
    (moved.judge / "weights").write_text("others")
    ablate.hash_once.cache_clear()
    with pytest.raises(InputError, match="other settings"):
        ablate.measured(ROWS[0], 0, replace(plan, profile=moved))


def test_without_the_first_seed_there_is_no_guidance(kit, plan, tmp_path):
    with pytest.raises(InputError, match="run seed 0"):
        ablate.measured(ROWS[0], 1, replace(plan, folder=tmp_path))


def test_everything_is_loaded_where_the_plan_says(plan, tiny_profile, monkeypatch):
    """Embeddings and prior go to the plan's device; the net that is loaded first stops the test."""
    loaded = []

    def prior(folder, device):
        loaded.append(device)
        raise InputError("far enough")

    monkeypatch.setattr(ablate, "open_dataset", lambda profile: None)
    monkeypatch.setattr(ablate, "embed_dataset", lambda *given: loaded.append(given[2]) or (None, None))
    monkeypatch.setattr(Prior, "from_folder", prior)
    with pytest.raises(InputError, match="far enough"):
        ablate.open_kit(replace(plan, device="cuda"))
    assert loaded == ["cuda", "cuda"]


def test_a_device_that_is_not_there_is_a_one_line_error(capsys):
    if torch.backends.mps.is_available():
        pytest.skip("this machine has one")
    for command in (["ablate", "table4"], ["evaluate"]):
        with pytest.raises(SystemExit) as stop:
            cli.main([*command, "--device", "mps"])
        assert stop.value.code == 2
        assert "mps: this machine's torch cannot use it; choose another --device" in capsys.readouterr().err


def test_a_plan_and_its_rows_reach_another_process_unchanged(plan):
    plan = replace(plan, profile=load_profile("mini"))
    assert repr(pickle.loads(pickle.dumps(plan))) == repr(plan)
    for row in (row for name in TABLES for row in table(name)):
        assert pickle.loads(pickle.dumps(row)).described == json.loads(json.dumps(row.described))


def test_some_persons_keep_their_voices_and_faces():
    whole = people(9, seed=0).pairs
    chosen = whole.only([2, 7])
    assert chosen.persons == [whole.persons[2], whole.persons[7]]
    torch.testing.assert_close(chosen.pooled_voices(), whole.pooled_voices()[[2, 7]])
    torch.testing.assert_close(chosen.gallery(), whole.gallery()[[2, 7]])


def test_every_measure_by_hand():
    """Faces, second faces, photographs and ẑ that have nothing in common, and one face that is not detected."""
    from v2f_core.evaluation.systems import Faces

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


# ---- tables


@pytest.mark.parametrize("name", TABLES)
def test_every_row_makes_sense_and_has_a_name_of_its_own(name):
    rows = table(name)
    assert len({row.system for row in rows}) == len(rows)
    for row in rows:
        settings = row.settings(load_profile("mini"), seed=3, steps=5)
        assert (settings.steps, settings.seed, settings.identity.seed) == (5, 3, 3)
        assert bool(settings.weight_self) == (row.mode != "none")
        assert not row.regression or settings.identity.weight_am == settings.identity.weight_info == 0


def test_a_system_that_stands_in_two_tables_is_trained_once():
    by_name = {}
    for row in (row for name in TABLES for row in table(name)):
        assert by_name.setdefault(row.system, row.described) == row.described


def test_the_papers_own_systems_are_in_table_4():
    assert {"w/o ArcFace", "CosReg", "CosReg + DSC", WITHOUT, "paper"} <= {row.system for row in table("table4")}


# ---- the summary


def fake(gain=0.05, noise=0.0, seeds=(0, 1, 2)):
    g = np.random.default_rng(0)
    hard, persons = g.normal(size=60), [f"P{i}" for i in range(60)]
    parts = []
    for system, extra in ((WITHOUT, 0.0), ("new", gain)):
        for seed in seeds:
            same = {"system": system, "mode": "m", "parts": "both", "seed": seed}
            cosine = hard + extra + 0.1 * seed + noise * g.normal(size=60)
            ranks = np.maximum(np.arange(1, 61) - (system == "new") * 5, 1)
            for metric, values in (("cosine", cosine), ("rank", ranks)):
                parts.append(pd.DataFrame({**same, "person": persons, "metric": metric, "value": values}))
            parts.append(pd.DataFrame([{**same, "person": "", "metric": "VFS", "value": 2 + seed}]))
    return pd.concat(parts, ignore_index=True)


def test_a_gain_is_paired_and_seeds_do_not_pass_for_persons():
    found = ablation.summary(fake(noise=0.01)).set_index(["system", "metric"])
    new = found.loc["new", "cosine"]
    assert new.gain == pytest.approx(0.05, abs=0.01)
    assert new["gain high"] - new["gain low"] < 0.02  # pairing takes out how hard persons are
    assert new.high - new.low > 0.4
    assert new["seed sd"] == pytest.approx(0.1, abs=0.01)
    assert (new.n, new.seeds) == (60, 3)


def test_persons_are_paired_by_name_and_not_by_place():
    tidy = fake(noise=0.01)
    turned = pd.concat([tidy[tidy.system == WITHOUT], tidy[tidy.system == "new"].iloc[::-1]])
    gains = [ablation.summary(rows).set_index(["system", "metric"]).loc["new", "cosine"] for rows in (tidy, turned)]
    for end in ("gain", "gain low", "gain high"):
        assert gains[1][end] == pytest.approx(gains[0][end], abs=2e-3)


def test_recall_is_counted_from_ranks():
    found = ablation.summary(fake()).set_index(["system", "metric"])
    assert found.loc[WITHOUT, "R@10"].value == pytest.approx(10 / 60)
    assert found.loc["new", "R@10"].value == pytest.approx(15 / 60)
    assert found.loc["new", "R@10"].gain == pytest.approx(5 / 60)


def test_a_measure_of_all_images_has_its_spread_over_seeds():
    vfs = ablation.summary(fake()).set_index(["system", "metric"]).loc["new", "VFS"]
    assert (vfs.value, vfs["seed sd"]) == (3, 1)


def test_systems_with_other_seeds_are_not_compared():
    tidy = fake()
    with pytest.raises(InputError, match="different seeds"):
        ablation.summary(tidy[(tidy.system != "new") | (tidy.seed > 0)])


def test_tables_are_written_with_the_same_bytes_each_time(tmp_path):
    shown = ("cosine", "R@10")
    ablation.save(fake(), "mine", tmp_path, shown)
    assert pd.read_csv(tmp_path / "mine_persons.csv.gz").shape == fake().shape
    text = (tmp_path / "mine.md").read_text()
    assert "| w/o DSC | " in text
    assert "+0.050 [" in text
    first = (tmp_path / "mine_persons.csv.gz").read_bytes()
    ablation.save(fake(), "mine", tmp_path, shown)
    assert (tmp_path / "mine_persons.csv.gz").read_bytes() == first


def test_an_unknown_table_is_a_one_line_error(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["ablate", "table9"])
    assert stop.value.code == 2
    assert "table9: no such table; choose from table4" in capsys.readouterr().err
