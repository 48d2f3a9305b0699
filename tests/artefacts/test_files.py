"""Files are whole or absent, whatever happens while they are written."""

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from v2f_core.artefacts.files import atomic_write
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


def test_a_file_is_replaced_as_a_whole(path):
    write(path)
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), FileNotFoundError(2, "no such file")])
def test_what_goes_wrong_leaves_the_old_file_and_nothing_else(path, error):
    with pytest.raises(type(error)):
        write(path, error)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(f"[Errno {errno.ENOSPC}] Error writing bytes to file"),  # Arrow
        SafetensorError(f"I/O error: No space left on device (os error {errno.ENOSPC})"),
    ],
    ids=["Python", "Arrow", "safetensors"],
)
def test_a_full_disk_is_named_with_the_way_out_and_a_rerun_goes_on(path, error):
    with pytest.raises(InputError, match="disk is full, nothing was written; free room and run it again") as caught:
        write(path, error)
    assert str(path) in str(caught.value)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]
    write(path)
    assert path.read_text() == "new"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
def test_a_disk_that_is_really_full(path):
    with pytest.raises(InputError, match="disk is full"), atomic_write(path):
        Path("/dev/full").write_bytes(bytes(100_000))


def test_a_folder_that_is_a_file_is_named(path):
    with pytest.raises(InputError, match="cannot be written"):
        write(path / "deeper.json")
