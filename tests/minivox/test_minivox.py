"""MiniVox travels in archives of the same bytes everywhere and is unpacked whole, once, or not at all."""

import json
import os
import tarfile

import pytest

from minivox.build.pack import write_hashes
from minivox.dataset import factors, pack
from v2f_core.data import packed as minivox
from v2f_core.data.voxceleb import read_layout
from v2f_core.errors import InputError

FILES = {
    "vox1/origin_faces/Mini_0000/0.webp": b"face",
    "vox1/wav/id90000/v000/00001.ogg": b"voice",
    "vox1_meta.csv": b"VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\nid90000\tMini_0000\tf\tnone\ttest\n",
    "split.csv": b"name,split\nMini_0000,test\n",
    "factors.csv": b"name,person,split,sex,age\nMini_0000,id90000,test,f,33\n",
}


@pytest.fixture
def made(tmp_path):
    """A MiniVox of one person, as the build makes it."""
    for name, content in FILES.items():
        (tmp_path / "made" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "made" / name).write_bytes(content)
    return tmp_path / "made"


@pytest.fixture
def packed(made, tmp_path):
    pack(made, tmp_path / "assets" / "minivox")
    write_hashes(tmp_path / "assets")
    return tmp_path / "assets" / "minivox"


def content(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_an_unpacked_minivox_has_the_packed_files_in_hq_voxcelebs_layout(packed, tmp_path):
    root = minivox.unpack(tmp_path / "cache", packed)
    assert content(root) == FILES
    manifest = read_layout(root)
    assert manifest.persons().loc["Mini_0000"].tolist() == ["f", "test", 1, 1]
    assert factors(manifest.root).loc["Mini_0000", "age"] == 33
    with pytest.raises(InputError, match=r"factors\.csv: no such file"):
        factors(tmp_path)


def test_archives_do_not_depend_on_time_or_order_and_versions_do_not_mix(made, packed, tmp_path):
    for name in reversed(list(FILES)):
        (made / name).unlink()
        (made / name).write_bytes(FILES[name])
        os.utime(made / name, (1, 1))
        (made / name).chmod(0o600)
    again = pack(made, tmp_path / "again")
    for name in again:
        assert (tmp_path / "again" / name).read_bytes() == (packed / name).read_bytes()
    first = minivox.unpack(tmp_path / "cache", packed)
    (made / "split.csv").write_bytes(b"name,split\nMini_0000,train\n")
    pack(made, packed)
    write_hashes(packed.parent)
    second = minivox.unpack(tmp_path / "cache", packed)
    assert (first / "split.csv").read_bytes() != (second / "split.csv").read_bytes()
    (made / "vox1/wav/id90000/v000/00001.ogg").unlink()
    with pytest.raises(InputError, match="no vox1/wav"):
        pack(made, tmp_path / "out")


def test_a_failure_halfway_leaves_nothing_and_the_second_time_nothing_is_done(packed, tmp_path, monkeypatch):
    def break_off(archive, target, **_):
        (target / "half").write_text("written")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extractall", break_off)
        with pytest.raises(InputError, match=r"No space left on device.*V2F_CACHE"):
            minivox.unpack(tmp_path / "cache", packed)
    assert list((tmp_path / "cache").iterdir()) == []
    first = minivox.unpack(tmp_path / "cache", packed)
    monkeypatch.setattr(tarfile.TarFile, "extractall", None)
    assert minivox.unpack(tmp_path / "cache", packed) == first


@pytest.mark.parametrize("name", ["faces.tar", "voices.tar", "tables.tar", "../SHA256.json"])
def test_a_missing_or_damaged_archive_is_named(packed, tmp_path, name):
    whole = (packed / name).read_bytes()
    if name.endswith(".tar"):
        (packed / name).write_bytes(whole[:600] + b"!" + whole[601:])
        with pytest.raises(InputError, match=rf"{name}: missing, or differs from its hash in .*; get it again"):
            minivox.unpack(tmp_path / "cache", packed)
    (packed / name).unlink()
    with pytest.raises(InputError, match=r"\.tar: missing, or not in .*SHA256\.json; get it again"):
        minivox.unpack(tmp_path / "cache", packed)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", json.dumps({"minivox/faces.tar": "0"})])
def test_damaged_hashes_and_a_cache_that_is_a_file_are_named(packed, tmp_path, text):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(InputError, match=r"cache: cannot be written to .*; set V2F_CACHE"):
        minivox.unpack(tmp_path / "cache", packed)
    (packed.parent / "SHA256.json").write_text(text)
    with pytest.raises(InputError, match=r"SHA256\.json: cannot be read as JSON|missing, or not in .*SHA256\.json"):
        minivox.unpack(tmp_path / "cache", packed)


@pytest.mark.parametrize("kind", ["climbs out", "link"])
def test_an_archive_with_tricks_is_refused(packed, tmp_path, kind):
    entry = tarfile.TarInfo("../../outside" if kind == "climbs out" else "link.csv")
    if kind == "link":
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(packed / "tables.tar", "w") as archive:
        archive.addfile(entry)
    write_hashes(packed.parent)
    with pytest.raises(InputError, match="no plain files below it"):
        minivox.unpack(tmp_path / "cache", packed)
    assert list((tmp_path / "cache").iterdir()) == []
