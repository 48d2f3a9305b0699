"""``fetch``: each part is reported, terms are asked about, and one failure ends with code 2."""

import io

import pytest
import torch

from v2f_core.cli import main


@pytest.fixture(autouse=True)
def nowhere_else(tmp_path, monkeypatch):
    """No cache and no home of whoever runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
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
