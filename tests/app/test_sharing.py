"""A pipeline on its way to others: the model card, the upload (caught before the network), a hub's cache."""

import json
import re
from pathlib import Path

import huggingface_hub
import pytest
import torch
from fakes import spoken
from huggingface_hub import ModelCard

from v2f_core.artefacts.files import SYNTHETIC, folder_hash
from v2f_core.artefacts.model_card import write_card
from v2f_core.artefacts.weights import ORIGINS
from v2f_core.errors import InputError
from v2f_core.pipeline import Vox2FacePipeline


@pytest.fixture(scope="module")
def pipe(tiny_profile):
    return Vox2FacePipeline.from_profile(tiny_profile)


@pytest.fixture(scope="module")
def saved(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    pipe.save_pretrained(folder)
    return folder


def voice():
    return torch.from_numpy(spoken(3)[:, 0].copy())


# --- the card


def test_the_card_says_what_it_is_and_what_it_is_not(saved):
    card = ModelCard.load(saved / "README.md", ignore_metadata_errors=False)
    assert card.data.library_name == "diffusers"
    assert "synthetic" in card.data.tags
    assert SYNTHETIC in card.text
    assert "must not be used to identify" in card.text
    headings = re.findall(r"^#+ (.+)$", card.text, flags=re.M)
    assert headings[1:] == ["Use", "What it is made of", "Licence and terms"]


def test_the_card_names_every_part_by_its_hash(saved, pipe):
    text = (saved / "README.md").read_text()
    hashes = dict(re.findall(r"^\| (\w+) \|[^|]+\| `([0-9a-f]{64})` \|$", text, flags=re.M))
    assert hashes == {
        part: folder_hash(saved / part) for part in ("speech_encoder", "aligner", "text_encoder", "unet", "vae")
    }
    provenance = json.loads(re.search(r"```json\n(.*?)```", text, flags=re.S)[1])
    assert provenance == pipe.aligner.provenance
    assert provenance["seed"] == 0


def test_the_code_on_the_card_can_be_run(saved):
    (code,) = re.findall(r"```python\n(.*?)```", (saved / "README.md").read_text(), flags=re.S)
    scope = {}
    exec(code[: code.index("faces =")], scope)
    assert scope["pipe"].identify(voice())[0].shape == (512,)


# --- to the hub


@pytest.fixture
def hub(monkeypatch):
    """The hub's two calls, kept here: what was uploaded, and with what."""
    calls = []

    def create_repo(repo_id, **options):
        calls.append((repo_id, options))
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id if '/' in repo_id else f'me/{repo_id}'}")

    def upload_folder(repo_id, folder_path, **options):
        paths = [path for path in Path(folder_path).rglob("*") if path.is_file()]
        content = {str(path.relative_to(folder_path)): path.read_bytes() for path in paths}
        calls.append((repo_id, options, content))
        return f"https://huggingface.co/{repo_id}/commit/0"

    monkeypatch.setattr(huggingface_hub, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub, "upload_folder", upload_folder)
    return calls


@pytest.mark.parametrize("name", ["me/vox2face", "vox2face"])
def test_everything_is_uploaded_with_its_card(pipe, saved, hub, name):
    address = pipe.push_to_hub(name, private=True, token="t", create_pr=True)
    assert address == "https://huggingface.co/me/vox2face/commit/0"
    (repo, made), (uploaded_to, options, content) = hub
    assert (repo, uploaded_to) == (name, "me/vox2face")
    assert made == {"private": True, "token": "t", "exist_ok": True}
    assert options == {"token": "t", "commit_message": "Upload Vox2FacePipeline", "create_pr": True}
    assert set(content) == {str(path.relative_to(saved)) for path in saved.rglob("*") if path.is_file()}
    for file in ("unet/diffusion_pytorch_model.safetensors", "aligner/model.safetensors"):
        assert content[file] == (saved / file).read_bytes()
    assert b'from_pretrained("me/vox2face")' in content["README.md"]


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


def test_a_hub_id_is_loaded_from_the_cache_offline(cached, pipe):
    loaded = Vox2FacePipeline.from_pretrained("me/vox2face", cache_dir=cached, local_files_only=True)
    assert torch.equal(loaded.identify(voice())[0], pipe.identify(voice())[0])
    assert loaded.config.profile == pipe.config.profile == "tiny"


def test_a_repository_that_cannot_be_had_is_one_line(cached, monkeypatch):
    with pytest.raises(InputError, match=r"me/other: no such folder, and not to be had .* logged in") as caught:
        Vox2FacePipeline.from_pretrained("me/other", cache_dir=cached, local_files_only=True)
    assert "\n" not in str(caught.value)

    def fail(*_, **__):
        raise TimeoutError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError, match=r"me/other: .* Hub \(TimeoutError\); check the name, the network"):
        Vox2FacePipeline.from_pretrained("me/other")


def test_a_folder_is_never_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me" / "vox2face").mkdir(parents=True)
    for name in ("me/vox2face", "./vox2face", "/vox2face", "a/b/c", tmp_path / "no"):
        with pytest.raises(InputError, match=r"model_index\.json is missing"):
            Vox2FacePipeline.from_pretrained(name)


def test_the_terms_are_those_of_the_profile(saved, tmp_path):
    def card(profile):
        config = json.loads((saved / "model_index.json").read_text())
        (tmp_path / "model_index.json").write_text(json.dumps(config | {"profile": profile}))
        write_card(tmp_path, "me/vox2face", {})
        return (tmp_path / "README.md").read_text()

    for part in ("speech_encoder", "aligner", "text_encoder", "unet", "vae"):
        (tmp_path / part).mkdir()
    assert "license: apache-2.0" in card("mini")
    full = card("full")
    assert "license: other" in full
    for origin in (*ORIGINS["ast"], *ORIGINS["prior"]):
        assert f"| {origin.name} | {origin.licence} | {origin.consent or '–'} | {origin.page} |" in full
    assert "Unknown to the program" in card("my own")  # rather than a licence that nobody gave


def test_nothing_is_uploaded_that_cannot_be_loaded(pipe, hub, tmp_path):
    with pytest.raises(InputError, match="no folder to copy"):
        Vox2FacePipeline(**pipe.components).push_to_hub("me/vox2face")
    with pytest.raises(InputError, match=r"expected pipe\.push_to_hub"):
        pipe.save_pretrained(tmp_path, push_to_hub=True)
    assert hub == []
