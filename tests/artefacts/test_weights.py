"""Published weights come from a folder, a cache or a download, whole, unaltered and with consent, or not at all."""

import io
import json
import pickle
from pathlib import Path

import httpx2  # by which the hub's library downloads
import huggingface_hub
import numpy as np
import onnx
import pytest
import torch
from huggingface_hub import errors
from onnx import TensorProto, helper
from safetensors.numpy import load_file, save_file

from v2f_core.artefacts import weights
from v2f_core.artefacts.files import sha256
from v2f_core.artefacts.profiles import load_profile
from v2f_core.artefacts.weights import ORIGINS
from v2f_core.cli import main
from v2f_core.errors import InputError

AST = "MIT/ast-finetuned-audioset-10-10-0.4593"


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
        old = pickle.dumps({"bn1.running_mean": np.arange(4.0)}, 2)
        path.write_bytes(old.replace(b"numpy._core", b"numpy.core"))  # NumPy 1 wrote it
    else:
        path.write_text(path.name)
    return path


@pytest.fixture
def published(tmp_path) -> Path:
    """A folder with everything that is published, under its publishers' names."""
    root = tmp_path / "published"
    for origin in [origin for part in ORIGINS.values() for origin in part]:
        for file in origin.files.values():
            publish(root / file if origin.form else root / origin.name / file)
    return root


