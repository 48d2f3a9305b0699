"""A pipeline on its way to others: the card, a hub's cache."""

import re
from unittest.mock import Mock

import huggingface_hub
import pytest
import torch

from v2f_core.artefacts.files import SYNTHETIC, folder_hash
from v2f_core.artefacts.weights import ORIGINS, write_card
from v2f_core.errors import InputError
from v2f_core.pipeline import Vox2FacePipeline
from v2f_core.speech.encoders import SpeechEncoder


@pytest.fixture(scope="module")
def saved(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    pipe.save_pretrained(folder)
    return folder


# --- the card


def test_the_card_says_what_it_is_and_names_every_part_by_its_hash(saved, voice):
    text = (saved / "README.md").read_text(encoding="utf-8")
    assert SYNTHETIC in text
    assert "must not be used to identify" in " ".join(text.split())
    hashes = dict(re.findall(r"^- (\w+): `([0-9a-f]{64})`$", text, flags=re.M))
    assert hashes == {path.name: folder_hash(path) for path in saved.iterdir() if path.is_dir()}
    assert {"speech_encoder", "aligner", "unet", "vae"} <= hashes.keys()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)  # it can be run
    scope = {}
    exec(code[: code.index("faces =")], scope)
    assert scope["pipe"].identify(voice)[0].shape == (512,)


def test_the_terms_are_those_of_the_profile(tmp_path):
    def card(profile, encoder="ast"):
        write_card(tmp_path, profile, encoder)
        return (tmp_path / "README.md").read_text(encoding="utf-8")

    assert "Apache-2.0" in card("mini")
    assert "trained on real people" in card("mini", "ge2e")
    full = card("full")
    for origin in (*ORIGINS["ast"], *ORIGINS["prior"]):
        assert f"{origin.name}: {origin.licence} ({origin.page})" in full
    assert "unknown to the program" in card("my own")  # rather than a licence that nobody gave


# --- from the hub


@pytest.fixture
def cached(saved, tmp_path):
    """A hub's cache, as a download leaves it."""
    root = tmp_path / "models--me--vox2face"
    snapshot = root / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(saved)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0" * 40)
    return tmp_path


def test_a_hub_id_is_loaded_from_the_cache_offline(cached, pipe, voice):
    loaded = Vox2FacePipeline.from_pretrained("me/vox2face", cache_dir=cached, local_files_only=True)
    assert torch.equal(loaded.identify(voice)[0], pipe.identify(voice)[0])
    assert loaded.config.profile == pipe.config.profile == "tiny"


def test_a_repository_that_cannot_be_had_is_one_line(cached, monkeypatch):
    with pytest.raises(InputError, match=r"me/other: no such folder, and not to be had .* logged in") as caught:
        Vox2FacePipeline.from_pretrained("me/other", cache_dir=cached, local_files_only=True)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", Mock(side_effect=TimeoutError))
    with pytest.raises(InputError, match=r"me/other: .* Hub \(TimeoutError\); check the name, the network"):
        Vox2FacePipeline.from_pretrained("me/other")


def test_a_folder_is_never_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me" / "vox2face").mkdir(parents=True)
    for name in ("me/vox2face", "./vox2face", "/vox2face", "a/b/c", tmp_path / "no"):
        with pytest.raises(InputError, match=r"model_index\.json: cannot be read as JSON"):
            Vox2FacePipeline.from_pretrained(name)


def test_what_cannot_be_loaded_is_not_saved_and_diffusers_own_upload_is_refused(pipe, tmp_path):
    class Mine(SpeechEncoder):
        dim = 16

    with pytest.raises(InputError, match="no folder to copy"):
        Vox2FacePipeline(**{**pipe.components, "speech_encoder": Mine()}).save_pretrained(tmp_path / "no")
    for upload in (pipe.push_to_hub, lambda name: pipe.save_pretrained(tmp_path / "no", push_to_hub=True)):
        with pytest.raises(InputError, match="hf upload owner/name FOLDER"):
            upload("me/vox2face")
    assert not (tmp_path / "no").exists()
