"""What is embedded: windows of recordings and faces of pictures, read by whom one likes."""

import numpy as np
import pandas as pd
import pytest
import soundfile
from PIL import Image

from v2f_core.data.manifest import COLUMNS, Manifest
from v2f_core.identity.faces import FacePack
from v2f_core.speech.encoders import SpeechEncoder
from v2f_core.training import embeddings


class Encoder(SpeechEncoder):
    """Stands in for a speaker encoder: a window's embedding is its mean absolute value."""

    dim = 4

    def forward(self, clips):
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
    root, g = tmp_path / "data", np.random.default_rng(0)
    root.mkdir()
    for name, seconds, level in (("short.wav", 1.25, 0.1), ("long.wav", 3.2, 0.2)):
        soundfile.write(root / name, level * g.uniform(-1, 1, int(16_000 * seconds)), 16_000)
    for name, red in (("black.png", 0), ("red.png", 9)):
        Image.new("RGB", (8, 8), (red, 0, 0)).save(root / name)
    (root / "empty.wav").touch()
    (root / "text.png").write_text("no picture")
    kinds = {".wav": ("voice", "v"), ".png": ("face", "")}
    rows = [("Ada", "f", "train", *kinds[path.suffix], path.name) for path in sorted(root.iterdir())]
    return Manifest(root, pd.DataFrame(rows, columns=list(COLUMNS)))


def test_a_recording_has_one_embedding_a_window(manifest, tmp_path):
    store = embeddings.extract_voices(manifest, Encoder, manifest.root, tmp_path / "voices", 1.25, max_bad=0.5)
    assert store.items == ["long.wav"] * 4 + ["short.wav"]  # 3.2 s: windows from 0, 0.625, 1.25, 1.875
    assert store.vectors[:, 0].tolist() == pytest.approx([0.1] * 4 + [0.05], rel=0.05)
    ((item, why),) = store.skipped
    assert item == "empty.wav"
    assert "empty (0 bytes)" in why


def test_a_picture_without_a_face_is_listed(manifest, tmp_path):
    store = embeddings.extract_faces(manifest, Pack, manifest.root, tmp_path / "faces", max_bad=0.9)
    assert store.items == ["red.png"]
    assert store.vectors[0].argmax() == 9
    (black, no_face), (text, no_picture) = store.skipped
    assert (black, text) == ("black.png", "text.png")
    assert "no face found in it" in no_face
    assert "cannot be read as a picture" in no_picture
