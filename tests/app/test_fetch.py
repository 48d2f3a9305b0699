"""``fetch``: each part is reported, terms are asked about, and one failure ends with code 2."""

import io
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch

from v2f_core.artefacts.profiles import MINI_ASSETS
from v2f_core.artefacts.weights import ORIGINS
from v2f_core.cli import main


@pytest.fixture(autouse=True)
def nowhere_else(tmp_path, monkeypatch):
    """No cache and no home of whoever runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1e12}))
    monkeypatch.setenv("V2F_FULL", str(tmp_path / "full"))


def fetch(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["fetch", *arguments])
    return stopped.value.code


def test_every_part_is_reported_and_one_that_cannot_be_had_ends_with_2(tmp_path, capsys):
    folder = tmp_path / "published" / "speechbrain" / "spkrec-ecapa-voxceleb"
    folder.mkdir(parents=True)
    for name in ("hyperparams.yaml", "label_encoder.txt"):
        (folder / name).write_text(name)
    for name in ("embedding_model.ckpt", "mean_var_norm_emb.ckpt", "classifier.ckpt"):
        torch.save({"weight": torch.zeros(1)}, folder / name)
    assert fetch("ecapa", "judge", "--local", str(tmp_path / "published")) == 2
    out, err = capsys.readouterr()
    assert "ecapa/classifier.ckpt: from " in out
    assert "judge: resnet50_ft_weight.pkl is given out by hand" in err
    assert len(err.strip().splitlines()) == 1


def test_a_folder_that_is_not_there_is_no_reason_to_download(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert fetch("ast", "prior", "--local", "publishd", "--accept") == 2
    assert capsys.readouterr().err.startswith("error: publishd: no such folder; give --local one that holds files")


def test_a_user_who_cannot_be_asked_is_told_how_to_agree_beforehand(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert fetch("scorer") != 0
    out, err = capsys.readouterr()
    assert "InsightFace's models are for non-commercial research only" in out
    assert "--accept agrees beforehand" in err


class Server(BaseHTTPRequestHandler):
    """Serves one zip and knows ranges."""

    content, requests = b"", []

    def do_GET(self):
        wanted = self.headers.get("Range")
        Server.requests.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start:])

    def log_message(self, *_):
        pass


def test_a_pack_s_download_goes_on_where_it_broke_off(tmp_path, monkeypatch):
    nets = {"det_10g.onnx": MINI_ASSETS / "faces" / "det_mini.onnx"}
    nets["w600k_r50.onnx"] = MINI_ASSETS / "faces" / "arcface_mini.onnx"
    with zipfile.ZipFile(tmp_path / "pack.zip", "w") as archive:
        for name, net in nets.items():
            archive.write(net, name)
    monkeypatch.setattr(Server, "content", (tmp_path / "pack.zip").read_bytes())
    monkeypatch.setattr(Server, "requests", [])
    part = tmp_path / "full" / ".downloads" / "buffalo_l.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(Server.content[:100])
    with ThreadingHTTPServer(("localhost", 0), Server) as running:
        Thread(target=running.serve_forever, daemon=True).start()
        (origin,) = ORIGINS["scorer"]
        address = f"http://localhost:{running.server_address[1]}/pack.zip"
        monkeypatch.setitem(ORIGINS, "scorer", (replace(origin, archive=address),))
        assert fetch("scorer", "--accept") == 0
        running.shutdown()
    assert Server.requests == ["bytes=100-"]
    for name, net in nets.items():
        assert (tmp_path / "full" / "scorer" / name).read_bytes() == net.read_bytes()
    assert not part.parent.exists()
