"""What is embedded: windows of recordings and faces of pictures, read by whom one likes, in fp32 or bf16."""

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from PIL import Image

from v2f_core.artefacts.profiles import MINI_ASSETS, load_profile
from v2f_core.data.manifest import COLUMNS, Manifest
from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError
from v2f_core.identity.faces import FacePack
from v2f_core.speech.encoders import load_encoder
from v2f_core.training import embeddings
from v2f_core.training.embeddings import autocast, precision_of


class Encoder:
    """Stands in for a speaker encoder: a window's embedding is its mean absolute value."""

    dim, sample_rate = 4, 16_000

    def embed(self, clips):
        return clips.abs().mean(dim=1, keepdim=True).expand(-1, 4)


class Pack(FacePack):
    """Stands in for a face pack: finds a face unless the picture is black."""

    def __init__(self):
        pass

    def embed(self, images):
        seen = np.array([image.any() for image in images])
        return np.eye(512, dtype=np.float32)[[int(image[0, 0, 0]) for image in images]], seen


@pytest.fixture
def manifest(tmp_path):
    """Three recordings (one empty) and three pictures (one black, one no picture) of one person."""
    root = tmp_path / "data"
    root.mkdir()
    g = np.random.default_rng(0)
    for name, seconds, level in (("short.wav", 1.25, 0.1), ("long.wav", 3.2, 0.2)):
        soundfile.write(root / name, level * g.uniform(-1, 1, int(16_000 * seconds)), 16_000)
    (root / "empty.wav").touch()
    for name, red in (("black.png", 0), ("red.png", 9)):
        Image.new("RGB", (8, 8), (red, 0, 0)).save(root / name)
    (root / "text.png").write_text("no picture")
    rows = [("Ada", "f", "train", "voice", "v", name) for name in ("empty.wav", "long.wav", "short.wav")]
    rows += [("Ada", "f", "train", "face", "", name) for name in ("black.png", "red.png", "text.png")]
    return Manifest(root, pd.DataFrame(rows, columns=list(COLUMNS)))


@pytest.fixture
def weights(tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_a_recording_has_one_embedding_a_window(manifest, weights, tmp_path):
    store = embeddings.extract_voices(manifest, Encoder(), weights, tmp_path / "voices", 1.25, max_bad=0.5)
    assert store.items == ["long.wav"] * 4 + ["short.wav"]  # 3.2 s: windows from 0, 0.625, 1.25, 1.875
    assert store.vectors[:, 0].tolist() == pytest.approx([0.1] * 4 + [0.05], rel=0.05)
    ((item, why),) = store.skipped
    assert item == "empty.wav"
    assert "empty (0 bytes)" in why


def test_a_picture_without_a_face_is_listed(manifest, weights, tmp_path):
    store = embeddings.extract_faces(manifest, Pack(), weights, tmp_path / "faces", max_bad=0.9)
    assert store.items == ["red.png"]
    assert store.vectors[0].argmax() == 9
    assert [why.split(": ")[1].split(";")[0].split(" (")[0] for _, why in store.skipped] == [
        "no face found in it",
        "cannot be read as a picture",
    ]


# --- half precision


@pytest.fixture
def spoken():
    """Three windows of noise of different colours: what matters here is that they differ."""
    g = torch.Generator().manual_seed(0)
    steps = torch.randn(3, 20_000, generator=g)
    slow = steps.cumsum(1)
    return torch.stack([0.1 * steps[0], 0.3 * steps[1].roll(1) * steps[1], slow[2] / slow[2].abs().max()])


@pytest.mark.parametrize("kind", ["ast", "ecapa"])
def test_bf16_hears_the_same_as_fp32_to_a_cosine_of_0_999(kind, spoken):
    """Autocast to bf16 works on CPUs too: what a GPU would compute by default is tried here."""
    encoder = load_encoder(kind, MINI_ASSETS / kind)
    whole, half = (embeddings.voice_embedder(encoder, precision)([spoken])[0] for precision in ("fp32", "bf16"))
    assert half.dtype == torch.float32
    assert not torch.equal(whole, half)
    assert (torch.cosine_similarity(whole, half) > 0.999).all()
    assert torch.cosine_similarity(whole[:1], whole[1:]).max() < 0.99  # and others are not that near


def test_bf16_latents_draw_the_same_face():
    prior = Prior.from_folder(load_profile("mini").part("prior"))
    picture = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    picture = torch.nn.functional.interpolate(picture, size=128, mode="bicubic").clamp(-1, 1)
    with torch.no_grad():
        whole = prior.encode(picture)
        with autocast("bf16", prior.device):
            half = prior.encode(picture).float()
        assert (whole - half).norm() < 0.02 * whole.norm()
        assert (prior.decode(whole) - prior.decode(half)).abs().mean() < 0.01


def test_a_store_stays_in_the_precision_it_was_begun_in(manifest, weights, tmp_path):
    def extract(precision):
        return embeddings.extract_voices(
            manifest, Encoder(), weights, tmp_path / "voices", 1.25, precision, max_bad=0.5
        ).provenance

    assert precision_of(tmp_path / "voices", "cpu") == "fp32"
    assert extract("bf16")["precision"] == "bf16"
    # so that what a GPU extracted is not extracted again by a command that runs without one
    assert precision_of(tmp_path / "voices", "cpu") == precision_of(tmp_path / "voices", "cuda") == "bf16"
    with pytest.raises(InputError, match="precision differ"):
        extract(precision_of(tmp_path / "voices", "cpu", wanted="fp32"))
