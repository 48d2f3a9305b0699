"""The build program: stages in order, resumable, and assets that are whole, hashed and small enough for a clone."""

import json
from importlib import import_module
from types import SimpleNamespace

import pytest

from minivox import dataset as minivox
from minivox.build import __main__ as build
from minivox.build import pack
from v2f_core.artefacts.files import sha256
from v2f_core.errors import InputError

pytestmark = pytest.mark.slow


@pytest.fixture
def ran(monkeypatch):
    """Stages that only note that they ran."""
    notes = []

    def stage(name):
        name = name.rpartition(".")[2]

        def run(work, tiny):
            notes.append((name, work.name, tiny))
            (work / name).mkdir(parents=True, exist_ok=True)

        return SimpleNamespace(run=run)

    monkeypatch.setattr(build, "import_module", stage)
    return notes


def names(ran):
    return [name for name, _, _ in ran]


def test_stages_run_in_order_and_once_unless_again(ran, tmp_path, capsys):
    assert all(callable(import_module(f"minivox.build.{name}").run) for name in build.STAGES)
    build.main(["--work", str(tmp_path), "vae"])
    assert build.main(["--work", str(tmp_path), "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("done")] == ["vae"]
    assert len(lines) == len(build.STAGES)
    assert build.main(["--work", str(tmp_path)]) == 0
    assert names(ran) == ["vae", *(name for name in build.STAGES if name != "vae")]
    build.main(["--work", str(tmp_path), "vae", "--again"])
    assert names(ran)[-1] == "vae"


def test_a_stage_that_breaks_off_is_not_done(ran, tmp_path, monkeypatch):
    def fail(work, tiny):
        raise KeyboardInterrupt

    working = build.import_module
    monkeypatch.setattr(build, "import_module", lambda name: SimpleNamespace(run=fail))
    with pytest.raises(KeyboardInterrupt):
        build.main(["--work", str(tmp_path), "vae"])
    monkeypatch.setattr(build, "import_module", working)
    build.main(["--work", str(tmp_path), "vae"])
    assert names(ran) == ["vae"]


def test_a_tiny_build_is_never_taken_for_the_real_one(ran, tmp_path):
    build.main(["--work", str(tmp_path), "--tiny", "vae"])
    build.main(["--work", str(tmp_path), "vae"])
    assert ran == [("vae", "tiny", True), ("vae", tmp_path.name, False)]


def test_an_unknown_stage_and_an_input_error_end_with_code_2(ran, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        build.main(["--work", str(tmp_path), "vae", "nose"])
    assert end.value.code == 2
    assert "nose: no such stage" in capsys.readouterr().err
    assert ran == []

    def fail(work, tiny):
        raise InputError("no recordings; run the stage voices_pool first")

    monkeypatch.setattr(build, "import_module", lambda name: SimpleNamespace(run=fail))
    assert build.main(["--work", str(tmp_path), "aligner"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: no recordings; run the stage voices_pool first"


@pytest.fixture
def work(tmp_path):
    """What the stages leave behind, with one file for each pattern, and some that do not ship."""
    for source, patterns in pack.SHIPPED.values():
        for pattern in patterns:
            path = tmp_path / source / pattern.replace("**/", "unet/").replace("*", "weights")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{source} {pattern}")
    for name in ("vox1/origin_faces/Mini_0000/0.webp", "vox1/wav/id90000/v000/00001.ogg", "split.csv"):
        (tmp_path / "minivox" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "minivox" / name).write_text(name)
    for name in ("judge/state.pt", "judge/metrics.json", "judge/done"):
        (tmp_path / name).write_text("stays")
    return tmp_path


@pytest.fixture
def assets(work, monkeypatch):
    monkeypatch.setattr(pack, "MINI_ASSETS", work / "package")
    (work / "package" / "judge").mkdir(parents=True)
    (work / "package" / "judge" / "of_last_year").write_text("goes")
    return work / "package"


def test_the_assets_have_the_listed_hashes_and_unpack(work, assets, tmp_path):
    pack.run(work)
    files = {path.relative_to(assets).as_posix(): sha256(path) for path in assets.rglob("*") if path.is_file()}
    del files["SHA256.json"]
    assert json.loads((assets / "SHA256.json").read_text()) == files
    assert {name.split("/")[0] for name in files} == {*pack.SHIPPED, "minivox"}
    assert {name for name in files if name.startswith("judge/")} == {"judge/config.json", "judge/model.safetensors"}
    root = minivox.unpack(tmp_path / "cache", assets / "minivox")
    assert (root / "split.csv").read_text() == "split.csv"


def test_a_tiny_build_leaves_the_package_alone(work, assets):
    pack.run(work, tiny=True)
    assert (work / "pack" / "assets" / "SHA256.json").exists()
    assert [path.name for path in assets.rglob("*") if path.is_file()] == ["of_last_year"]


def test_a_missing_part_and_too_large_assets_are_refused_and_nothing_is_replaced(work, assets, monkeypatch):
    for kind in ("minivox", "models"):
        with monkeypatch.context() as patch:
            patch.setitem(pack.LIMITS, kind, 10)
            with pytest.raises(InputError, match=rf"{kind} take .* at most"):
                pack.run(work)
    (work / "judge" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"judge: no model\.safetensors in it; run the stage"):
        pack.run(work)
    assert [path.name for path in assets.rglob("*") if path.is_file()] == ["of_last_year"]
