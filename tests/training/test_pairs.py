"""Whose voice and whose face is whose: what training draws from."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from v2f_core.data.manifest import COLUMNS, Manifest
from v2f_core.errors import InputError
from v2f_core.identity.sphere import normalise
from v2f_core.training.embeddings import Embeddings
from v2f_core.training.pairs import Pairs, pair_up

FILES = {
    ("Ada", "f", "train"): "a.wav a1.png a2.png",
    ("Ben", "m", "train"): "b1.wav b2.wav b.png",
    ("Cy", "m", "train"): "c.wav c.png",
    ("Eve", "f", "val"): "e.wav e.png",
}


def stored(items):
    rows = torch.randn(len(items.split()), 4, generator=torch.Generator().manual_seed(0))
    return Embeddings(normalise(rows), items.split(), [], {})


def test_pairs_are_sorted_by_person_and_list_persons_left_out():
    """Cy's voice could not be embedded; Eve is in another split."""
    kinds = {"wav": "voice", "png": "face"}
    rows = [(*who, kinds[file[-3:]], "", file) for who, files in FILES.items() for file in files.split()]
    manifest = Manifest(Path("data"), pd.DataFrame(rows, columns=list(COLUMNS)))
    voices, faces = stored("b2.wav e.wav a.wav b1.wav"), stored("b.png c.png a2.png a1.png e.png")
    pairs = pair_up(manifest, voices, faces, "train")
    assert pairs.persons == ["Ada", "Ben"]
    assert pairs.sexes == ["f", "m"]
    assert pairs.left_out == ["Cy"]
    assert pairs.voice_start.tolist() == [0, 1, 3]
    assert torch.equal(pairs.voice, voices.of(["a.wav", "b1.wav", "b2.wav"])[0])
    assert pairs.face_start.tolist() == [0, 2, 3]
    assert torch.equal(pairs.face, faces.of(["a1.png", "a2.png", "b.png"])[0])
    torch.testing.assert_close(pairs.pooled_voices()[1], pairs.voice[1:].mean(0))
    torch.testing.assert_close(pairs.centroids()[0], normalise(pairs.face[:2].mean(0)))
    assert torch.equal(pairs.gallery(), pairs.face[[0, 2]])
    turned = pairs.only([1, 0])
    assert (turned.persons, turned.sexes, turned.women().tolist()) == (["Ben", "Ada"], ["m", "f"], [False, True])
    torch.testing.assert_close(turned.pooled_voices(), pairs.pooled_voices()[[1, 0]])
    torch.testing.assert_close(turned.centroids(), pairs.centroids()[[1, 0]])
    of_faces = pair_up(manifest, None, faces, "train")
    assert (of_faces.persons, len(of_faces.voice)) == (["Ada", "Ben", "Cy"], 0)
    assert torch.equal(of_faces.centroids()[:2], pairs.centroids())
    with pytest.raises(InputError, match="split val"):
        pair_up(manifest, stored("a.wav"), faces, "val")


def test_a_drawn_batch_is_of_different_persons_with_their_own_voice_and_face():
    voice, face, start = torch.randn(10, 6), normalise(torch.randn(10, 4)), torch.arange(0, 31, 3)
    triple = voice.repeat_interleave(3, 0), face.repeat_interleave(3, 0)
    pairs = Pairs([f"P{i}" for i in range(10)], ["f"] * 10, triple[0], start, triple[1], start)
    voice, face, label = pairs.draw(batch=8, windows=3, generator=torch.Generator().manual_seed(0))
    assert len(set(label.tolist())) == 8
    # all windows and photos of a person agree, so that any mean of them is the person's
    torch.testing.assert_close(voice, pairs.pooled_voices()[label])
    torch.testing.assert_close(face, pairs.gallery()[label])


def test_draws_pool_one_to_all_windows():
    pairs = Pairs(["P"], ["f"], torch.eye(6), torch.tensor([0, 6]), torch.eye(6), torch.tensor([0, 6]))
    g = torch.Generator().manual_seed(0)
    drawn = torch.cat([pairs.draw(1, 3, g)[0] for _ in range(3000)])
    torch.testing.assert_close(drawn.sum(1), torch.ones(3000))
    assert drawn.min() == 0
    single = (drawn.max(1).values == 1).float().mean().item()
    assert single == pytest.approx((1 + 1 / 6 + 1 / 36) / 3, abs=0.03)  # k = 1, or k = 2, 3 hitting one window
    torch.testing.assert_close(drawn.mean(0), torch.full((6,), 1 / 6), atol=0.02, rtol=0)
