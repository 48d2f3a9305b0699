"""The command line computes with threads that sleep while they wait; what the user set is kept."""

import os
import subprocess
import sys

import pytest

from v2f_core.cli import main

# a command; then what torch makes of the environment that it left
ASK = """
import contextlib, os, sys
from v2f_core.cli import main
with contextlib.suppress(SystemExit):
    main(sys.argv[1:])
import torch
print(os.environ["OMP_WAIT_POLICY"], torch.get_num_threads())
"""


@pytest.mark.parametrize("chosen", [{}, {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "ACTIVE"}])
def test_the_miniature_computes_with_one_passive_thread_unless_the_user_chose(chosen, monkeypatch):
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        main(["generate", "no.wav", "--device", "mps"])
    expected = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"} | chosen
    assert {name: os.environ[name] for name in expected} == expected


@pytest.mark.slow
def test_a_command_sets_them_before_torch_reads_them():
    left = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "V2F_PROFILE"))}
    command = [sys.executable, "-c", ASK, "generate", "no.wav"]
    done = subprocess.run(command, env=left, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == ["PASSIVE", "1"]
