"""README promises no network: nothing is looked up or connected to, from Python or from native code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from fakes import spoken

from v2f_core.artefacts.profiles import load_profile
from v2f_core.data.voxceleb import open_dataset

ROOT = Path(__file__).parents[2]
# Run by every Python that starts below this folder: calls to the network are written down and refused, and it is noted
# what onnxruntime, which looks up a host from native code, was told when its import began.
WATCH = """
import json, os, socket, sys

def note(**what):
    with open(os.environ["WATCHED"], "a") as file:
        file.write(json.dumps(what) + "\\n")

def refused(name, was):
    def call(*arguments, **options):
        if isinstance(arguments[0], socket.socket) and arguments[0].family not in (socket.AF_INET, socket.AF_INET6):
            return was(*arguments, **options)
        note(call=name, arguments=repr(arguments[-2:]))
        raise OSError("the network is watched")
    return call

class Sockets(socket.socket):
    pass

for name in ("connect", "connect_ex", "sendto"):
    setattr(Sockets, name, refused(name, getattr(socket.socket, name)))
socket.socket = Sockets
for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "create_connection"):
    setattr(socket, name, refused(name, getattr(socket, name)))

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            note(onnxruntime=os.environ.get("ORT_DISABLE_TELEMETRY"))

sys.meta_path.insert(0, Finder())
"""
COMMANDS = """
import sys
from v2f_core.cli import main
for line in sys.argv[1:]:
    try:
        main(line.split("|"))
    except SystemExit as end:
        assert not end.code, line
"""


@pytest.fixture
def watched(tmp_path):
    """Runs Python under watch, online as far as the libraries know; gives what was noted."""
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)
    log = tmp_path / "network.jsonl"
    left = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "ORT_"))}
    paths = os.pathsep.join([str(tmp_path / "watch"), str(ROOT)])
    environment = {**left, "PYTHONPATH": paths, "WATCHED": str(log), "V2F_CACHE": str(tmp_path / "cache")}

    def run(code, *arguments, **more):
        log.touch()
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment | more, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return [json.loads(line) for line in log.read_text().splitlines()]

    return run


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """MiniVox with six persons of each split and sex."""
    manifest = open_dataset(load_profile("mini"))
    persons = manifest.persons().groupby(["split", "sex"]).head(6).index
    root = tmp_path_factory.mktemp("few")
    for top in manifest.root.iterdir():
        (root / top.name).symlink_to(top)
    manifest.table[manifest.table.person.isin(persons)].to_csv(root / "manifest.csv", index=False)
    return root


def only_onnxruntime(notes, told):
    """Nothing but looks for onnxruntime, one or more, each under that setting of its telemetry."""
    return bool(notes) and all(note == {"onnxruntime": told} for note in notes)


def test_the_watch_sees_the_network(watched):
    code = """
import contextlib, socket, urllib.request
for call in (
    lambda: socket.create_connection(("192.0.2.1", 9)),
    lambda: socket.socket().connect(("192.0.2.1", 9)),
    lambda: socket.getaddrinfo("example.org", 443),
    lambda: urllib.request.urlopen("http://192.0.2.1"),
):
    with contextlib.suppress(OSError):
        call()
"""
    assert len(watched(code)) == 4


@pytest.mark.slow
def test_the_commands_use_no_network(watched, few, tmp_path):
    soundfile.write(tmp_path / "voice.wav", spoken(3), 16_000)
    commands = ["extract", "demo", "generate|voice.wav|-n|1", "evaluate|--steps|2"]
    assert only_onnxruntime(watched(COMMANDS, *commands, V2F_DATASET=str(few)), told="1")
    for made in ("outputs/demo/gallery.png", "outputs/generate/voice_0.png", "outputs/evaluate/report.html"):
        assert (tmp_path / made).is_file(), made


def test_the_user_s_own_choice_about_onnxruntime_is_kept(watched):
    assert only_onnxruntime(watched("import v2f_core, onnxruntime", ORT_DISABLE_TELEMETRY="0"), told="0")
