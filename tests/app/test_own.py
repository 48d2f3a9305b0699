"""Your own persons: from a folder to a table; what is bad is named; a person who withdraws is gone."""

import re
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from PIL import Image

from v2f_core.app import own
from v2f_core.artefacts import profiles
from v2f_core.artefacts.profiles import MINI_ASSETS, cache_folder, load_profile
from v2f_core.artefacts.weights import open_faces
from v2f_core.cli import main
from v2f_core.data.voxceleb import open_dataset
from v2f_core.errors import InputError

TESTS = Path(__file__).parents[1]
PERSONS = ("121", "1284", "1320", "2094", "3575", "4077", "4507", "5142", "61", "6930")


def person_rows(root, people):
    """A real clip and a portrait of MiniVox for each person, women and men in turn; the rows of their table."""
    lines = []
    with tarfile.open(MINI_ASSETS / "minivox" / "faces.tar") as portraits:
        for i, person in enumerate(people):
            shutil.copy(TESTS / "data" / "real_voices" / f"{person}_0.flac", root / "clips")
            sitter = i + (i > 7)  # in number 8's portrait the detector sees a second face
            portrait = portraits.extractfile(f"vox1/origin_faces/Mini_{sitter:04d}/0.webp")
            Image.open(portrait).convert("RGB").save(root / f"{person}.png")
            lines.append(f"{person},clips/{person}_0.flac,{person}.png,{'fm'[i % 2]}")
    return lines


def profile_of(root):
    mini = load_profile("mini")
    return replace(mini, dataset=root, dataset_is_packed=False, encoder="ge2e", clip_seconds=1.6, own_data=True)


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A folder with ten made-up persons (``class``) and the cache in which they are embedded."""
    folder = tmp_path_factory.mktemp("once")
    root = folder / "class"
    (root / "clips").mkdir(parents=True)
    lines = ["person,clip,photo,sex", *person_rows(root, PERSONS)]
    (root / "pairs.csv").write_text("\n".join(lines) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("V2F_CACHE", str(folder / "cache"))
        own.embed_dataset(profile_of(root), open_dataset(profile_of(root)))
    return folder


@pytest.fixture
def profile(once, tmp_path, monkeypatch):
    """Ten made-up persons with the miniature's face pack."""
    monkeypatch.setenv("V2F_CACHE", str(tmp_path / "cache"))
    return profile_of(shutil.copytree(once / "class", tmp_path / "class"))


@pytest.fixture
def embedded(once, profile, tmp_path):
    """The same persons, embedded before; copies keep the times by which a changed file is noticed."""
    shutil.copytree(once / "cache", tmp_path / "cache")


@pytest.fixture
def open_profile(profile, tmp_path, monkeypatch):
    """`--profile open` on the ten persons, with the miniature's face pack: the extra need not be installed."""
    real = profiles.PROFILES["open"]
    mine = lambda: replace(real(), faces=profile.faces)  # noqa: E731
    monkeypatch.setitem(profiles.PROFILES, "open", mine)
    monkeypatch.setenv("V2F_OPEN", str(tmp_path / "open"))
    monkeypatch.setenv("V2F_DATASET", str(profile.dataset))


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, arguments)))
    return stopped.value.code


def test_a_folder_becomes_a_table_beside_ridge_regression_and_a_card(embedded, profile, tmp_path, capsys):
    page = own.own(profile, tmp_path / "out", deals=1, steps=2)
    text = page.read_text()
    assert text.startswith("# Stage I on 10 persons (5 f, 5 m)")
    assert "No faces are drawn" in text
    out, err = capsys.readouterr()
    assert re.search(r"^ +ridge regression  ?-?0\.\d{3} \[", out, re.MULTILINE)
    assert f"answer: {profile.dataset / 'CARD.md'}" in out
    assert "<br>" not in out
    assert "folds: 100%" in err
    table = pd.read_csv(tmp_path / "out" / "stage1.csv")
    rows = {"mean face", "same-sex mean face", "shuffled voice", "full", "ridge regression", "ridge, likelihood ratio"}
    assert set(table.system) == rows | {"chance"}
    assert (table.n.dropna() == 10).all()
    card = (profile.dataset / "CARD.md").read_text()
    assert "consent" in card
    assert "python -m v2f_core forget class NAME" in card


