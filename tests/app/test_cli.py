"""The command line: a user's mistake is one line on stderr and exit code 2, nothing half-written."""

import errno
import os

import pytest
import torch

from v2f_core import cli
from v2f_core.errors import InputError


def call(*arguments):
    with pytest.raises(SystemExit) as end:
        cli.main(list(map(str, arguments)))
    return end.value.code


def test_an_input_error_is_one_line_and_exit_code_2(monkeypatch, capsys):
    def refuse(profile):
        raise InputError("voice.wav: not\n   audio; give a WAV")

    monkeypatch.setattr("v2f_core.app.doctor.doctor", refuse)
    assert call("doctor") == 2
    assert capsys.readouterr() == ("", "error: voice.wav: not audio; give a WAV\n")


def test_any_other_error_is_not_hidden(monkeypatch):
    def fail(profile):
        raise ZeroDivisionError

    monkeypatch.setattr("v2f_core.app.doctor.doctor", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["doctor"])


@pytest.mark.parametrize("kind", [PermissionError, OSError])
def test_a_place_that_cannot_be_written_to_is_one_line_wherever_it_shows(monkeypatch, capsys, kind):
    number = errno.EACCES if kind is PermissionError else errno.ENOSPC

    def fail(profile):
        raise OSError(number, os.strerror(number), "runs/events")

    monkeypatch.setattr("v2f_core.app.doctor.doctor", fail)
    assert call("doctor") == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"error: runs/events: {os.strerror(number)}; free room, or choose a folder")


@pytest.mark.parametrize(
    "command", ["stage1", "stage1 --unfreeze 1", "posterior", "stage2", "ablate table4", "evaluate", "demo"]
)
def test_an_out_that_cannot_be_is_told_before_anything_is_computed(command, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert call(*command.split(), "--out", tmp_path / "file" / "out") == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"error: {tmp_path / 'file'}: a file, not a folder; choose another folder with --out\n")


@pytest.mark.parametrize("command", ["generate voice.wav", "demo", "extract", "stage1", "stage2", "ablate rank"])
def test_an_unknown_profile_is_refused_by_every_command(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(*command.split(), "--profile", "huge") == 2
    assert capsys.readouterr() == (
        "",
        "error: huge: no such profile; choose mini, open or full (--profile or V2F_PROFILE)\n",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["extract", "stage1", "generate voice.wav"])
def test_a_device_that_is_not_there_is_refused(command, monkeypatch, capsys):
    def empty(*_, device):
        raise RuntimeError(f"no {device}\nhere")

    monkeypatch.setattr(torch, "empty", empty)
    assert call(*command.split(), "--device", "cuda") == 2
    assert capsys.readouterr().err == "error: cuda: this machine's torch cannot use it; choose another --device\n"
    assert call(*command.split(), "--device", "abacus") == 2


def test_options_of_unfreezing_need_it(capsys):
    assert call("stage1", "--aligner", "runs/stage1") == 2
    assert "belongs to --unfreeze" in capsys.readouterr().err
