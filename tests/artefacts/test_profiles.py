"""Profiles are data: chosen by argument, then environment, then default; their parts are looked at before use."""

import dataclasses
import json

import pytest

from v2f_core.artefacts import integrity, profiles
from v2f_core.artefacts.files import sha256
from v2f_core.artefacts.profiles import PARTS, load_profile
from v2f_core.errors import InputError


def test_argument_before_environment_before_default(monkeypatch):
    monkeypatch.delenv("V2F_PROFILE", raising=False)
    assert load_profile().name == "mini"
    monkeypatch.setenv("V2F_PROFILE", "full")
    assert load_profile().name == "full"
    assert load_profile("mini").name == "mini"


def test_an_unknown_profile_is_named_with_the_way_out(monkeypatch):
    monkeypatch.setenv("V2F_PROFILE", "huge")
    with pytest.raises(InputError, match=r"^huge: no such profile; choose mini or full"):
        load_profile()


def test_full_size_parts_lie_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("V2F_FULL", str(tmp_path))
    assert load_profile("full").prior == tmp_path / "prior"
    monkeypatch.delenv("V2F_FULL")
    monkeypatch.setenv("V2F_CACHE", str(tmp_path / "cache"))
    assert load_profile("full").prior == tmp_path / "cache" / "full" / "prior"


def test_a_profile_cannot_be_changed_by_accident():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_profile("mini").steps = 1


@pytest.fixture
def assets(tmp_path, monkeypatch):
    """An assets folder with one file a part, and its hashes."""
    monkeypatch.setattr(profiles, "MINI_ASSETS", tmp_path)
    for part in PARTS:
        (tmp_path / part).mkdir()
        (tmp_path / part / "weights").write_text(part)
    hashes = {f"{part}/weights": sha256(tmp_path / part / "weights") for part in PARTS}
    (tmp_path / "SHA256.json").write_text(json.dumps(hashes))
    integrity.damaged_assets.cache_clear()
    return tmp_path


@pytest.mark.parametrize("part", PARTS)
def test_a_whole_part_is_its_folder(assets, part):
    assert load_profile("mini").part(part) == assets / part


def test_a_damaged_file_is_named(assets):
    (assets / "judge" / "weights").write_text("gudge")
    with pytest.raises(InputError, match=r"weights: differs from its hash in SHA256\.json; get it again"):
        load_profile("mini").part("judge")
    load_profile("mini").part("ast")  # the others can be used


@pytest.mark.parametrize("missing", ["weights", "."])
def test_a_missing_part_is_named(assets, missing):
    (assets / "judge" / "weights").unlink()
    if missing == ".":
        (assets / "judge").rmdir()
    with pytest.raises(InputError, match="judge: the mini profile's judge is missing; get it again"):
        load_profile("mini").part("judge")


def test_missing_full_size_weights_are_named_with_their_origin(monkeypatch, tmp_path):
    monkeypatch.setenv("V2F_FULL", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(
        InputError, match=r"ast is missing; python -m v2f_core fetch ast \(346 MB; BSD-3-Clause\); or set V2F_F"
    ):
        load_profile("full").part("ast")
    with pytest.raises(
        InputError, match=r"aligner is missing; train it \(python -m v2f_core stage1 --profile full --out .*aligner\)"
    ):
        load_profile("full").part("aligner")


def test_a_second_scorer_is_had_by_the_full_profile_only(monkeypatch, tmp_path):
    monkeypatch.setenv("V2F_FULL", str(tmp_path))
    assert load_profile("full").scorer == tmp_path / "scorer"
    with pytest.raises(InputError, match="scorer: the mini profile has none"):
        load_profile("mini").part("scorer")


def test_another_dataset_can_be_put_in_place_of_the_profiles_own(monkeypatch, tmp_path):
    monkeypatch.setenv("V2F_DATASET", str(tmp_path))
    mini = load_profile("mini")
    assert (mini.dataset, mini.dataset_is_packed) == (tmp_path, False)
    monkeypatch.delenv("V2F_DATASET")
    assert load_profile("mini").dataset_is_packed