@pytest.fixture(autouse=True)
def nowhere_else(tmp_path, monkeypatch):
    """No cache, no network, no home of whoever runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setenv("V2F_FULL", str(tmp_path / "full"))


def refuse(*_, **__):
    pytest.fail("a download was tried")


# --- from a folder


def test_every_part_is_completed_from_a_local_folder_and_pickles_arrive_as_safetensors(tmp_path, published):
    full = tmp_path / "full"
    for part, origins in ORIGINS.items():
        report = weights.fetch(part, full / part, agree=refuse, local=published)
        assert len(report) == sum(len(origin.files) for origin in origins)
        assert weights.missing(part, full / part) == []
    files = [path for part in ORIGINS for path in (full / part).rglob("*") if path.is_file()]
    hashes = {path.relative_to(full).as_posix(): sha256(path) for path in files}
    assert json.loads((full / "SHA256.json").read_text()) == hashes
    assert load_file(full / "prior" / "text_encoder" / "model.safetensors")["weight"].tolist() == [0, 1, 2, 3]
    assert "bn1.num_batches_tracked" in load_file(full / "judge" / "model.safetensors")
    assert json.loads((full / "judge" / "config.json").read_text())["n_classes"] == 8631
    assert not [path for path in full.rglob("*") if path.suffix in (".bin", ".pkl")]


@pytest.mark.parametrize("place", ["antelopev2", "antelopev2/antelopev2", "."])
def test_a_pack_may_lie_as_it_was_unpacked(tmp_path, published, place):
    for name in ("scrfd_10g_bnkps.onnx", "glintr100.onnx"):
        (published / "antelopev2" / name).unlink(missing_ok=True)
        publish(published / place / name)
    folder = tmp_path / "full" / "faces"
    weights.fetch("faces", folder, agree=refuse, local=published)
    # antelopev2's own ArcFace stays behind: Arc2Face was conditioned on another
    assert sorted(path.name for path in folder.iterdir()) == ["arcface.onnx", "scrfd_10g_bnkps.onnx"]


HALVED = {"ast": f"{AST}/model.safetensors", "faces": "FoivosPar/Arc2Face/arcface.onnx"}
HALVED["ecapa"] = "speechbrain/spkrec-ecapa-voxceleb/embedding_model.ckpt"


@pytest.mark.parametrize(("part", "file"), HALVED.items())
def test_half_a_file_is_refused_and_the_rest_is_gone_on_with(tmp_path, published, part, file):
    whole = (published / file).read_bytes()
    (published / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=f"{Path(file).name}: cannot be read as .*; .*fetch (it|the pack) again"):
        weights.fetch(part, tmp_path / "full" / part, agree=refuse, local=published)
    assert not (tmp_path / "full" / "SHA256.json").exists()  # a hash would be taken for good
    with pytest.raises(InputError, match=f"lacks .*{Path(file).name}.* of what is published"):
        load_profile("full").part(part)
    (published / file).write_bytes(whole)
    weights.fetch(part, tmp_path / "full" / part, agree=refuse, local=published)
    load_profile("full").part(part)


# --- from the hub's cache


def cached(tmp_path, content: bytes | None = None) -> None:
    """The AST in the hub's cache as the hub's own library lays it out, blobs named by their SHA-256."""
    folder = tmp_path / "hub" / f"models--{AST.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    for path in ORIGINS["ast"][0].files.values():
        source = publish(tmp_path / "upload" / path)
        blob, link = folder / "blobs" / sha256(source), folder / "snapshots" / ("0" * 40) / path
        for place in (blob, link):
            place.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(source.read_bytes() if content is None else content)
        link.symlink_to(blob)


def test_weights_in_the_hub_s_cache_are_linked_offline(tmp_path, monkeypatch):
    cached(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = tmp_path / "full" / "ast"
    weights.fetch("ast", folder, agree=refuse)
    assert weights.missing("ast", folder) == []
    assert (folder / "model.safetensors").stat().st_nlink == 2  # no second gigabyte on the disk


# --- downloads


def test_downloads_ask_for_consent_once_a_publisher_and_go_where_they_belong(tmp_path, monkeypatch, published):
    asked = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repository, path: str(published / repository / path))
    weights.fetch("prior", tmp_path / "full" / "prior", agree=lambda origin: asked.append(origin.name) or True)
    assert asked == ["FoivosPar/Arc2Face", "stable-diffusion-v1-5/stable-diffusion-v1-5"]
    assert weights.missing("prior", tmp_path / "full" / "prior") == []
    weights.fetch("ast", tmp_path / "full" / "ast", agree=refuse)  # free terms are not asked about


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("prior", "FoivosPar/Arc2Face is not downloaded without consent"),
        ("faces", "antelopev2 is downloaded by hand; get antelopev2 from https://github.com/.*fetch faces --local"),
        ("judge", "downloaded by hand; get resnet50_ft_weight.pkl from https://github.com/"),
        ("nose", "nose: nothing is published under this name; choose ast, ecapa"),
    ],
)
def test_downloads_that_must_not_be_are_refused_before_the_first_byte(tmp_path, part, message):
    with pytest.raises(InputError, match=message):
        weights.fetch(part, tmp_path / "full" / part, agree=lambda _: False)


def answer(kind):
    """An error of the hub's library, made without the network's answer that it usually carries."""
    error = kind.__new__(kind)
    Exception.__init__(error, "the hub's own words")
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (answer(errors.GatedRepoError), r"\(the hub's own words\); agree to its terms .*hf auth login"),
        (answer(errors.LocalEntryNotFoundError), r"\(the hub's own words\); run it again, .* or give --local"),
        (answer(httpx2.ReadTimeout), "run it again, it goes on"),
    ],
)
def test_the_hub_s_refusals_say_what_to_do(tmp_path, monkeypatch, error, message):
    def fail(*_):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(InputError, match=f"{AST}/config.json: cannot be had .*{message}"):
        weights.fetch("ast", tmp_path / "full" / "ast", agree=refuse)


# --- the command


def fetch(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["fetch", *map(str, arguments)])
    return stopped.value.code


def test_every_part_is_reported_and_one_that_cannot_be_had_ends_with_2(tmp_path, published, capsys):
    (published / "resnet50_ft_weight.pkl").unlink()
    assert fetch("ecapa", "judge", "--local", published) == 2
    out, err = capsys.readouterr()
    assert "ecapa/classifier.ckpt: from " in out
    assert "judge: resnet50_ft_weight.pkl is downloaded by hand" in err
    assert len(err.strip().splitlines()) == 1


def test_a_folder_that_is_not_there_is_no_reason_to_download(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert fetch("ast", "prior", "--local", "publishd", "--accept") == 2
    assert capsys.readouterr().err.startswith("error: publishd: no such folder; give --local one that holds files")


def test_a_user_who_cannot_be_asked_is_told_how_to_agree_beforehand(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert fetch("prior") != 0
    out, err = capsys.readouterr()
    assert "WebFace42M, which is given out for non-commercial research" in out
    assert "--accept agrees beforehand" in err
