"""The doctor: every line says OK or what to do, and the exit code says whether the miniature can be used."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from v2f_core.app import doctor
from v2f_core.artefacts import files, profiles
from v2f_core.artefacts.profiles import PARTS


@pytest.fixture
def assets(tmp_path, monkeypatch):
    """Whole assets, nothing unpacked, no full-size weights."""
    folder = tmp_path / "assets"
    names = [f"{part}/weights" for part in (*PARTS, "ge2e", "aligner_ge2e", "posterior_ge2e")]
    names += [f"minivox/{kind}.tar" for kind in ("faces", "voices", "tables")]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "SHA256.json").write_text(json.dumps({name: files.sha256(folder / name) for name in names}))
    monkeypatch.setattr(profiles, "MINI_ASSETS", folder)
    monkeypatch.setenv("V2F_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("V2F_FULL", str(tmp_path / "big"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(doctor, "packages", list)
    files.check_hashes_once.cache_clear()
    return folder


def parts(profile):
    return {check.name: check for check in doctor.parts(profile)}


def test_all_is_well(assets, capsys):
    assert doctor.doctor() == 0
    out = capsys.readouterr().out
    assert "The mini profile is ready" in out
    own = {"ge2e", "aligner_ge2e", "posterior_ge2e"}  # what people's own recordings go through
    assert {*PARTS, *own, "dataset"} <= set(parts("mini"))
    assert {*PARTS, "scorer", "adapted", "posterior", "ge2e", "dataset", "cache folder"} == set(parts("full"))


def test_a_missing_or_damaged_part_or_dataset_makes_the_miniature_unusable(assets, capsys):
    (assets / "prior" / "weights").unlink()
    (assets / "prior").rmdir()
    (assets / "judge" / "weights").write_text("other")
    (assets / "minivox" / "voices.tar").unlink()
    assert doctor.doctor() == 1
    out = capsys.readouterr().out
    assert "not usable yet: 3 things to mend" in out
    assert "missing  prior" in out
    assert "damaged  judge" in out
    assert "damaged  dataset" in out
    assert out.count("get it again") == 3


def test_a_dataset_is_looked_at_from_outside(assets, tmp_path, monkeypatch):
    data = tmp_path / "data"
    monkeypatch.setenv("V2F_DATASET", str(data))
    assert "no such folder; give the root of HQ-VoxCeleb's layout" in parts("full")["dataset"].remedy
    (data / "HQ-VoxCeleb" / "vox1").mkdir(parents=True)
    line = parts("full")["dataset"]  # one level too deep
    assert (line.found, "no vox1 or vox2 folder in it" in line.remedy) == (str(data), True)
    (data / "pairs.csv").touch()  # a dataset of one's own
    assert parts("full")["dataset"].found.startswith("pairs.csv in ")


def test_full_size_weights_are_named_and_found(assets, tmp_path):
    full, ast = parts("full"), tmp_path / "big" / "ast"
    assert {name for name, check in full.items() if not check.needed} >= {"ecapa", "judge", "scorer", "adapted"}
    assert str(ast) in full["ast"].remedy
    ast.mkdir(parents=True)
    for name in ("model.safetensors", "config.json", "preprocessor_config.json"):
        assert parts("full")["ast"].remedy
        (ast / name).write_text("{}")
    line = parts("full")["ast"]
    assert (line.remedy, line.found.startswith("0.0 MB")) == ("", True)


def test_a_package_that_is_missing_too_old_or_broken_is_named(monkeypatch):
    lines = ["numpy>=1", "numpy>=99", "no-such-thing>=2", 'ruff ; extra == "test"']
    monkeypatch.setattr(doctor, "requires", lambda _: lines)
    monkeypatch.setattr(doctor, "FRAGILE", ("no_such_module",))
    python, fine, old, missing, broken = doctor.packages()
    assert python.name == "Python"
    assert (fine.name, fine.remedy) == ("numpy", "")
    assert old.remedy == 'pip install "numpy>=99"'
    assert (missing.found, missing.remedy) == ("", 'pip install "no-such-thing>=2"')
    assert broken.found == "fails: No module named 'no_such_module'"


def test_packages_that_were_not_made_for_each_other_are_mended_with_pip(monkeypatch):
    """To the versions that were tried together. torchaudio 2.11.1 says torch>=2.11, and needs 2.12."""

    def fails(name):
        raise RuntimeError("compiled with different CUDA versions\nand more")

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    pinned = project["tool"]["uv"]["constraint-dependencies"]
    ranges = {r.name: r.specifier for r in map(Requirement, project["project"]["dependencies"])}
    monkeypatch.setattr(doctor, "import_module", fails)
    monkeypatch.setattr(doctor, "requires", lambda _: [])
    monkeypatch.setattr(doctor, "FRAGILE", ("torchaudio", "cv2", "soundfile"))
    audio, cv2, soundfile = list(doctor.packages())[1:4]
    assert audio.found == "fails: compiled with different CUDA versions"
    wanted = dict(re.findall(r"(\w+)==([\d.]+)", audio.remedy))
    assert wanted.keys() == {"torch", "torchaudio", "torchvision"}
    for name, version in wanted.items():
        assert f"{name}=={version}" in pinned
        assert ranges[name].contains(version)
    assert not ranges["torchaudio"].contains("2.11.1")
    assert cv2.remedy.endswith(next(line for line in pinned if line.startswith("opencv-python-headless")))
    assert "--force-reinstall" in soundfile.remedy


def test_opencv_packages_that_overwrote_each_other_are_mended_by_one_version(monkeypatch):
    """insightface asks for opencv-python, the open profile's extra for opencv-python-headless: both fill cv2."""
    here = {"opencv-python-headless": "5.0.0.93", "opencv-python": "4.12.0.88"}
    monkeypatch.setattr(doctor, "requires", lambda _: [])
    monkeypatch.setattr(doctor, "FRAGILE", ())
    monkeypatch.setattr(doctor, "installed", lambda name: here.get(name, ""))
    _, line = doctor.packages()
    assert line.found == "opencv-python-headless 5.0.0.93 and opencv-python 4.12.0.88"
    assert line.remedy.startswith("pip uninstall --yes opencv-python ")
    here["opencv-python"] = "5.0.0.93"  # the same files, but for windows
    assert [check.name for check in doctor.packages()] == ["Python"]