def test_who_withdraws_is_in_no_file_and_no_store(embedded, profile):
    stores = [mark.parent for mark in cache_folder().rglob("provenance.json")]
    assert len(stores) == 2
    assert any(b"1284" in path.read_bytes() for store in stores for path in store.iterdir())
    (profile.dataset / "clips" / "1284_0.flac").unlink()  # by a withdrawal that was cut short
    assert len(own.forget(profile, "1284")) == 4  # a file, a row, two stores
    left = [path for folder in (profile.dataset, cache_folder()) for path in folder.rglob("*") if path.is_file()]
    assert left
    assert not any("1284" in path.name or b"1284" in path.read_bytes() for path in left if "minivox" not in str(path))
    assert "1284" not in open_dataset(profile).persons().index
    assert len(open_dataset(profile).persons()) == 9
    with pytest.raises(InputError, match=r"1284: nobody in .* has this name"):
        own.forget(profile, "1284")


def test_a_withdrawal_takes_the_persons_own_rows_alone(profile):
    """Another column may hold what is one person's name: a session, a sex; and a table looks as it did."""
    table = profile.dataset / "pairs.csv"
    lines = ["person;clip;photo;sex;session"]
    lines += [f'"{name}";clips\\{name}_0.flac;.\\{name}.png;f;{PERSONS[i - 1]}' for i, name in enumerate(PERSONS)]
    table.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    assert len(own.forget(profile, "1284")) == 3  # two files, one row
    assert table.read_bytes() == "\r\n".join(line for line in lines if '"1284"' not in line).encode("utf-8-sig")
    with pytest.raises(InputError, match=r"f: nobody in .* has this name"):
        own.forget(profile, "f")
    with pytest.raises(InputError, match="synthetic persons; nobody can withdraw"):
        own.forget(load_profile("mini"), "Ada")


def test_of_a_persons_folder_nothing_is_left(profile):
    """Neither what cannot be used nor what file managers hide there."""
    root = profile.dataset
    (root / "pairs.csv").unlink()
    for name in PERSONS:
        (root / f"P{name}").mkdir()
        shutil.move(root / f"{name}.png", root / f"P{name}")
        shutil.move(root / "clips" / f"{name}_0.flac", root / f"P{name}")
    for name in ("consent.pdf", ".DS_Store", "holiday/long.mov"):
        (root / "P121" / name).parent.mkdir(exist_ok=True)
        (root / "P121" / name).write_bytes(b"P121")
    assert len(own.forget(profile, "P121")) == 5
    assert not (root / "P121").exists()
    assert len(open_dataset(profile).persons()) == 9


def test_bad_files_are_named_the_others_used_and_who_withdraws_is_in_no_output(profile, tmp_path, capsys):
    clips, out = profile.dataset / "clips", tmp_path / "out"
    Image.new("RGB", (128, 128), "grey").save(profile.dataset / "121.png")
    (clips / "1284_0.flac").write_bytes(b"no sound")
    (one, rate), (other, _) = (soundfile.read(clips / f"{name}_0.flac") for name in ("61", "2094"))
    soundfile.write(clips / "61_0.flac", np.concatenate([one, other]), rate)
    assert "# Stage I on 8 persons" in own.own(profile, out, deals=1, steps=2).read_text()
    left = pd.read_csv(out / "left_out.csv").set_index("item").why
    assert "no face found" in left["121.png"]
    assert left["clips/1284_0.flac"].startswith("not an audio file")
    err = capsys.readouterr().err
    assert err.count("left out: ") == 2
    told = [line for line in err.splitlines() if line.startswith("note: ")]
    assert told == ["note: clips/61_0.flac: sounds like two persons; listen to it"]
    own.forget(profile, "1284", out)
    assert not any("1284" in path.read_text() for path in out.iterdir())


def test_a_changed_photograph_is_embedded_again(embedded, profile):
    manifest = open_dataset(profile)
    before = own.embed_dataset(profile, manifest)[1].of(["121.png"])[0]
    shutil.copy(profile.dataset / "61.png", profile.dataset / "121.png")
    after = own.embed_dataset(profile, manifest)[1]
    assert not after.of(["121.png"])[0].allclose(before)
    assert after.of(["121.png"])[0].allclose(after.of(["61.png"])[0])
    (profile.dataset / "121.png").unlink()
    with pytest.raises(InputError, match=r"121\.png: no such file \(1 of 20 are missing\)"):
        own.embed_dataset(profile, manifest)


