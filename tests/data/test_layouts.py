"""The reader of HQ-VoxCeleb's layout: who is taken, in which split, who is left out and why."""

import pandas as pd
import pytest

from v2f_core.artefacts.profiles import load_profile
from v2f_core.data.layouts import open_dataset, read_layout, sf2f_split
from v2f_core.data.manifest import COLUMNS, Manifest, check, from_csv
from v2f_core.errors import InputError

META = {
    "vox1": "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet",
    "vox2": "Class_ID,Name,Sample_Num,Flag,Gender_x,VoxCeleb2ID,VGGFace2ID,Gender_y,Set",
}


def write(path, content="x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def add(root, name, identifier, sex="f", part="vox1", folder="origin_faces", faces=1, voices=1):
    """A person with a line in the metadata, pictures and recordings."""
    for i in range(faces):
        write(root / part / folder / name / f"{i}.jpg")
    for i in range(voices):
        write(root / part / "wav" / identifier / "v000" / f"{i:05d}.wav")
    meta = root / {"vox1": "vox1_meta.csv", "vox2": "full_vox2_meta.csv"}[part]
    line = {"vox1": f"{identifier}\t{name}\t{sex}\tnone\tdev", "vox2": f"n1,{name},9,1,x,{identifier} ,n1,{sex},dev"}[
        part
    ]
    write(meta, (meta.read_text() if meta.exists() else META[part] + "\n") + line + "\n")


@pytest.fixture
def root(tmp_path):
    """Twelve persons, added in an order that is not that of their names."""
    for i in (7, 3, 11, 0, 1, 2, 4, 5, 6, 8, 9, 10):
        add(tmp_path, f"Name_{i:02d}", f"id1{99 - i:04d}", sex="fm"[i % 2], faces=2, voices=3)
    return tmp_path


def test_everybody_with_face_and_voice_is_read(root):
    manifest = read_layout(root)
    persons = manifest.persons()
    assert persons.index.tolist() == [f"Name_{i:02d}" for i in range(12)]
    assert persons.sex.tolist() == ["f", "m"] * 6
    assert set(persons.faces) == {2}
    assert set(persons.voices) == {3}
    assert len(manifest.left_out) == 0


def test_names_and_ids_are_matched_by_the_metadata_not_by_order(root):
    row = read_layout(root).voices().set_index("person").loc["Name_03"].iloc[0]
    assert row.path == "vox1/wav/id10096/v000/00000.wav"
    assert row.session == "v000"


def test_paths_lead_to_the_files(root):
    manifest = read_layout(root)
    assert all(path.is_file() for path in manifest.absolute(manifest.table))
    assert len(manifest.table) == sum(path.suffix in (".jpg", ".wav") for path in root.rglob("*"))


def test_without_a_split_file_sf2f_s_rule_holds(root):
    persons = read_layout(root).persons()
    assert persons.index[persons.split == "test"].tolist() == ["Name_06"]  # the table's row 8, counted from 0
    assert persons.index[persons.split == "val"].tolist() == ["Name_08"]


def test_sf2f_s_rule_follows_the_rows():
    names = [f"{i:03d}" for i in range(100)]
    forwards, backwards = sf2f_split(names), sf2f_split(names[::-1])
    assert [name for name in names if forwards[name] == "test"] == [f"{i:03d}" for i in range(8, 100, 10)]
    assert [name for name in names if backwards[name] == "val"] == [f"{i:03d}" for i in range(0, 100, 10)]


def test_sf2f_s_rule_counts_rows_without_faces_or_voices(root):
    """Else the published 370 and 378 of 3,638 could not come out: each would be a tenth, to within one a part."""
    for name in ("Name_07", "Name_03", "Name_11"):
        for picture in (root / "vox1/origin_faces" / name).iterdir():
            picture.unlink()
    assert read_layout(root).persons("test").index.tolist() == ["Name_06"]
    most = max(sum((n + shift) // 10 for n in (first, 3638 - first)) for first in range(3639) for shift in (0, 1))
    assert most < 370


def test_a_split_file_goes_before_the_rule(root):
    write(
        root / "split.csv",
        "name,split\n" + "".join(f"Name_{i:02d},{'test' if i < 4 else 'train'}\n" for i in range(11)),
    )
    manifest = read_layout(root)
    assert manifest.persons("test").index.tolist() == [f"Name_{i:02d}" for i in range(4)]
    assert manifest.left_out.values.tolist() == [["vox1/Name_11", "not in split.csv"]]


def test_the_splits_share_nobody(root):
    by_split = [set(read_layout(root).persons(split).index) for split in ("train", "val", "test")]
    assert sum(map(len, by_split)) == len(set.union(*by_split)) == 12


@pytest.mark.parametrize(
    ("faces", "voices", "why"),
    [(1, 0, "a face, but no voice (id77777)"), (0, 1, "a voice, but no face"), (0, 0, "neither face nor voice")],
)
def test_the_unpaired_are_listed_with_why(root, faces, voices, why):
    add(root, "Odd", "id77777", faces=faces, voices=voices)
    manifest = read_layout(root)
    assert "Odd" not in manifest.persons().index
    assert manifest.left_out.values.tolist() == [["vox1/Odd", why]]


def test_strangers_to_the_metadata_are_listed(root):
    write(root / "vox1/origin_faces/Stranger/0.jpg")
    write(root / "vox1/wav/id88888/v000/0.wav")
    assert read_layout(root).left_out.values.tolist() == [
        ["vox1/Stranger", "a face, but not in vox1_meta.csv"],
        ["vox1/id88888", "a voice, but not in vox1_meta.csv"],
    ]


def test_unusable_files_are_listed_and_hidden_ones_ignored(root):
    write(root / "vox1/wav/id10099/v000/notes.txt")
    write(root / "vox1/origin_faces/Name_00/empty.png", "")
    write(root / "vox1/origin_faces/Name_00/.DS_Store")
    assert dict(read_layout(root).left_out.values.tolist()) == {
        "vox1/origin_faces/Name_00/empty.png": "empty",
        "vox1/wav/id10099/v000/notes.txt": "not one of .flac .m4a .mp3 .ogg .wav",
    }


def test_too_many_unusable_files_stop_the_reading(root):
    for i in range(7):  # 7 of 67 files
        write(root / f"vox1/wav/id10099/v000/{i}.txt")
    with pytest.raises(InputError, match=r"7 of 67 files unusable .*mend them, or allow more \(scan --max-bad\)"):
        read_layout(root)
    assert len(read_layout(root, max_bad=0.11).left_out) == 7


def test_vox1_and_vox2_are_split_apart_and_nobody_is_taken_twice(root):
    for i in range(9):
        add(root, f"Other_{i}", f"id0{i:04d}", part="vox2")
    add(root, "Name_00", "id09999", part="vox2")  # in vox1 for training, here row 9, for validation
    manifest = read_layout(root)
    assert manifest.persons("test").index.tolist() == ["Name_06", "Other_8"]
    assert manifest.left_out.values.tolist() == [["vox2/Name_00", "also in vox1 (train there, val here); taken once"]]
    assert manifest.persons("train").loc["Name_00"].voices == 3


@pytest.mark.parametrize("first", ["vox2/aac", "vox2/dev/aac", "vox2/dev", "raw_wav/vox2/dev"])
@pytest.mark.parametrize("second", ["vox2/test/aac", "vox2/test", "raw_wav/vox2/test"])
def test_voxceleb2_is_found_however_it_was_unpacked(tmp_path, first, second):
    for i, folder in enumerate([first, second]):
        add(tmp_path, f"Name_{i}", f"id0001{i}", part="vox2", voices=0)
        write(tmp_path / folder / f"id0001{i}" / "21Uxsk56VDQ" / "00001.m4a")
    voices = read_layout(tmp_path).voices()
    assert voices.path.tolist() == [f"{f}/id0001{i}/21Uxsk56VDQ/00001.m4a" for i, f in enumerate([first, second])]
    assert set(voices.session) == {"21Uxsk56VDQ"}


def test_an_accent_taken_apart_by_a_file_system_is_the_same_name(tmp_path):
    add(tmp_path, "Aco_Petrovi\u0107", "id00040", part="vox2")
    faces = tmp_path / "vox2/origin_faces"
    (faces / "Aco_Petrovi\u0107").rename(faces / "Aco_Petrovic\u0301")
    assert read_layout(tmp_path).persons().index.tolist() == ["Aco_Petrovi\u0107"]


def test_a_root_one_level_off_is_guessed(root):
    with pytest.raises(InputError, match=f"no vox1 or vox2 folder in it.*: perhaps {root.absolute()}$"):
        read_layout(root / "vox1")
    with pytest.raises(InputError, match=r"vox1l: no such folder; give the root"):
        read_layout(root.with_name("vox1l"))
    (root / "HQ-VoxCeleb").mkdir()
    (root / "vox1").rename(root / "HQ-VoxCeleb" / "vox1")
    with pytest.raises(InputError, match=r"no vox1 or vox2 folder in it.*: perhaps .*/HQ-VoxCeleb$"):
        read_layout(root)


@pytest.mark.parametrize(
    ("folder", "told"),
    [("vox1/wav", "vox1/deeper is a voice, but not in vox1_meta.csv"), ("vox1/origin_faces", "vox1/deeper is a face")],
)
def test_persons_one_level_too_deep_are_told_by_what_stands_in_their_place(root, folder, told):
    (root / folder).rename(root / "deeper")
    (root / folder).mkdir()
    (root / "deeper").rename(root / folder / "deeper")
    with pytest.raises(InputError, match=f"nobody in it has both a face and a voice: {told}.*expected <Name>/"):
        read_layout(root)


def test_masked_faces_are_taken_if_wanted_or_alone(root):
    (root / "vox1/origin_faces").rename(root / "vox1/masked_faces")
    assert read_layout(root).faces().path.str.startswith("vox1/masked_faces/").all()
    with pytest.raises(InputError, match="no folder origin_faces"):
        read_layout(root, face_folder="origin_faces")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "vox1").rename(root / "vox3"), "no vox1 or vox2 folder"),
        (lambda root: (root / "vox1_meta.csv").unlink(), "vox1_meta.csv: no such file"),
        (lambda root: (root / "vox1_meta.csv").write_text(""), "vox1_meta.csv: cannot be read as a table"),
        (lambda root: (root / "vox1_meta.csv").write_bytes(b"\xff\xfe\0"), "vox1_meta.csv: cannot be read as a table"),
        (lambda root: (root / "vox1_meta.csv").write_text("a\tb\n1\t2\n"), "vox1_meta.csv: no column VGGFace1 ID"),
        (lambda root: (root / "vox1/wav").rename(root / "vox1/audio"), "wav: no such folder"),
        (
            lambda root: write(root / "split.csv", "name,split\nName_00,practice\n"),
            "split is 'practice'; expected train",
        ),
        (lambda root: write(root / "split.csv", "who,where\na,b\n"), "split.csv: no columns name and split"),
        (lambda root: write(root / "split.csv", "name,split\nNobody,test\n"), "nobody in it has both"),
    ],
)
def test_a_broken_dataset_is_one_clear_line(root, spoil, message):
    spoil(root)
    with pytest.raises(InputError, match=message) as caught:
        read_layout(root)
    assert str(root) in str(caught.value)


