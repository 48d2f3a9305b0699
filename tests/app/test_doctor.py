"""The doctor: every line says OK or what to do, and the exit code says whether the miniature can be used."""

import json
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import onnxruntime
import pytest
import torch

from v2f_core.app import doctor
from v2f_core.app.doctor import Check
from v2f_core.artefacts import integrity, profiles
from v2f_core.artefacts.files import sha256
from v2f_core.artefacts.profiles import PARTS


@pytest.fixture
def assets(tmp_path, monkeypatch):
    """Whole assets, nothing unpacked, no full-size weights."""
    folder = tmp_path / "assets"
    hashes = {}
    for name in [f"{part}/weights" for part in PARTS] + [
        f"minivox/{kind}.tar" for kind in ("faces", "voices", "tables")
    ]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
        hashes[name] = sha256(folder / name)
    (folder / "SHA256.json").write_text(json.dumps(hashes))
    monkeypatch.setattr(profiles, "MINI_ASSETS", folder)
    monkeypatch.setenv("V2F_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("V2F_FULL", raising=False)
    monkeypatch.setattr(doctor, "_packages", lambda: [])
    integrity.damaged_assets.cache_clear()
    return folder


def section(name):
    return {check.name: check for check in doctor.examine() if check.section == name}


def test_all_is_well(assets, capsys):
    assert doctor.doctor() == 0
    out = capsys.readouterr().out
    assert "The mini profile is ready" in out
    assert "needed only for the other profile" in out


def test_every_part_is_looked_at(assets):
    assert {*PARTS, "MiniVox"} <= set(section("The mini profile"))
    assert {*PARTS, "scorer", "adapted", "dataset"} == set(section("The full profile"))


def test_a_missing_part_makes_it_unusable(assets, capsys):
    (assets / "prior" / "weights").unlink()
    (assets / "prior").rmdir()
    assert doctor.doctor() == 1
    out = capsys.readouterr().out
    assert "not usable yet: 1 thing to mend" in out
    assert "missing  prior" in out
    assert "get it again" in out


def test_a_part_that_this_version_does_not_ship_is_named_but_not_needed(assets, capsys):
    table = assets / "SHA256.json"
    hashes = {name: digest for name, digest in json.loads(table.read_text()).items() if not name.startswith("judge/")}
    table.write_text(json.dumps(hashes))
    (assets / "judge" / "weights").unlink()
    assert doctor.doctor() == 0
    out = capsys.readouterr().out
    assert "optional judge" in out
    assert "this version has no weights of it" in out


def test_a_damaged_part_makes_it_unusable(assets):
    (assets / "judge" / "weights").write_text("other")
    assert doctor.doctor() == 1
    line = section("The mini profile")["judge"]
    assert line.found
    assert "get it again" in line.remedy


def test_a_missing_dataset_makes_it_unusable(assets):
    (assets / "minivox" / "voices.tar").unlink()
    assert doctor.doctor() == 1


def test_full_size_weights_are_not_needed_but_named(assets, tmp_path):
    full = section("The full profile")
    assert not any(check.needed for check in full.values())
    assert str(tmp_path / "cache" / "full" / "ast") in full["ast"].remedy


def test_a_dataset_is_looked_at_from_outside(assets, tmp_path, monkeypatch):
    monkeypatch.setenv("V2F_DATASET", str(tmp_path / "data"))
    assert "put or link HQ-VoxCeleb's faces" in section("The full profile")["dataset"].remedy
    (tmp_path / "data" / "HQ-VoxCeleb" / "vox1").mkdir(parents=True)
    line = section("The full profile")["dataset"]  # one level too deep
    assert line.found == str(tmp_path / "data")
    assert line.remedy.endswith(f"perhaps {tmp_path / 'data' / 'HQ-VoxCeleb'}")
    monkeypatch.setenv("V2F_DATASET", str(tmp_path / "data" / "HQ-VoxCeleb"))
    line = section("The full profile")["dataset"]
    assert (line.found.startswith("vox1 in "), line.remedy) == (True, "")
    (tmp_path / "data" / "pairs.csv").touch()  # a dataset of one's own
    monkeypatch.setenv("V2F_DATASET", str(tmp_path / "data"))
    assert section("The full profile")["dataset"].found.startswith("pairs.csv in ")


def test_full_size_weights_that_are_there_are_found(assets, tmp_path, monkeypatch):
    monkeypatch.setenv("V2F_FULL", str(tmp_path / "big"))
    (tmp_path / "big" / "ast").mkdir(parents=True)
    (tmp_path / "big" / "ast" / "model.safetensors").write_text("weights")
    assert section("The full profile")["ast"].remedy.startswith(
        "lacks config.json, preprocessor_config.json of what is"
    )
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / "big" / "ast" / name).write_text("{}")
    integrity.pin_once.cache_clear()
    found = section("The full profile")["ast"]
    assert (found.remedy, "SHA-256 as at first use" in found.found) == ("", True)


