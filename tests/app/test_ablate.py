"""Ablations: every system is trained with what its row says, goes on after a kill, and is compared person by person."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from fakes import Pack, Recogniser, people, small_judge

from v2f_core.app import ablate
from v2f_core.app.ablate import Plan
from v2f_core.diffusion.consistency import teacher
from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError
from v2f_core.evaluation.systems import Faces, Scorer
from v2f_core.studies import ablation
from v2f_core.studies.ablation import Ablation

STAGE1 = {"steps": 4, "batch": 4, "hidden_width": 8, "evaluate_every": 2}
STAGE2 = {"steps": 2, "batch": 3, "rank": 2, "evaluate_every": 2, "monitored": 2, "monitor_bands": 1, "warmup": 0}


@pytest.fixture(scope="module")
def plan(tiny_profile, tmp_path_factory):
    folders = {part: tmp_path_factory.mktemp(part) for part in ("faces", "judge")}
    for folder in folders.values():
        (folder / "weights").write_text("none")
    profile = replace(tiny_profile, stage1=STAGE1, stage2=STAGE2, **folders)
    return Plan(profile, tmp_path_factory.mktemp("runs"), persons=6, drawn_steps=2)


@pytest.fixture
def kit(plan, monkeypatch):
    """As many test persons as are planned; a judge and a recogniser that see colours."""
    opened = []

    def open_kit(plan):
        scorer = Scorer(Pack(), small_judge())
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
    grey = scorer([np.full((32, 32, 3), 20 * i + 30, np.uint8) for i in range(n)])
    return Faces(**grey, paths=[None] * n)


def user_critic(view, identity, faces):
    """A critic that no table knows, as a user's own."""
    return teacher(view, identity, faces) ** 0.5


ROWS = (Ablation("of 2", draws=2), Ablation("mine", user_critic, weight_self=2.0))
ONCE = (Ablation("speech alone", speech=True),)


@pytest.fixture
def tidy(plan, kit):
    return pd.concat([ablate.ablate(ROWS, 2, plan), ablate.ablate(ONCE, 1, plan)], ignore_index=True)


def test_a_critic_of_ones_own_makes_a_row(tidy, plan):
    assert set(tidy[tidy.system == "mine"]["mode"]) == {"user_critic"}
    made = json.loads((plan.run("mine", 0) / "stage2" / "provenance.json").read_text())
    assert (made["critic"], made["settings"]["weight_self"]) == ("user_critic", 2.0)
    claimed = json.loads((plan.run("mine", 0) / "plan.json").read_text())
    assert claimed["row"]["critic"] == "user_critic"


def test_all_systems_and_seeds_stand_in_one_tidy_table(tidy, kit, plan):
    assert list(tidy.columns) == ablation.COLUMNS
    expected = {(row.system, seed) for row in ROWS for seed in (0, 1)} | {("speech alone", 0)}
    assert set(zip(tidy.system, tidy.seed, strict=True)) == expected
    cosines = tidy[tidy.metric == "cosine"]
    assert (cosines.groupby(["system", "seed"]).person.nunique() == 6).all()
    assert "cosine of ẑ" not in set(tidy[tidy.system == "speech alone"].metric)
    assert tidy[tidy.metric == "rank"].value.between(1, 6).all()
    parts = tidy.drop_duplicates("system").set_index("system").parts
    assert parts.to_dict() == {"speech alone": "none", "mine": "both", "of 2": "none"}

    before = len(kit)
    again = ablate.ablate(ROWS, 2, plan)
    assert len(kit) == before  # no system is run again
    pd.testing.assert_frame_equal(tidy.head(len(again)), again)


def test_the_chosen_guidance_is_the_one_that_suits_the_validation_persons(tidy, plan):
    likeness = json.loads((plan.run("mine", 0) / "guidance.json").read_text())
    used = tidy[(tidy.metric == "guidance") & (tidy.system == "mine")].value.unique()
    assert set(likeness) == {"1.0", "2.0"}
    assert used.tolist() == [float(max(likeness, key=likeness.get))]


def test_a_folder_of_another_plan_is_refused(tidy, plan):
    with pytest.raises(InputError, match="other settings; choose another folder"):
        ablate.measured(ROWS[0], 0, replace(plan, drawn_steps=3))
