"""Files are whole or absent, whatever happens while they are written, and are compared with their hashes."""

import errno
import json
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from v2f_core.artefacts.files import (
    atomic_write,
    check_hashes,
    check_writable,
    folder_hash,
    is_plain_name,
    safe_name,
    sha256,
    staged,
)
from v2f_core.errors import InputError


def write(path, error=None):
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        if error:
            raise error


@pytest.fixture
def path(tmp_path):
    (tmp_path / "weights.json").write_text("old")
    return tmp_path / "weights.json"


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), FileNotFoundError(2, "no such file")])
def test_a_file_is_replaced_as_a_whole_and_an_error_leaves_the_old_one(path, error):
    with pytest.raises(type(error)):
        write(path, error)
    assert path.read_text() == "old"
    write(path)
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), SafetensorError("os error 28")])
def test_a_full_disk_is_named_with_the_way_out(path, error):
    with pytest.raises(InputError, match="disk is full, nothing was written; free room and run it again") as caught:
        write(path, error)
    assert str(path) in str(caught.value)
    assert path.read_text() == "old"


def test_a_folder_that_is_a_file_or_closed_is_named(path, monkeypatch):
    with pytest.raises(InputError, match="cannot be written"):
        write(path / "deeper.json")
    with pytest.raises(InputError, match=r"weights\.json: a file, not a folder"):
        check_writable(path / "deeper")
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)  # root may write anywhere
    with pytest.raises(InputError, match="no permission to write here"):
        check_writable(path.parent / "deeper")


def test_staged_files_appear_together_or_not_at_all(tmp_path):
    def fail():
        with staged(tmp_path / "new") as stage:
            (stage / "half").touch()
            raise InputError("no")

    with pytest.raises(InputError):
        fail()
    assert not (tmp_path / "new").exists()
    with staged(tmp_path / "new") as stage:
        (stage / "whole").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["whole"]


def test_a_hash_of_a_folder_depends_on_names_and_contents_but_not_on_a_training_s_leftovers(tmp_path):
    (tmp_path / "a").write_text("1")
    first = folder_hash(tmp_path)
    (tmp_path / "checkpoint.pt").write_text("2")
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "events").write_text("3")  # version 0.1's
    assert folder_hash(tmp_path) == first
    (tmp_path / "a").rename(tmp_path / "b")
    assert folder_hash(tmp_path) != first


def test_a_file_that_changes_after_its_first_use_is_noticed(tmp_path):
    folder, table = tmp_path / "ast", tmp_path / "SHA256.json"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    check_hashes(folder, "delete its line", add=True)
    assert json.loads(table.read_text()) == {"ast/config.json": sha256(folder / "config.json")}
    (folder / "config.json").write_text("other")
    with pytest.raises(InputError, match=r"config\.json: missing, or differs from its hash .*; delete its line"):
        check_hashes(folder, "delete its line", add=True)
    table.write_text("{,}")
    with pytest.raises(InputError, match=r"SHA256\.json: cannot be read as JSON .*delete it to have every file's hash"):
        check_hashes(folder, "delete its line", add=True)


@pytest.mark.parametrize("name", ["../x", "/x", "a\\b", "..", "", "con", "x" * 300, "new\nline", "ends. ", "ünï?"])
def test_any_text_becomes_a_file_s_name_inside_its_folder(tmp_path, name):
    (tmp_path / f"{safe_name(name)}.png").touch()
    assert [path.parent for path in tmp_path.rglob("*.png")] == [tmp_path]
    assert is_plain_name(safe_name(name))
    assert safe_name(name) != safe_name(name + "?")
    assert len(Path(safe_name(name)).name.encode()) < 120
