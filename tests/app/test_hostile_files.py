"""No file that a user downloads can run code: every loader is given files that would leave a mark."""

import json
import os
import pickle
import shutil
import time
from contextlib import suppress

import pandas as pd
import pytest
import torch
from parts import LOADERS

from v2f_core.artefacts import store
from v2f_core.artefacts.checkpoints import resume_training
from v2f_core.data.manifest import COLUMNS, Manifest, from_csv
from v2f_core.diffusion.lora import WEIGHTS_NAME, load_lora
from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError
from v2f_core.pipeline import Vox2FacePipeline
from v2f_core.speech.encoders import load_encoder

CODE = "import pathlib\npathlib.Path({mark!r}).mkdir()\nclass Evil:\n    from_pretrained = from_config = print\n"


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.fixture
def mark(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # some set it, for checkpoints that they trust
    return tmp_path / "mark"


# --- pickles


def pickles(mark):
    """The trap as pickle writes it and as torch writes it; either would work."""
    plain, zipped = mark.with_name("trap.pickle"), mark.with_name("trap.pt")
    plain.write_bytes(pickle.dumps(Trap(mark)))
    torch.save({"weight": Trap(mark)}, zipped)
    for path in (plain, zipped):
        with suppress(Exception):  # torch looks for a class of its own after the harm is done
            torch.load(path, weights_only=False)
        assert mark.is_dir(), path.name
        mark.rmdir()
    return [plain, zipped]


@pytest.mark.parametrize("part", LOADERS)
def test_a_pickle_in_place_of_any_file_or_under_an_old_name_is_not_run(parts, part, mark, tmp_path):
    folder = shutil.copytree(parts / part, tmp_path / part)
    traps = pickles(mark)
    for victim in [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".md"]:
        whole = victim.read_bytes()
        for trap in traps[: 1 if victim.suffix in (".json", ".yaml", ".txt") else 2]:
            shutil.copy(trap, victim)
            with suppress(Exception):
                LOADERS[part](folder)
            assert not mark.exists(), (victim, trap)
        victim.write_bytes(whole)
    # where safetensors are missing, the libraries look for .bin, .pt and .ckpt
    for weights in list(folder.rglob("*.safetensors")):
        weights.unlink()
        for old in ("pytorch_model.bin", "diffusion_pytorch_model.bin", "model.pt", "model.ckpt"):
            shutil.copy(traps[-1], weights.with_name(old))
    with suppress(Exception):
        LOADERS[part](folder)
    assert not mark.exists()


def test_a_pickle_in_place_of_a_run_s_files_is_not_run(parts, mark, tmp_path):
    prior = Prior.from_folder(parts / "prior")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "provenance.json").write_text('{"items": 1}')
    for trap in pickles(mark):
        for name in (WEIGHTS_NAME, "store/00000.safetensors", "checkpoint.pt", "mine.csv"):
            shutil.copy(trap, tmp_path / name)
        for load in (
            lambda: load_lora(prior, tmp_path),
            lambda: store.load(tmp_path / "store"),
            lambda: resume_training(tmp_path / "checkpoint.pt", {}, torch.Generator(), {}),
            lambda: from_csv(tmp_path / "mine.csv"),
        ):
            with pytest.raises(InputError):
                load()
            assert not mark.exists()


# --- configurations that name code


