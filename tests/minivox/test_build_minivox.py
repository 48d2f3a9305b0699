"""A tiny MiniVox from nothing: drawn, spoken, packed, unpacked, and read by the reader of the real layout."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from PIL import Image

from minivox import dataset as packed
from minivox import world
from minivox.build import base_speech, large, minivox
from minivox.build.pack import write_hashes
from v2f_core.data.voxceleb import read_layout

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    base_speech.run(work, tiny=True)
    minivox.run(work, tiny=True)
    return work / "minivox"


def test_every_person_has_all_views_and_clips(tiny):
    manifest = read_layout(tiny)
    people = manifest.persons()
    assert len(people) == 12
    assert len(manifest.faces()) == 12 * minivox.VIEWS
    assert len(manifest.voices()) == 12 * minivox.FEW_CLIPS
    for path in manifest.absolute(manifest.faces()):
        assert np.asarray(Image.open(path)).shape == (128, 128, 3)
    for path in manifest.absolute(manifest.voices()):
        sound = soundfile.info(path)
        assert (sound.samplerate, sound.channels) == (16_000, 1)
        assert 1.0 < sound.duration < 4.0


def test_the_table_tells_the_truth_about_the_persons(tiny):
    table = pd.read_csv(tiny / "factors.csv")
    for row, person in zip(table.itertuples(), world.population("minivox", len(table)), strict=True):
        assert (row.sex, row.name) == (person.sex, minivox.names(person)[0])
        assert row.age == pytest.approx(person.age, abs=1e-3)
        assert row.voice_vtl == pytest.approx(person.voice.vtl, abs=1e-3)
        assert row.face_jaw == pytest.approx(person.face.jaw, abs=1e-3)
    assert table.split.tolist() == ["train"] * 8 + ["val"] * 2 + ["test"] * 2


def test_a_second_run_makes_the_same(tiny, tmp_path):
    person = world.population("minivox", 3)[2]
    minivox.draw_faces(tmp_path, person)
    minivox.record_voices(tmp_path, tiny.parent / "base_speech" / "minivox", person, minivox.FEW_CLIPS)
    made = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(made) == minivox.VIEWS + minivox.FEW_CLIPS
    for path in made:
        same = tiny / path.relative_to(tmp_path)
        if path.suffix == ".ogg":  # the container has a random serial number
            np.testing.assert_array_equal(soundfile.read(path)[0], soundfile.read(same)[0])
        else:
            assert path.read_bytes() == same.read_bytes()


def test_packed_and_unpacked_it_is_the_same(tiny, tmp_path):
    packed.pack(tiny, tmp_path / "assets" / "minivox")
    write_hashes(tmp_path / "assets")
    root = packed.unpack(tmp_path / "cache", tmp_path / "assets" / "minivox")
    for path in (p for p in tiny.rglob("*") if p.is_file()):
        assert (root / path.relative_to(tiny)).read_bytes() == path.read_bytes()


def test_minivox_l_goes_on_where_minivox_ends(tiny):
    large.run(tiny.parent, tiny=True)
    manifest = read_layout(tiny.parent / "large")
    people = manifest.persons()
    assert people.split.value_counts().to_dict() == {"train": 8 + 2, "val": 2, "test": 2}
    small = read_layout(tiny).persons()
    assert not set(people.index) & set(small.index[small.split == "test"])
    assert set(small.index[small.split != "test"]) < set(people.index)
    shared = Path("vox1/origin_faces/Mini_0000/1.webp")
    assert (tiny.parent / "large" / shared).read_bytes() == (tiny / shared).read_bytes()