def test_the_full_profile_is_asked_for_its_own_parts(assets, capsys):
    assert doctor.doctor("full") == 1
    out = capsys.readouterr().out
    assert "missing  prior" in out
    assert "optional ecapa" in out  # one speech encoder is enough
    assert "python -m v2f_core fetch prior (4269 MB; MIT as stated, CreativeML Open RAIL-M)" in out
    assert "The full profile is not usable yet: 5 things to mend" in out  # ast, faces, prior, aligner, dataset


def test_a_package_that_is_missing_or_too_old_is_named(monkeypatch):
    monkeypatch.setattr(
        doctor, "requires", lambda _: ["numpy>=1", "numpy>=99", "no-such-thing>=2", 'ruff ; extra == "test"']
    )
    monkeypatch.setattr(doctor, "FRAGILE", ())
    fine, old, missing = doctor._packages()
    assert (fine.name, fine.remedy) == ("numpy", "")
    assert old.remedy == 'pip install "numpy>=99"'
    assert (missing.found, missing.remedy) == ("", 'pip install "no-such-thing>=2"')


def test_onnx_runtime_for_gpus_is_onnx_runtime(monkeypatch):
    there = {"onnxruntime-gpu": "1.31.0"}
    monkeypatch.setattr(doctor, "requires", lambda _: ["onnxruntime>=1.24,<2"])
    monkeypatch.setattr(doctor, "FRAGILE", ())
    monkeypatch.setattr(doctor, "version", lambda name: there.get(name) or absent(name))
    (check,) = doctor._packages()
    assert (check.found, check.remedy) == ("1.31.0", "")
    there.clear()
    assert next(doctor._packages()).remedy == 'pip install "onnxruntime<2,>=1.24"'


def absent(name):
    raise PackageNotFoundError(name)


def test_a_gpu_is_named_and_what_runs_the_face_nets(monkeypatch):
    gpu = SimpleNamespace(total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H100")
    assert doctor._device().found.startswith("H100, 80 GiB (ONNX Runtime uses the CPU: install onnxruntime-gpu")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert doctor._device().found == "H100, 80 GiB (ONNX Runtime uses CUDA)"


def test_a_package_that_does_not_load_is_named(monkeypatch):
    monkeypatch.setattr(doctor, "requires", lambda _: [])
    monkeypatch.setattr(doctor, "FRAGILE", ("no_such_module",))
    (check,) = doctor._packages()
    assert check.found == "fails: No module named 'no_such_module'"


def test_this_environment_s_device_is_told():
    assert doctor._device().remedy == ""


def test_each_line_has_one_verdict(monkeypatch, capsys):
    checks = [Check("A", "one", "1"), Check("A", "two", "", "do this"), Check("B", "three", "bent", "do that", False)]
    monkeypatch.setattr(doctor, "examine", lambda profile: iter(checks))
    assert doctor.doctor() == 1
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert lines[0] == ["OK", "one", "1"]
    assert lines[1] == ["missing", "two", "->", "do", "this"]
    assert lines[2] == ["damaged", "three", "bent", "->", "do", "that"]
