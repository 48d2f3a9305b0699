"""Published weights come from a folder, a cache or a download, whole, unaltered and with consent, or not at all."""

import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx2  # by which the hub's library downloads
import huggingface_hub
import numpy as np
import onnx
import pytest
import torch
from huggingface_hub import errors
from onnx import TensorProto, helper
from safetensors.numpy import load_file, save_file

from v2f_core.app import doctor
from v2f_core.artefacts import weights
from v2f_core.artefacts.download import download, from_hub
from v2f_core.artefacts.files import sha256
from v2f_core.artefacts.integrity import pin, pin_once
from v2f_core.artefacts.origins import ORIGINS
from v2f_core.artefacts.profiles import load_profile
from v2f_core.cli import main
from v2f_core.errors import InputError

AST = "MIT/ast-finetuned-audioset-10-10-0.4593"
ECAPA = "speechbrain/spkrec-ecapa-voxceleb"


def publish(path: Path) -> Path:
    """Something of the right kind under a published file's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({"weight": np.arange(4.0)}, path)
    elif path.suffix == ".onnx":
        identity = helper.make_node("Identity", ["x"], ["y"])
        ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, [1]) for end in "xy"]
        onnx.save(helper.make_model(helper.make_graph([identity], path.stem, ends[:1], ends[1:])), path)
    elif path.suffix in (".bin", ".ckpt"):
        torch.save({"weight": torch.arange(4.0)}, path)
    elif path.suffix == ".pkl":
        path.write_bytes(pickle.dumps({"bn1.running_mean": np.arange(4.0)}))
    else:
        path.write_text(path.name)
    return path


@pytest.fixture
def published(tmp_path) -> Path:
    """A folder with everything that is published, under its publishers' names."""
    root = tmp_path / "published"
    for origin in {origin for part in ORIGINS.values() for origin in map(Hashable, part)}:
        for file in origin.files.values():
            publish(root / file.path if origin.form else root / origin.name / file.path)
    return root


class Hashable:
    """An origin of a part: one publisher can serve several."""

    def __init__(self, origin):
        self.name, self.files, self.form = origin.name, origin.files, origin.form
        assert isinstance(origin.files, Mapping)


