"""The demo: who is shown follows a rule, and what is drawn says that it is synthetic."""

import json

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from PIL import Image

import minivox
from v2f_core.app import demo
from v2f_core.data.manifest import COLUMNS, Manifest
from v2f_core.pipeline import Vox2FacePipeline
from v2f_core.training.pairs import Pairs


@pytest.fixture
def dataset(tmp_path):
    """Five women and four men of the test split, each with two recordings and a photo."""
    rows, wave = [], 0.1 * np.random.default_rng(0).uniform(-1, 1, 30_000)
    for i, sex in enumerate("ffffmfmmm"):
        name = f"P{8 - i}"  # names run against the sexes' order
        for clip in (f"{name}a.wav", f"{name}b.wav"):
            soundfile.write(tmp_path / clip, wave, 16_000)
            rows.append((name, sex, "test", "voice", "", clip))
        Image.new("RGB", (32, 32), (i, 0, 0)).save(tmp_path / f"{name}.png")
        rows.append((name, sex, "test", "face", "", f"{name}.png"))
    manifest = Manifest(tmp_path, pd.DataFrame(rows, columns=list(COLUMNS)))
    persons = manifest.persons("test")
    empty = (torch.zeros(0, 2), torch.zeros(1, dtype=torch.long))
    return manifest, Pairs(persons.index.tolist(), persons.sex.tolist(), *empty, *empty)


def test_the_first_women_and_men_by_name_are_shown_in_turn_then_the_voices_from_elsewhere(dataset):
    shown = list(demo.speakers(*dataset, clip_seconds=1.25))
    assert [speaker.name for speaker in shown] == ["P3", "P0", "P5", "P1", "P6", "P2", "other_voice", "real_voice"]
    assert [speaker.of_dataset for speaker in shown] == [True] * 6 + [False] * 2
    assert shown[-1].label == "a real voice,\nno true face"
    assert len(shown[0].windows) == 2 * 2  # 1.875 s: two windows of each of two recordings
    assert shown[0].photo == dataset[0].root / "P3.png"
    assert shown[-1].photo is shown[-2].photo is None


def test_every_drawn_face_is_written_and_labelled(dataset, tiny_profile, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    shown = list(demo.speakers(*dataset, clip_seconds=1.25))[-3:]
    pipe = Vox2FacePipeline.from_profile(tiny_profile)
    demo.draw({True: (pipe, {"heard": "as MiniVox"}), False: (pipe, {"heard": "as people"})}, shown, out)
    names = [f"{name}_{i}.png" for name in ("P2", "other_voice", "real_voice") for i in range(4)]
    assert sorted(path.name for path in out.iterdir()) == sorted([*names, "gallery.png"])
    for path in out.iterdir():
        with Image.open(path) as image:
            assert "Synthetic" in image.text["Description"]
            if path.name != "gallery.png":
                heard = json.loads(image.text["v2f_core"])["heard"]
                assert heard == ("as MiniVox" if path.name.startswith("P2") else "as people")


def test_voices_from_elsewhere_are_small_and_ship_and_the_real_one_says_whose_it_is():
    for voice in (demo.OTHER_VOICE, demo.REAL_VOICE):
        assert voice.stat().st_size < 60_000
        assert str(voice.parent) in minivox.__path__
    with soundfile.SoundFile(demo.REAL_VOICE) as file:
        assert "LibriSpeech" in file.artist
        assert "CC BY 4.0" in file.license
        assert "Changed" in file.comment
