"""A pipeline on its way to others: the model card, the upload (caught before the network), a hub's cache."""

import json
import re

import huggingface_hub
import pytest
import torch
from fakes import spoken
from huggingface_hub import ModelCard

from v2f_core.artefacts.model_card import model_card
from v2f_core.artefacts.origins import ORIGINS
from v2f_core.artefacts.provenance import SYNTHETIC, folder_hash
from v2f_core.errors import InputError
from v2f_core.pipeline import Vox2FacePipeline
from v2f_core.saving import saved_folder


@pytest.fixture(scope="module")
def pipe(tiny_profile):
    return Vox2FacePipeline.from_profile(tiny_profile)


@pytest.fixture(scope="module")
def saved(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The hub's two calls, kept here: what was uploaded, and with what."""
    calls = []

    def create_repo(repo_id, **options):
        calls.append(("create", repo_id, options))
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id if '/' in repo_id else f'me/{repo_id}'}")

    def upload_folder(repo_id, folder_path, **options):
        content = {str(p.relative_to(folder_path)): p.read_bytes() for p in folder_path.rglob("*") if p.is_file()}
        calls.append(("upload", repo_id, options, content))
        return f"https://huggingface.co/{repo_id}/commit/0"

    monkeypatch.setattr(huggingface_hub, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub, "upload_folder", upload_folder)
    return calls


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
    told = dict(re.findall(r"^\| (\w+) \|[^|]+\| `([0-9a-f]{64})` \|$", text, flags=re.M))
    assert told == {
        part: folder_hash(saved / part) for part in ("speech_encoder", "aligner", "text_encoder", "unet", "vae")
    }
    provenance = json.loads(re.search(r"```json\n(.*?)```", text, flags=re.S)[1])
    assert provenance == pipe.aligner.provenance
    assert provenance["seed"] == 0


def test_what_the_card_shows_can_be_run(saved):
    (shown,) = re.findall(r"```python\n(.*?)```", (saved / "README.md").read_text(), flags=re.S)
    loading = shown[: shown.index("faces =")]
    scope = {}
    exec(loading, scope)
    assert scope["pipe"].identify(voice())[0].shape == (512,)


def test_the_terms_are_those_of_the_profile(pipe, saved, tmp_path):
    def card(profile):
        config = json.loads((saved / "model_index.json").read_text())
        (tmp_path / "model_index.json").write_text(json.dumps(config | {"profile": profile}))
        return model_card(tmp_path, "me/vox2face", {})

    for part in ("speech_encoder", "aligner", "text_encoder", "unet", "vae"):
        (tmp_path / part).mkdir()
    assert "license: apache-2.0" in card("mini")
    full = card("full")
    assert "license: other" in full
    for origin in (*ORIGINS["ast"], *ORIGINS["prior"]):
        assert f"| {origin.name} | {origin.licence} | {origin.consent or '–'} | {origin.page} |" in full
    assert "Open RAIL-M" in full
    assert "Not known" in card("my own")  # rather than a licence that nobody gave


def test_the_profile_is_remembered(saved, pipe):
    assert Vox2FacePipeline.from_pretrained(saved).config.profile == pipe.config.profile == "tiny"


# --- to the hub


def test_everything_is_uploaded_with_its_card(pipe, saved, hub):
    address = pipe.push_to_hub("me/vox2face", private=True, token="t")
    assert address == "https://huggingface.co/me/vox2face/commit/0"
    (_, repo, made), (_, uploaded_to, options, content) = hub
    assert (repo, uploaded_to) == ("me/vox2face", "me/vox2face")
    assert made == {"private": True, "token": "t", "exist_ok": True}
    assert options == {"token": "t", "commit_message": "Upload Vox2FacePipeline"}
    here = {str(path.relative_to(saved)) for path in saved.rglob("*") if path.is_file()}
    assert set(content) == here
    for name in ("unet/diffusion_pytorch_model.safetensors", "aligner/model.safetensors"):
        assert content[name] == (saved / name).read_bytes()
    assert b'from_pretrained("me/vox2face")' in content["README.md"]


def test_a_name_without_its_owner_is_completed_in_the_card(pipe, hub):
    pipe.push_to_hub("vox2face")
    assert hub[1][1] == "me/vox2face"
    assert b'from_pretrained("me/vox2face")' in hub[1][3]["README.md"]


def test_saving_can_upload_too_and_not_before_all_is_there(pipe, hub, tmp_path):
    pipe.save_pretrained(tmp_path / "vox2face", push_to_hub=True, commit_message="First", create_pr=True)
    (_, repo, _), (_, _, options, content) = hub
    assert repo == "vox2face"
    assert options == {"commit_message": "First", "create_pr": True}
    assert {"aligner/model.safetensors", "speech_encoder/model.safetensors", "README.md"} <= set(content)


def test_nothing_is_uploaded_that_cannot_be_loaded(pipe, hub):
    lost = Vox2FacePipeline(**pipe.components)
    with pytest.raises(InputError, match="no folder to copy"):
        lost.push_to_hub("me/vox2face")
    assert hub == []


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


def test_what_the_hub_does_not_give_is_one_line(cached):
    with pytest.raises(InputError, match="me/other: no such folder, and not to be had") as caught:
        Vox2FacePipeline.from_pretrained("me/other", cache_dir=cached, local_files_only=True)
    assert "\n" not in str(caught.value)
    assert "logged in" in str(caught.value)


def test_a_download_that_breaks_off_is_one_line(monkeypatch):
    class BrokenOffError(Exception):
        """An HTTP library's, of no kind that is known here, and without words."""

    def fail(*_, **__):
        raise BrokenOffError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError, match=r"me/other: .* Hub \(BrokenOffError\); check the name, the network"):
        Vox2FacePipeline.from_pretrained("me/other")


def test_a_folder_is_never_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me" / "vox2face").mkdir(parents=True)
    for name in ("me/vox2face", "./vox2face", "/vox2face", "a/b/c", tmp_path / "no"):
        with pytest.raises(InputError, match=r"model_index\.json is missing"):
            Vox2FacePipeline.from_pretrained(name)
    assert saved_folder("me/vox2face").is_dir()
