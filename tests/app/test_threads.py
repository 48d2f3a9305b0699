"""The command line computes with threads that sleep while they wait; what the user set is kept."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
several_cores = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core has one thread")
OTHER_VOICE = next(ROOT.rglob("other_voice.ogg"))
# the command line as it starts; then what torch makes of the environment it left
ASK = """
import sys
from v2f_core.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
import os, torch
print(os.environ["OMP_WAIT_POLICY"], torch.get_num_threads())
"""


def environment(**chosen):
    ours = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "V2F_PROFILE")
    return {name: value for name, value in os.environ.items() if name not in ours} | chosen


def threads(*arguments, **chosen):
    """The waiting policy and the number of threads under which a command computes."""
    command = [sys.executable, "-c", ASK, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment(**chosen), capture_output=True, text=True, check=True)
    policy, number = done.stdout.split()[-2:]
    return policy, int(number)


def test_the_miniature_computes_with_one_passive_thread():
    assert threads("generate", "no.wav") == ("PASSIVE", 1)


@several_cores
def test_what_the_user_set_is_kept():
    assert threads("generate", "no.wav", OMP_NUM_THREADS="2", OMP_WAIT_POLICY="ACTIVE") == ("ACTIVE", 2)