@pytest.fixture(autouse=True)
def nowhere_else(tmp_path, monkeypatch):
    """No cache, no network, no home of whoever runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setenv("V2F_FULL", str(tmp_path / "full"))
    monkeypatch.setattr(weights, "SPARE", 0)


def refuse(*_, **__):
    pytest.fail("a download was tried")


def yes(_) -> bool:
    return True


def in_cache(tmp_path, repository: str, path: str, content: bytes | None = None) -> Path:
    """A file in the hub's cache as the hub's own library lays it out, blobs named by their SHA-256."""
    folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
    source = publish(tmp_path / "upload" / path)
    blob = folder / "blobs" / sha256(source)
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(source.read_bytes() if content is None else content)
    link = folder / "snapshots" / ("0" * 40) / path
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(blob)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text("0" * 40)
    return blob


# --- from a folder


@pytest.mark.parametrize("part", ORIGINS)
def test_every_part_is_completed_from_a_local_folder(tmp_path, published, part):
    folder = tmp_path / "full" / part
    report = weights.fetch(part, folder, agree=refuse, local=published)
    assert len(report) == sum(len(origin.files) for origin in ORIGINS[part])
    assert weights.missing(part, folder) == []
    pinned = json.loads((tmp_path / "full" / "SHA256.json").read_text())
    assert pinned == {
        f"{part}/{path.relative_to(folder).as_posix()}": sha256(path) for path in folder.rglob("*") if path.is_file()
    }
    assert [path.name for path in (tmp_path / "full").iterdir() if path.name.startswith(".")] == []


def test_pickles_arrive_as_safetensors(tmp_path, published):
    weights.fetch("prior", tmp_path / "full" / "prior", agree=refuse, local=published)
    weights.fetch("judge", tmp_path / "full" / "judge", agree=refuse, local=published)
    text = load_file(tmp_path / "full" / "prior" / "text_encoder" / "model.safetensors")
    assert text["weight"].tolist() == [0, 1, 2, 3]
    assert "bn1.num_batches_tracked" in load_file(tmp_path / "full" / "judge" / "model.safetensors")
    assert json.loads((tmp_path / "full" / "judge" / "config.json").read_text())["n_classes"] == 8631
    assert not list((tmp_path / "full").rglob("*.bin")) + list((tmp_path / "full").rglob("*.pkl"))


@pytest.mark.parametrize("inside", ["antelopev2/", ""])
def test_a_pack_may_come_as_its_zip_with_or_without_a_folder_in_it(tmp_path, published, inside):
    with zipfile.ZipFile(published / "antelopev2.zip", "w") as archive:
        for name in ("scrfd_10g_bnkps.onnx", "glintr100.onnx"):
            archive.write(publish(tmp_path / "packed" / name), inside + name)
    folder = tmp_path / "full" / "faces"
    weights.fetch("faces", folder, agree=refuse, local=published)
    # antelopev2's own ArcFace stays behind: Arc2Face was conditioned on another
    assert sorted(path.name for path in folder.iterdir()) == ["arcface.onnx", "scrfd_10g_bnkps.onnx"]


def test_a_stopped_run_leaves_no_part_and_is_gone_on_with(tmp_path, published):
    folder, last = tmp_path / "full" / "ast", published / AST / "model.safetensors"
    whole = last.read_bytes()
    last.write_bytes(whole[:-1])
    with pytest.raises(InputError, match=r"model\.safetensors: half a file"):
        weights.fetch("ast", folder, agree=refuse, local=published)
    assert not folder.exists()
    last.write_bytes(whole)
    assert len(weights.fetch("ast", folder, agree=refuse, local=published)) == 1
    assert folder.is_dir()


@pytest.mark.parametrize(
    ("part", "file"), [("faces", "FoivosPar/Arc2Face/arcface.onnx"), ("ecapa", f"{ECAPA}/embedding_model.ckpt")]
)
def test_half_a_file_is_refused_before_its_hash_is_taken_for_good(tmp_path, published, part, file):
    whole = (published / file).read_bytes()
    (published / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=f"{Path(file).name}: half a file, or not of its kind .*fetch it again"):
        weights.fetch(part, tmp_path / "full" / part, agree=refuse, local=published)
    assert not (tmp_path / "full" / "SHA256.json").exists()
    (published / file).write_bytes(whole)
    weights.fetch(part, tmp_path / "full" / part, agree=refuse, local=published)


def test_a_file_that_is_not_what_it_was_is_refused(tmp_path, published):
    folder = tmp_path / "full" / "ast"
    weights.fetch("ast", folder, agree=refuse, local=published)
    (folder / "config.json").unlink()
    (published / AST / "config.json").write_text("another")
    with pytest.raises(InputError, match=r"config\.json: not what it was at its first use .* delete its line"):
        weights.fetch("ast", folder, agree=refuse, local=published)


def test_nothing_is_taken_from_a_pickle_that_runs_something(tmp_path, published):
    class Runs:
        def __reduce__(self):
            return (open, (str(tmp_path / "mark"), "w"))

    (published / "resnet50_ft_weight.pkl").write_bytes(pickle.dumps({"fc.weight": Runs()}))
    with pytest.raises(InputError, match="refused"):
        weights.fetch("judge", tmp_path / "full" / "judge", agree=refuse, local=published)
    assert not (tmp_path / "mark").exists()


# --- from the hub's cache


def test_what_lies_in_the_hub_s_cache_is_used_without_asking(tmp_path):
    for file in ORIGINS["ast"][0].files.values():
        in_cache(tmp_path, AST, file.path)
    folder = load_profile("full").part("ast")
    assert folder == tmp_path / "full" / "ast"
    assert weights.missing("ast", folder) == []
    assert (folder / "model.safetensors").stat().st_nlink == 2  # no second gigabyte on the disk


def test_a_damaged_file_of_the_cache_is_named(tmp_path):
    for file in ORIGINS["ast"][0].files.values():
        blob = in_cache(tmp_path, AST, file.path, content=b"torn")
    with pytest.raises(InputError, match="damaged"):
        load_profile("full").part("ast")
    assert blob.exists()


def test_a_weight_that_changes_after_its_first_use_is_noticed(tmp_path, published):
    folder = tmp_path / "full" / "ast"
    for name in ("model.safetensors", "config.json", "preprocessor_config.json"):
        publish(folder / name)  # put there by hand: pinned when it is first used
    assert load_profile("full").part("ast") == folder
    assert "ast/model.safetensors" in json.loads((tmp_path / "full" / "SHA256.json").read_text())
    (folder / "model.safetensors").write_bytes(b"other")
    with pytest.raises(InputError, match="not what it was"):
        pin(folder)
    pin_once.cache_clear()
    line = next(check for check in doctor._full() if check.name == "ast")
    assert line.remedy.startswith(f"{folder / 'model.safetensors'}: not what it was at its first use")


def test_a_table_of_hashes_that_was_spoilt_by_hand_is_named(tmp_path, published):
    weights.fetch("ast", folder := tmp_path / "full" / "ast", agree=refuse, local=published)
    table = tmp_path / "full" / "SHA256.json"
    table.write_text(table.read_text().rstrip().removesuffix("}") + ",}")
    with pytest.raises(InputError, match=r"SHA256\.json: cannot be read as JSON .*delete it to have every file's hash"):
        pin(folder)
    table.unlink()
    pin(folder)
    assert len(json.loads(table.read_text())) == 3


# --- downloads


def test_downloads_ask_for_consent_once_a_publisher_and_go_where_they_belong(tmp_path, monkeypatch, published):
    asked = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repository, path: str(published / repository / path))
    weights.fetch("prior", tmp_path / "full" / "prior", agree=lambda origin: asked.append(origin.name) or True)
    assert asked == ["FoivosPar/Arc2Face", "stable-diffusion-v1-5/stable-diffusion-v1-5"]
    assert weights.missing("prior", tmp_path / "full" / "prior") == []


def test_without_consent_nothing_is_downloaded(tmp_path):
    with pytest.raises(InputError, match="FoivosPar/Arc2Face is not downloaded without consent"):
        weights.fetch("prior", tmp_path / "full" / "prior", agree=lambda _: False)


def test_free_terms_are_not_asked_about(tmp_path, monkeypatch, published):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repository, path: str(published / repository / path))
    weights.fetch("ast", tmp_path / "full" / "ast", agree=refuse)


def test_offline_means_offline(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for part in ("ast", "faces"):
        with pytest.raises(InputError, match=r"HF_HUB_OFFLINE.*--local.*python -m v2f_core fetch"):
            weights.fetch(part, tmp_path / "full" / part, agree=yes)


def test_what_is_given_out_by_hand_names_its_page(tmp_path):
    with pytest.raises(InputError, match=r"given out by hand; get resnet50_ft_weight.pkl .* from https://github.com/"):
        weights.fetch("judge", tmp_path / "full" / "judge", agree=yes)


def test_a_full_disk_is_foreseen(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 5e6}))
    with pytest.raises(InputError, match=r"5 MB free, ast takes 346 MB"):
        weights.fetch("ast", tmp_path / "full" / "ast", agree=yes)


def test_a_disk_that_fills_up_is_named(tmp_path, monkeypatch, published):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("v2f_core.artefacts.placing.os.link", full)
    monkeypatch.setattr("v2f_core.artefacts.placing.shutil.copyfile", full)
    with pytest.raises(InputError, match=r"config\.json: the disk is full"):
        weights.fetch("ast", tmp_path / "full" / "ast", agree=yes, local=published)


def answer(kind, **attributes):
    """An error of the hub's library, made without the network's answer that it usually carries."""
    error = kind.__new__(kind)
    Exception.__init__(error, "the hub's own words")
    error.__dict__.update(attributes)
    return error


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (errors.GatedRepoError, "access is restricted; agree to its terms .*hf auth login"),
        (errors.LocalEntryNotFoundError, "the hub cannot be reached"),
        (errors.RepositoryNotFoundError, "no longer published"),
        (errors.RemoteEntryNotFoundError, "no longer published"),
        (errors.HfHubHTTPError, "the hub answers with an error"),
        (OSError, r"broke off \(the hub's own words\); run it again, it goes on"),  # the hub found half a file
        (httpx2.ReadTimeout, r"broke off \(the hub's own words\); run it again, it goes on"),
        (httpx2.ProxyError, "broke off .* run it again"),
    ],
)
def test_the_hub_s_refusals_say_what_to_do(monkeypatch, kind, message):
    refuse_by(monkeypatch, answer(kind), message)


def test_a_disk_that_fills_up_under_the_hub_s_download_is_named(monkeypatch):
    refuse_by(monkeypatch, OSError(28, "No space left on device"), "cannot be written .* free room, then run it again")


def refuse_by(monkeypatch, error, message):
    def fail(*_):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(InputError, match=message):
        from_hub("someone/something", "model.safetensors")


class Server(BaseHTTPRequestHandler):
    """Serves ``content``; breaks off after ``limit`` bytes if told so; knows ranges."""

    content, limit, tag, asked = b"", None, '"one"', []

    def do_GET(self):
        wanted = self.headers.get("Range")
        Server.asked.append(wanted)
        start = 0
        if wanted and self.headers.get("If-Range") == self.tag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if self.path == "/none":
            self.send_error(404)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.send_header("ETag", self.tag)
        self.end_headers()
        self.wfile.write(self.content[start : self.limit])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(Server, "content", bytes(range(256)) * 40)
    monkeypatch.setattr(Server, "limit", None)
    monkeypatch.setattr(Server, "tag", '"one"')
    monkeypatch.setattr(Server, "asked", [])
    with ThreadingHTTPServer(("localhost", 0), Server) as running:
        Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://localhost:{running.server_address[1]}"
        running.shutdown()


def test_a_download_goes_on_where_it_broke_off(tmp_path, server, monkeypatch):
    monkeypatch.setattr(Server, "limit", 1000)
    with pytest.raises(InputError, match="broke off at 1000 of 10240 bytes; run it again"):
        download(f"{server}/pack.zip", tmp_path / "pack.zip")
    assert not (tmp_path / "pack.zip").exists()
    monkeypatch.setattr(Server, "limit", None)
    download(f"{server}/pack.zip", tmp_path / "pack.zip")
    assert (tmp_path / "pack.zip").read_bytes() == Server.content
    assert Server.asked == [None, "bytes=1000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["pack.zip"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full device")
def test_a_disk_that_fills_up_while_it_downloads_is_named(tmp_path, server):
    (tmp_path / "pack.zip.part").symlink_to("/dev/full")
    with pytest.raises(
        InputError, match=r"pack\.zip\.part: cannot be written \(No space left .*free room, then run it"
    ):
        download(f"{server}/pack.zip", tmp_path / "pack.zip")
    assert not (tmp_path / "pack.zip").exists()


def test_a_file_that_was_changed_meanwhile_is_downloaded_from_its_beginning(tmp_path, server, monkeypatch):
    monkeypatch.setattr(Server, "limit", 1000)
    with pytest.raises(InputError):
        download(f"{server}/pack.zip", tmp_path / "pack.zip")
    monkeypatch.setattr(Server, "limit", None)
    monkeypatch.setattr(Server, "tag", '"two"')
    monkeypatch.setattr(Server, "content", b"new" * 1000)
    download(f"{server}/pack.zip", tmp_path / "pack.zip")
    assert (tmp_path / "pack.zip").read_bytes() == b"new" * 1000


def test_a_server_that_refuses_or_is_not_there_is_named(tmp_path, server):
    with pytest.raises(InputError, match=r"/none: the server answers 404 Not Found; get it by hand"):
        download(f"{server}/none", tmp_path / "pack.zip")
    with pytest.raises(InputError, match="cannot be reached"):
        download("http://localhost:9/pack.zip", tmp_path / "pack.zip")


def test_a_damaged_zip_is_named(tmp_path, published):
    for name in ("antelopev2.zip",):
        (published / name).write_bytes(b"PK torn")
    with pytest.raises(InputError, match=r"antelopev2\.zip: damaged or cut off"):
        weights.fetch("faces", tmp_path / "full" / "faces", agree=yes, local=published)


# --- the command


def test_the_command_reports_every_part_and_fails_if_one_does(tmp_path, published, capsys):
    (published / "resnet50_ft_weight.pkl").unlink()
    with pytest.raises(SystemExit) as stopped:
        main(["fetch", "--local", str(published)])
    out, err = capsys.readouterr()
    assert stopped.value.code == 2
    assert "ast/model.safetensors: from " in out
    assert "scorer/w600k_r50.onnx: from " in out
    assert "judge: resnet50_ft_weight.pkl is given out by hand" in err
    assert len(err.strip().splitlines()) == 1


def test_a_folder_that_is_not_there_is_no_reason_to_download(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["fetch", "ast", "prior", "--local", "publishd", "--accept"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: publishd: no such folder; give --local one that holds files")


def test_who_cannot_be_asked_is_told_how_to_agree_beforehand(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(SystemExit) as stopped:
        main(["fetch", "scorer"])
    assert stopped.value.code != 0
    told = capsys.readouterr()
    assert "InsightFace's models are for non-commercial research only" in told.out
    assert "--accept agrees beforehand" in told.err


def test_an_unknown_part_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["fetch", "nose"])
    assert "nose: nothing is published under this name; choose ast, ecapa" in capsys.readouterr().err
