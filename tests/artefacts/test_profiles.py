"""Profiles are data: chosen by argument, then environment, then default; their parts are looked at before use."""

import json
from dataclasses import replace

import pytest

from v2f_core.artefacts.files import folder_hash, sha256
from v2f_core.artefacts.profiles import ENCODERS, load_profile
from v2f_core.errors import InputError


def test_argument_before_environment_before_default(monkeypatch):
    monkeypatch.delenv("V2F_PROFILE", raising=False)
    assert load_profile().name == "mini"
    monkeypatch.setenv("V2F_PROFILE", "full")
    assert load_profile().name == "full"
    assert load_profile("mini").name == "mini"
    monkeypatch.setenv("V2F_PROFILE", "huge")
    with pytest.raises(InputError, match=r"^huge: no such profile; choose mini, open or full"):
        load_profile()


def test_full_size_parts_and_datasets_lie_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("V2F_FULL", str(tmp_path))
    assert load_profile("full").prior == tmp_path / "prior"
    monkeypatch.delenv("V2F_FULL")
    monkeypatch.setenv("V2F_CACHE", str(tmp_path / "cache"))
    assert load_profile("full").prior == tmp_path / "cache" / "full" / "prior"
    monkeypatch.setenv("V2F_DATASET", str(tmp_path))
    mini = load_profile("mini")
    assert (mini.dataset, mini.dataset_is_packed) == (tmp_path, False)


@pytest.fixture
def profile(tmp_path):
    """The mini profile with a judge of one file, and its hash."""
    folder = tmp_path / "judge"
    folder.mkdir()
    (folder / "weights").write_text("judge")
    (tmp_path / "SHA256.json").write_text(json.dumps({"judge/weights": sha256(folder / "weights")}))
    return replace(load_profile("mini"), judge=folder)


def test_a_damaged_file_and_a_missing_part_are_named(profile):
    (profile.judge / "weights").write_text("gudge")
    with pytest.raises(InputError, match=r"weights: missing, or differs from its hash in .*SHA256\.json"):
        profile.part("judge")
    profile.part("ast")  # the others can be used
    for remove in ((profile.judge / "weights").unlink, profile.judge.rmdir):
        remove()
        with pytest.raises(InputError, match="judge: the mini profile's judge is missing"):
            profile.part("judge")


def test_missing_full_size_weights_are_named_with_their_origin(monkeypatch, tmp_path):
    monkeypatch.setenv("V2F_FULL", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    full = load_profile("full")
    train = r"python -m v2f_core stage1 --profile full --encoder"
    for profile, part, message in (
        (full, "ast", r"ast is missing; python -m v2f_core fetch ast \(346 MB; BSD-3-Clause\); or set V2F_F"),
        (full, "aligner", rf"aligner is missing; train it \({train} ast --out .*aligner"),
        (full.with_encoder("ge2e"), "aligner", rf"{train} ge2e --out .*aligner_ge2e"),
        (load_profile("mini"), "scorer", "scorer: the mini profile has none"),
    ):
        with pytest.raises(InputError, match=message):
            profile.part(part)


# --- speech encoders


def test_with_another_encoder_come_the_parts_that_were_trained_with_it():
    profile = load_profile("mini")
    assert profile.with_encoder(None) is profile.with_encoder("ast") is profile
    other = profile.with_encoder("ecapa")
    changed = {name for name, value in vars(profile).items() if getattr(other, name) != value}
    assert changed == {"encoder", "aligner", "posterior", "adapted"}
    assert (other.aligner.parent, other.aligner.name) == (profile.aligner.parent, "aligner_ecapa")
    assert other.with_encoder("ge2e").with_encoder("ast") == profile
    assert load_profile("full").with_encoder("ge2e").scorer == load_profile("full").scorer
    with pytest.raises(InputError, match="speech encoder 'ear': expected ast, ecapa, ge2e"):
        profile.with_encoder("ear")


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_miniature_ships_an_aligner_and_a_posterior_of_every_encoder(encoder):
    """Trained on the encoder and the face net that ship with them, as their provenance says."""
    profile = load_profile("mini").with_encoder(encoder)
    assert profile.last_stage == "aligner"
    for name in ("aligner", "posterior"):
        made = json.loads((profile.part(name) / "config.json").read_text(encoding="utf-8"))["provenance"]
        for part in (encoder, "faces"):
            assert made[f"{part}_sha256"] == folder_hash(profile.part(part))