def test_one_person_alone_and_a_missing_folder_are_one_line(profile, tmp_path, capsys, monkeypatch):
    lines = (profile.dataset / "pairs.csv").read_text().splitlines()
    (profile.dataset / "pairs.csv").write_text("\n".join(lines[:2]) + "\n")
    with pytest.raises(InputError, match="1 person with a usable voice and face: expected at least 8"):
        own.own(profile, tmp_path / "out")
    assert not cache_folder().exists()  # said before anything is embedded
    with pytest.raises(SystemExit):
        main(["own", str(tmp_path / "none")])
    assert "none: no such folder; give one with pairs.csv, or with a folder for each person" in capsys.readouterr().err


def test_the_whole_way_by_commands(open_profile, profile, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("V2F_PROFILE", "open")
    assert run("doctor") == 0
    assert "The open profile is ready: try python -m v2f_core own FOLDER." in capsys.readouterr().out
    lines = ["person,clip,photo,sex", *person_rows(profile.dataset, (*PERSONS, "7176", "908"))]  # a posterior needs 8
    lines.append("121,,bad.png,f")  # 1 of 13 photographs, more than a large dataset may have
    (profile.dataset / "pairs.csv").write_text("\n".join(lines) + "\n")
    (profile.dataset / "bad.png").write_bytes(b"no picture")
    assert run("scan") == 0
    assert "train: 8 persons (4 f, 4 m), 9 faces, 8 recordings" in capsys.readouterr().out
    assert run("extract") == 0
    out, err = capsys.readouterr()
    assert "faces: 12 embeddings, 1 files skipped" in out
    assert re.search(r"^left out: bad\.png: .*cannot be read as a picture", err, re.MULTILINE)
    assert run("evaluate", "--out", tmp_path / "early") == 2
    assert re.fullmatch(r"error: .*open/aligner: .* missing; train it \(.*\).*\n", capsys.readouterr().err)
    assert run("stage1", "--steps", 2, "--out", tmp_path / "open" / "aligner") == 0
    assert run("evaluate", "--out", tmp_path / "report") == 0
    assert "no posterior is trained yet" in (tmp_path / "report" / "stage1.md").read_text()
    assert run("posterior", "--out", tmp_path / "open" / "posterior") == 0
    assert run("evaluate", "--out", tmp_path / "report") == 0
    page = (tmp_path / "report" / "stage1.md").read_text()
    for row in ("mean face", "shuffled voice", "full", "ridge regression"):
        assert f"| {row} |" in page
    assert "| R@10 by ratio |" in page
    assert "Left out: all rows and measures of drawn faces. No open generator knows these identities" in page
    assert "no posterior is trained yet" not in page


@pytest.mark.parametrize(
    "command",
    ["generate voice.wav", "demo", "stage2", "ablate table4", "evaluate --tune", "evaluate --stage2 runs/stage2"],
)
def test_what_draws_is_refused_in_a_line_before_anything_else(command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*command.split(), "--profile", "open") == 2
    out, err = capsys.readouterr()
    assert re.fullmatch(r"error: the open profile draws no faces: .*; choose another profile, .*\n", err)
    assert (out, list(tmp_path.iterdir())) == ("", [])


@pytest.mark.skipif(open_faces() is None, reason="the extra is not installed: make open")
def test_a_photograph_of_two_persons_is_refused_and_a_bystander_is_not(profile, tmp_path):
    from skimage import data

    astronaut = Image.fromarray(data.astronaut()).crop((100, 0, 356, 256))
    both, crowd = Image.new("RGB", (512, 256)), Image.new("RGB", (512, 256))
    for picture, small in ((both, 256), (crowd, 90)):
        picture.paste(astronaut, (0, 0))
        picture.paste(astronaut.resize((small, small)), (256, 0))
    both.save(profile.dataset / "121.png")
    crowd.save(profile.dataset / "1284.png")
    table = "person,clip,photo\nA,clips/121_0.flac,121.png\nB,clips/1284_0.flac,1284.png\n"
    (profile.dataset / "pairs.csv").write_text(table)
    chosen = replace(load_profile("open"), dataset=profile.dataset)
    faces = own.embed_dataset(chosen, open_dataset(chosen))[1]
    assert faces.items == ["1284.png"]
    assert faces.vectors.shape == (1, 128)
    assert "2 faces in it; expected one person" in dict(faces.skipped)["121.png"]