def test_a_missing_full_size_dataset_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("V2F_FULL", str(tmp_path))
    with pytest.raises(InputError, match="dataset: the full profile's dataset is missing"):
        open_dataset(load_profile("full"))


def test_a_manifest_comes_back_from_its_csv(root):
    manifest = read_layout(root)
    manifest.save(root / "manifest.csv")
    again = from_csv(root / "manifest.csv")
    pd.testing.assert_frame_equal(again.table, manifest.table)
    assert again.root == root


@pytest.mark.parametrize(
    "content", [None, "", "person,sex\nAda,f\n", "person,sex,split,kind,path\nAda,x,test,face,a.png\n"]
)
def test_a_csv_that_is_no_manifest_is_refused_by_name(tmp_path, content):
    path = tmp_path / "mine.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"mine\.csv: "):
        from_csv(path)


GOOD = {"person": "Ada", "sex": "f", "split": "test", "kind": "face", "session": "", "path": "a.png"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sex": "x", "path": "b.png"}, "sex is 'x'; expected f or m"),
        ({"split": "dev", "path": "b.png"}, "split is 'dev'"),
        ({"kind": "smell", "path": "b.png"}, "kind is 'smell'"),
        ({"split": "train", "path": "b.png"}, "Ada: in more than one split"),
        ({"sex": "m", "path": "b.png"}, "Ada: in more than one sex"),
        ({}, "a.png: listed twice"),
        ({"path": "/etc/b.png"}, "not a path below"),
        ({"path": "../b.png"}, "not a path below"),
        ({"path": ""}, "not a path below"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(change, message):
    assert len(check(pd.DataFrame([GOOD]))) == 1
    with pytest.raises(InputError, match=message):
        check(pd.DataFrame([GOOD, GOOD | change]))


@pytest.mark.parametrize("column", COLUMNS)
def test_a_table_without_a_column_is_refused(column):
    with pytest.raises(InputError, match=f"no column '{column}'"):
        check(pd.DataFrame([GOOD]).drop(columns=column))


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(InputError, match="dev: no such split; choose train, val, test"):
        Manifest(tmp_path, pd.DataFrame([GOOD])).faces("dev")
