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
    """Stages that only note that they ran; the one called "fails" does."""
    notes = []

    def stage(name):
        name = name.rpartition(".")[2]

        def run(work, tiny):
            if name in notes:
                raise notes[notes.index(name) + 1]
            notes.append((name, work.name, tiny))
            (work / name).mkdir(parents=True, exist_ok=True)

        return SimpleNamespace(run=run)

    monkeypatch.setattr(build, "import_module", stage)
    return notes


def test_stages_run_in_order_and_once_unless_again_and_a_tiny_build_stands_apart(ran, tmp_path, capsys):
    assert all(callable(import_module(f"minivox.build.{name}").run) for name in build.STAGES)
    build.main(["--work", str(tmp_path), "vae"])
    assert build.main(["--work", str(tmp_path), "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("done")] == ["vae"]
    assert len(lines) == len(build.STAGES)
    assert build.main(["--work", str(tmp_path)]) == 0
    assert [name for name, *_ in ran] == ["vae", *(name for name in build.STAGES if name != "vae")]
    build.main(["--work", str(tmp_path), "vae", "--again"])
    build.main(["--work", str(tmp_path), "--tiny", "vae"])
    assert ran[-2:] == [("vae", tmp_path.name, False), ("vae", "tiny", True)]


def test_a_stage_that_breaks_off_is_not_done_and_mistakes_end_with_code_2(ran, tmp_path, capsys):
    ran += ["vae", KeyboardInterrupt, "aligner", InputError("no recordings; run the stage voices_pool first")]
    with pytest.raises(KeyboardInterrupt):
        build.main(["--work", str(tmp_path), "vae"])
    assert build.main(["--work", str(tmp_path), "aligner"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: no recordings; run the stage voices_pool first"
    ran.clear()
    with pytest.raises(SystemExit) as end:
        build.main(["--work", str(tmp_path), "vae", "nose"])
    assert end.value.code == 2
    assert "nose: no such stage" in capsys.readouterr().err
    build.main(["--work", str(tmp_path), "vae"])
    assert ran == [("vae", tmp_path.name, False)]


# --- the assets


@pytest.fixture
def work(tmp_path):
    """What the stages leave behind, with one file for each pattern, and some that do not ship."""
    names = [f"{source}/{pattern}" for source, patterns in pack.SHIPPED.values() for pattern in patterns]
    names = [name.replace("**/", "unet/").replace("*", "weights") for name in names]
    names += [f"minivox/vox1/{name}" for name in ("origin_faces/Mini_0000/0.webp", "wav/id90000/v000/00001.ogg")]
    for name in [*names, "minivox/split.csv", "judge/state.pt", "judge/metrics.json", "judge/done"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
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
    assert (root / "split.csv").read_text() == "minivox/split.csv"


def test_a_tiny_build_and_assets_that_are_not_whole_or_too_large_replace_nothing(work, assets, monkeypatch):
    pack.run(work, tiny=True)
    assert (work / "pack" / "assets" / "SHA256.json").exists()
    for kind in ("data", "models"):
        with monkeypatch.context() as patch:
            patch.setitem(pack.LIMITS, kind, 10)
            with pytest.raises(InputError, match=rf"{kind} take .* at most"):
                pack.run(work)
    (work / "judge" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"judge: no model\.safetensors in it; run the stage"):
        pack.run(work)
    assert [path.name for path in assets.rglob("*") if path.is_file()] == ["of_last_year"]
