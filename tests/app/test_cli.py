"""The command line: a user's mistake is one line on stderr and exit code 2, nothing half-written."""

import errno
import os
import re
import subprocess
import sys
from unittest.mock import Mock

import pytest
import torch

from v2f_core import cli
from v2f_core.errors import InputError


def call(*arguments):
    with pytest.raises(SystemExit) as end:
        cli.main(list(map(str, arguments)))
    return end.value.code


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("voice.wav: not\n   audio; give a WAV"), "voice.wav: not audio; give a WAV"),
        (PermissionError(errno.EACCES, "denied", "runs/a"), "runs/a: denied; free room, or choose a folder .*"),
        (OSError(errno.ENOSPC, "no space", "runs/a"), "runs/a: no space; free room, or choose a folder .*"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_exit_code_2(monkeypatch, capsys, error, line):
    monkeypatch.setattr("v2f_core.app.doctor.doctor", Mock(side_effect=error))
    assert call("doctor") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(f"error: {line}\n", err)


def test_any_other_error_is_not_hidden(monkeypatch):
    monkeypatch.setattr("v2f_core.app.doctor.doctor", Mock(side_effect=ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):
        cli.main(["doctor"])


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


@pytest.mark.parametrize("command", ["extract", "generate voice.wav"])
def test_a_device_that_is_not_there_is_refused(command, monkeypatch, capsys):
    monkeypatch.setattr(torch, "empty", Mock(side_effect=RuntimeError("no cuda\nhere")))
    assert call(*command.split(), "--device", "cuda") == 2
    assert capsys.readouterr().err == "error: cuda: this machine's torch cannot use it; choose another --device\n"
    assert call(*command.split(), "--device", "abacus") == 2


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("stage1 --aligner runs/stage1", "belongs to --unfreeze"),
        ("evaluate --systems median", "median: no row that can be drawn; choose of mean face"),
        ("ablate table9", "'table9' is not one of 'table4', 'modes', 'rank'"),
    ],
)
def test_an_option_that_cannot_be_followed_is_refused_before_any_work(command, line, capsys):
    assert call(*command.split()) == 2
    assert line in capsys.readouterr().err


# --- threads that sleep while they wait; what the user set is kept


@pytest.mark.parametrize("chosen", [{}, {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "ACTIVE"}])
def test_the_miniature_computes_with_one_passive_thread_unless_the_user_chose(chosen, monkeypatch):
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    call("generate", "no.wav", "--device", "mps")
    expected = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"} | chosen
    assert {name: os.environ[name] for name in expected} == expected


# a command; then what torch makes of the environment that it left
ASK = """
import contextlib, os, sys
from v2f_core.cli import main
with contextlib.suppress(SystemExit):
    main(["generate", "no.wav"])
import torch
print(os.environ["OMP_WAIT_POLICY"], torch.get_num_threads())
"""


@pytest.mark.slow
def test_a_command_sets_them_before_torch_reads_them():
    left = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "V2F_PROFILE"))}
    done = subprocess.run([sys.executable, "-c", ASK], env=left, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == ["PASSIVE", "1"]
