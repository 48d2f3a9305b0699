"""The stored latents: a picture's code and landmarks, each with its own person."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fakes import SHAPE
from PIL import Image

from v2f_core.artefacts.store import Embeddings
from v2f_core.data.manifest import COLUMNS, Manifest
from v2f_core.identity.faces import Face, FacePack
from v2f_core.training.latents import embed_latents, pair_faces


class OneFace(FacePack):
    """Finds a face in every picture that is not black, a quarter of the way from the corner."""

    def __init__(self):
        pass

    def detect(self, image):
        height, width = image.shape[:2]
        points = np.array([[width / 4, height / 2]] * 5, np.float32) + np.arange(5, dtype=np.float32)[:, None]
        return [Face(np.zeros(4, np.float32), points, 1.0)] if image.any() else []


def test_latents_are_the_encoded_picture_and_landmarks_scale_with_it(prior):
    pixels = np.random.default_rng(0).integers(1, 255, (32, 32, 3), np.uint8)
    large = np.array(Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST))
    wide = np.zeros((32, 40, 3), np.uint8)
    wide[:, 4:36] = pixels
    same, large, black, wide = embed_latents(prior, OneFace(), [pixels, large, np.zeros_like(pixels), wide])
    expected = prior.encode(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1)
    torch.testing.assert_close(same[0, :64].view(SHAPE), expected[0].detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(wide, same)  # what is not square is cut at both sides
    assert same[0, 64:66].tolist() == [8, 16]
    assert large[0, 64:66].tolist() == [8, 16]
    assert large[0, 66:68].tolist() == [8.5, 16.5]
    assert "no face found" in str(black)


def test_every_drawn_face_has_its_own_latents_landmarks_and_sex():
    items, who = [f"{i}{k}.png" for i in range(3) for k in range(2)], (("Ada", "f"), ("Ben", "m"), ("Cy", "m"))
    rows = [(*who[i], "train", "voice", "", f"{i}.wav") for i in range(3)]
    rows += [(*who[int(item[0])], "train", "face", "", item) for item in items]
    manifest = Manifest(Path("data"), pd.DataFrame(rows, columns=list(COLUMNS)))
    voices = Embeddings(torch.eye(3), [f"{i}.wav" for i in range(3)], [], {})
    faces = Embeddings(torch.eye(6, 512).flip(0), items[::-1], [], {})
    code = torch.arange(1.0, 7)[:, None].expand(-1, 74)
    latents = Embeddings(code[[2, 0, 1, 3, 5]], [items[i] for i in (2, 0, 1, 3, 5)], [("20.png", "no face")], {})
    pairs = pair_faces(manifest, voices, faces, latents, "train", SHAPE)
    assert len(pairs.pairs.face) == 5
    seen = set()
    for seed in range(20):
        voice, label, batch = pairs.draw(3, 1, torch.Generator().manual_seed(seed))
        assert torch.equal(voice.argmax(1), label)
        photo = batch.z_arc.argmax(1)
        assert torch.equal(photo // 2, label)
        assert torch.equal(batch.latents, (photo + 1.0).view(-1, 1, 1, 1).expand(-1, *SHAPE))
        assert torch.equal(batch.landmarks, (photo + 1.0).view(-1, 1, 1).expand(-1, 5, 2))
        assert torch.equal(batch.women, label == 0)
        seen |= set(photo.tolist())
    assert seen == {0, 1, 2, 3, 5}
    voice, batch = pairs.first(2)
    assert batch.z_arc.argmax(1).tolist() == [0, 2]
    assert voice.argmax(1).tolist() == [0, 1]