@pytest.mark.parametrize("part", ["ast", "prior", "pipeline", "aligner", "judge"])
def test_a_config_that_names_code_beside_it_does_not_run_it(parts, part, mark, tmp_path, monkeypatch):
    folder = shutil.copytree(parts / part, tmp_path / part)
    for config in folder.rglob("*.json"):
        config.with_name("evil.py").write_text(CODE.format(mark=str(mark)))
        told = json.loads(config.read_text())
        if not isinstance(told, dict):
            continue
        classes = ("AutoConfig", "AutoModel", "AutoTokenizer", "AutoFeatureExtractor", "AutoencoderKL")
        told["auto_map"] = dict.fromkeys(classes, "evil.Evil")
        told["custom_pipeline"] = told["trust_remote_code"] = "evil"
        config.write_text(json.dumps(told))
    for place in (tmp_path, folder):
        monkeypatch.chdir(place)
        monkeypatch.syspath_prepend(str(folder))  # as in a notebook that lies in the downloaded folder
        with suppress(Exception):
            LOADERS[part](folder)
        assert not mark.exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("unet", ["evil", "Evil"]),
        ("scheduler", ["diffusers", "utils.evil"]),
        ("extra", ["evil", "Evil"]),
        ("text_encoder", ["transformers", "AutoModel"]),
    ],
)
def test_a_saved_pipeline_that_asks_for_other_classes_is_refused(parts, mark, tmp_path, monkeypatch, name, value):
    folder = shutil.copytree(parts / "pipeline", tmp_path / "pipeline")
    for place in (folder, folder / "unet", folder / "scheduler"):
        (place / "evil.py").write_text(CODE.format(mark=str(mark)))
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {name: value}))
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(InputError, match=rf"model_index\.json: {name} is .* refused"):
        Vox2FacePipeline.from_pretrained(folder)
    assert not mark.exists()


# --- ECAPA's YAML

POPEN = "!new:speechbrain.utils.superpowers.subprocess.Popen [[mkdir, {mark}]]"
YAML = {
    "a module that speechbrain imported": f"x: {POPEN}",
    "any function": "x: !apply:os.mkdir [{mark}]",
    "any class": "x: !new:subprocess.Popen [[mkdir, {mark}]]",
    "as a key": f"? {POPEN}\n: 1",
    "PyYAML's own": "x: !!python/object/apply:os.mkdir [{mark}]",
    "spelt by its whole name": "x: !<!apply:os.mkdir> [{mark}]",
    "another file": "x: !include:other.yaml",
    "a second document": f"--- \nx: {POPEN}",
}


def test_the_yaml_would_have_worked(mark):
    from hyperpyyaml import load_hyperpyyaml

    load_hyperpyyaml(YAML["any function"].format(mark=mark))
    assert mark.exists()


@pytest.mark.parametrize("attack", YAML)
def test_a_yaml_that_names_code_is_refused_by_every_way_to_it(parts, mark, tmp_path, attack):
    ecapa = shutil.copytree(parts / "ecapa", tmp_path / "ecapa")
    with (ecapa / "hyperparams.yaml").open("a") as file:
        file.write("\n" + YAML[attack].format(mark=mark) + "\n")
    pipeline = shutil.copytree(parts / "pipeline", tmp_path / "pipeline")
    shutil.rmtree(pipeline / "speech_encoder")
    shutil.copytree(ecapa, pipeline / "speech_encoder")
    index = pipeline / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"encoder": "ecapa"}))
    for load in (lambda: load_encoder("ecapa", ecapa), lambda: Vox2FacePipeline.from_pretrained(pipeline)):
        with pytest.raises(InputError, match=r"hyperparams\.yaml: "):
            load()
    time.sleep(0.1)  # a process takes a moment
    assert not mark.exists()


@pytest.mark.parametrize("weight", ["fc.conv.weight", "mfa.conv.conv.weight", "blocks.0.conv.conv.weight"])
def test_an_ecapa_s_weights_that_fit_no_net_are_refused(parts, tmp_path, weight):
    folder = shutil.copytree(parts / "ecapa", tmp_path / "ecapa")
    weights = torch.load(folder / "embedding_model.ckpt")
    torch.save(weights | {weight: torch.zeros(1_000_000, 1, 1)}, folder / "embedding_model.ckpt")
    with pytest.raises(InputError, match=r"cannot be read as an ECAPA") as caught:
        load_encoder("ecapa", folder)
    assert "\n" not in str(caught.value)


# --- names that lead elsewhere


@pytest.mark.parametrize("name", ["../../escaped", "/abs/escaped", "..", ".", "", "a/b", "a\\b", "a\nb", "a\x00b"])
def test_a_person_s_name_is_no_path(tmp_path, name):
    with pytest.raises(InputError, match="no name of a person"):
        Manifest(tmp_path, pd.DataFrame([(name, "f", "test", "face", "", "a.png")], columns=COLUMNS))
