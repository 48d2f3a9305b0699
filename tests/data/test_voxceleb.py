"""HQ-VoxCeleb's layout: who is taken, in which split, who is left out and why; a scan of it; your own pairs."""

import os
import shutil

import pandas as pd
import pytest

from v2f_core.artefacts.profiles import load_profile
from v2f_core.cli import main
from v2f_core.data.manifest import from_csv
from v2f_core.data.voxceleb import (
    from_folders,
    from_pairs,
    open_dataset,
    read_layout,
    scan,
    sf2f_split,
    small_split,
    summary,
)
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
    row = {"vox1": f"{identifier}\t{name}\t{sex}\tnone\tdev", "vox2": f"n1,{name},9,1,x,{identifier} ,n1,{sex},dev"}
    write(meta, (meta.read_text() if meta.exists() else META[part] + "\n") + row[part] + "\n")


@pytest.fixture
def root(tmp_path):
    """Twelve persons, added in an order that is not that of their names."""
    for i in (7, 3, 11, 0, 1, 2, 4, 5, 6, 8, 9, 10):
        add(tmp_path, f"Name_{i:02d}", f"id1{99 - i:04d}", sex="fm"[i % 2], faces=2, voices=3)
    return tmp_path


def test_persons_with_face_and_voice_are_read_and_matched_by_the_metadata(root):
    manifest = read_layout(root)
    persons = manifest.persons()
    assert persons.index.tolist() == [f"Name_{i:02d}" for i in range(12)]
    assert persons.sex.tolist() == ["f", "m"] * 6
    assert persons[["faces", "voices"]].drop_duplicates().values.tolist() == [[2, 3]]
    row = manifest.voices().set_index("person").loc["Name_03"].iloc[0]
    assert (row.path, row.session) == ("vox1/wav/id10096/v000/00000.wav", "v000")
    assert all(path.is_file() for path in manifest.absolute(manifest.table))
    assert len(manifest.table) == sum(path.suffix in (".jpg", ".wav") for path in root.rglob("*"))
    assert len(manifest.left_out) == 0


def test_sf2f_s_rule_counts_rows_of_the_table_also_without_faces(root):
    """Otherwise the published 370 and 378 of 3,638 were impossible: each would be a tenth, to within one a part."""
    persons = read_layout(root).persons()
    assert persons.index[persons.split == "test"].tolist() == ["Name_06"]  # row 8 of the table, counted from 0
    assert persons.index[persons.split == "val"].tolist() == ["Name_08"]
    for name in ("Name_07", "Name_03", "Name_11"):
        shutil.rmtree(root / "vox1/origin_faces" / name)
    assert read_layout(root).persons("test").index.tolist() == ["Name_06"]
    names = [f"{i:03d}" for i in range(100)]
    assert [name for name, split in sf2f_split(names[::-1]).items() if split == "val"] == names[::10][::-1]
    most = max(sum((n + shift) // 10 for n in (first, 3638 - first)) for first in range(3639) for shift in (0, 1))
    assert most < 370


def test_split_csv_replaces_the_rule(root):
    rows = [f"Name_{i:02d},{'test' if i < 4 else 'train'}\n" for i in range(11)]
    write(root / "split.csv", "name,split\n" + "".join([*rows, rows[0]]))  # a row twice does no harm
    manifest = read_layout(root)
    assert manifest.persons("test").index.tolist() == [f"Name_{i:02d}" for i in range(4)]
    assert manifest.left_out.values.tolist() == [["vox1/Name_11", "not in split.csv"]]


def test_persons_and_files_that_are_not_used_are_listed_with_the_reason(root):
    odd = {"a face, but no voice (id70000)": (1, 0), "a voice, but no face": (0, 1), "neither face nor voice": (0, 0)}
    for i, (faces, voices) in enumerate(odd.values()):
        add(root, f"Odd_{i}", f"id7000{i}", faces=faces, voices=voices)
    write(root / "vox1/origin_faces/Stranger/0.jpg")
    write(root / "vox1/wav/id88888/v000/0.wav")
    write(root / "vox1/wav/id10099/v000/notes.txt")
    write(root / "vox1/origin_faces/Name_00/empty.png", "")
    write(root / "vox1/origin_faces/Name_00/.DS_Store")
    assert dict(read_layout(root).left_out.values.tolist()) == {
        **{f"vox1/Odd_{i}": why for i, why in enumerate(odd)},
        "vox1/Stranger": "a face, but not in vox1_meta.csv",
        "vox1/id88888": "a voice, but not in vox1_meta.csv",
        "vox1/origin_faces/Name_00/empty.png": "empty",
        "vox1/wav/id10099/v000/notes.txt": "not one of .flac .m4a .mp3 .ogg .wav",
    }


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


def splits(content):
    return lambda root: write(root / "split.csv", content + "\n")


def deepen(folder):
    """Persons one level too deep."""
    folder.rename(folder.parent / "deeper")
    folder.mkdir()
    (folder.parent / "deeper").rename(folder / "deeper")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "vox1").rename(root / "vox3"), "no vox1 or vox2 folder in it; give the root"),
        (lambda root: root.rename(root.with_name("else")), "no such folder; give the root"),
        (lambda root: (root / "vox1/origin_faces").rename(root / "vox1/a"), "no folder origin_faces or masked_faces"),
        (lambda root: deepen(root / "vox1/wav"), "vox1/deeper is a voice, but not in vox1_meta.csv .expected <Name>/"),
        (lambda root: (root / "vox1_meta.csv").unlink(), "vox1_meta.csv: no such file"),
        (lambda root: (root / "vox1_meta.csv").write_text(""), "vox1_meta.csv: cannot be read as a table"),
        (lambda root: (root / "vox1_meta.csv").write_text("a\tb\n1\t2\n"), "vox1_meta.csv: no column VGGFace1 ID"),
        (lambda root: (root / "vox1/wav").rename(root / "vox1/audio"), "wav: no such folder"),
        (splits("name,split\nName_00,practice"), "split is 'practice'; expected train"),
        (splits("name,split\nName_00,train\nName_01,val\nName_00,test"), "split.csv: Name_00: in more than one split"),
        (splits("who,where\na,b"), "split.csv: no columns name and split"),
        (splits("name,split\nNobody,test"), "nobody in it has both"),
    ],
)
def test_a_broken_dataset_is_one_clear_line(root, spoil, message):
    spoil(root)
    with pytest.raises(InputError, match=message) as caught:
        read_layout(root)
    assert str(root) in str(caught.value)


# --- links, pipes, and names that are no text


def test_a_file_with_several_names_is_taken_once(root):
    """The photograph of one person, linked into another's folder, would put it into two splits."""
    faces = root / "vox1/origin_faces"
    before = read_layout(root).table
    (faces / "Name_00" / "9.jpg").symlink_to(faces / "Name_00" / "0.jpg")
    (faces / "Name_05" / "9.jpg").hardlink_to(faces / "Name_00" / "1.jpg")
    manifest = read_layout(root)
    assert manifest.table.equals(before)
    assert dict(manifest.left_out.values) == {
        "vox1/origin_faces/Name_00/9.jpg": "another name of vox1/origin_faces/Name_00/0.jpg",
        "vox1/origin_faces/Name_05/9.jpg": "another name of vox1/origin_faces/Name_00/1.jpg",
    }


def test_loops_links_to_nowhere_pipes_and_names_that_are_no_text_are_named(root):
    folder = root / "vox1/origin_faces/Name_00"
    (folder / "loop").symlink_to(folder)
    (folder / "up").symlink_to(root / "vox1")
    (folder / "self.jpg").symlink_to("self.jpg")
    (folder / "nowhere.jpg").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.jpg")
    (folder / os.fsdecode(b"caf\xe9.jpg")).write_text("x")
    scanned = scan(root, max_bad=0.5)
    assert len(scanned.faces()) == 24
    assert "caf\\xe9.jpg" in (root / "left_out.csv").read_text(encoding="utf-8")
    assert {item.removeprefix("vox1/origin_faces/Name_00/"): why for item, why in scanned.left_out.values} == {
        "loop": "another name of vox1/origin_faces/Name_00",
        "up": "another name of a folder that it is in",
        "self.jpg": "a link that leads nowhere",
        "nowhere.jpg": "a link that leads nowhere",
        "pipe.jpg": "no file: a pipe or device",
        "caf\\xe9.jpg": "its name is not UTF-8, or has signs that cannot be printed",
    }


# --- a scan


@pytest.fixture
def whole(tmp_path):
    """HQ-VoxCeleb and VoxCeleb in small: 12 persons of vox1, 10 of vox2; one name in both, one without a voice."""
    root = tmp_path / "dataset"
    vox1 = [(f"One_{i:02d}", f"id100{i:02d}", "fm"[i % 2]) for i in range(12)]
    vox2 = [(f"Two_{i:02d}", f"id000{i:02d}", "fm"[i % 2]) for i in range(9)] + [("One_03", "id00099", "m")]
    for part, people in (("vox1", vox1), ("vox2", vox2)):
        for name, identifier, sex in people:
            add(root, name, identifier, sex, part, "masked_faces", voices=int(name != "Two_00"))
    return root


def test_every_later_step_reads_the_manifest_in_place_of_the_folders(whole, monkeypatch):
    table = whole / "vox1_meta.csv"  # it may lie in its part, and begin with a byte-order mark
    (whole / "vox1" / table.name).write_text(table.read_text(), encoding="utf-8-sig")
    table.unlink()
    scanned = scan(whole)
    shutil.rmtree(whole / "vox1")
    monkeypatch.setenv("V2F_DATASET", str(whole))
    again = open_dataset(load_profile("full"))
    pd.testing.assert_frame_equal(again.table, scanned.table)
    assert again.root == whole


def test_the_command_writes_reports_and_has_an_option_for_more_unusable_files(whole, capsys):
    for i in range(20):
        (whole / f"vox1/wav/{i}.txt").write_text("a note")
    for options, code in ([], 2), (["--max-bad", "0.9"], 0):
        with pytest.raises(SystemExit) as stopped:
            main(["scan", str(whole), *options])
        assert stopped.value.code == code
    out, err = capsys.readouterr()
    assert "20 of 60 files unusable" in err
    assert out.splitlines() == [
        "train: 17 persons (8 f, 9 m), 17 faces, 17 recordings",
        "val: 1 persons (1 m), 1 faces, 1 recordings",
        "test: 2 persons (2 f), 2 faces, 2 recordings",
        "left out: 20 × not one of .flac .m4a .mp3 .ogg .wav",
        "left out: 1 × also in vox1",
        "left out: 1 × a face, but no voice",
    ]
    assert len(from_csv(whole / "manifest.csv").persons("train")) == 17
    assert len(pd.read_csv(whole / "left_out.csv")) == 2 + 20


# --- a table of your own


def test_pairs_of_your_own_are_split_by_person(tmp_path):
    rows = [f"{name}{clip}.wav,{name}.png,{name}" for name in "lkjihgfedcba" for clip in range(3)]
    write(tmp_path / "pairs.csv", "clip,face,person\n" + "\n".join(rows))
    manifest = from_pairs(tmp_path / "pairs.csv")
    persons = manifest.persons()
    few = {"b": "val", "d": "test", "g": "val", "i": "test", "l": "val"}  # of every five one validates, one tests
    assert persons[persons.split != "train"].split.to_dict() == few
    assert persons[["faces", "voices", "sex"]].drop_duplicates().values.tolist() == [[1, 3, "u"]]
    assert manifest.root == tmp_path
    of_sex = small_split({f"{sex}{i}": sex for i in range(10) for sex in "fm"})
    for sex in "fm":
        kinds = [kind for name, kind in of_sex.items() if name[0] == sex]
        assert [kinds.count(kind) for kind in ("train", "val", "test")] == [6, 2, 2]


def test_a_tables_split_sex_and_session_are_used_and_the_full_profile_reads_it(tmp_path, monkeypatch):
    monkeypatch.setenv("V2F_DATASET", str(tmp_path / "none"))
    with pytest.raises(InputError, match="the full profile's dataset is missing"):
        open_dataset(load_profile("full"))
    lines = "clip,face,person,split,sex,session\na.wav,a.png,Ada,test,f,day1\n,b.png,Ada,test,f,\n"
    write(tmp_path / "pairs.csv", lines)
    monkeypatch.setenv("V2F_DATASET", str(tmp_path))
    table = open_dataset(load_profile("full")).table
    assert table[["sex", "split", "kind", "session", "path"]].values.tolist() == [
        ["f", "test", "face", "", "a.png"],
        ["f", "test", "face", "", "b.png"],
        ["f", "test", "voice", "day1", "a.wav"],
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("clip,person\na.wav,Ada\n", "no column 'face'"),
        ("clip,face,person\na.wav,a.png,\n", "row 2 lacks a person"),
        ("clip,face,person\na.wav,a.png,Ada\n,,Ada\n", "row 3 lacks a person, or both"),
        ("clip,face,person,split\na.wav,a.png,Ada,test\nb.wav,a.png,Ada,train\n", "Ada: in more than one split"),
        ("clip,face,person,split\na.wav,a.png,Ada,dev\n", "split is 'dev'"),
        ("clip,face,person\n./a.wav,a.png,Ada\na.wav,b.png,Bob\n", "a.wav: listed twice"),
        ("clip,face,person\n/a.wav,a.png,Ada\n", "not a path below"),
        ("", "cannot be read as a table"),
        ("clip,face,person\n", "no row below the heading"),
        ("clip,face,person\na.wav,a.png,J\udcf6rg\n", "expected text in UTF-8"),
        ("clip,face,person\na.wav,a.png,Ada\nb.wav,a.png,Bob\n", "a.png: listed twice, for Ada and Bob"),
        ("clip,face,person\nC:\\me\\a.wav,a.png,Ada\n", "not a path below"),
    ],
)
def test_pairs_that_make_no_sense_are_refused_by_name(tmp_path, content, message):
    (tmp_path / "pairs.csv").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=rf"pairs\.csv.*{message}"):
        from_pairs(tmp_path / "pairs.csv")


def test_pairs_from_a_spreadsheet_on_windows(tmp_path):
    """A byte-order mark, semicolons, backslashes, capitals, blanks; a row twice, an empty and a short one."""
    rows = ["Person;Clip;photo;sex", "Ada; clips\\a.wav;faces\\a.png;F", "Bea;clips\\b.wav;faces\\b.png;"]
    (tmp_path / "pairs.csv").write_bytes("\r\n".join([*rows, rows[1], ";;;", "Cy;c.wav"]).encode("utf-8-sig"))
    manifest = from_pairs(tmp_path / "pairs.csv")
    assert manifest.table.path.tolist() == ["faces/a.png", "clips/a.wav", "faces/b.png", "clips/b.wav", "c.wav"]
    assert manifest.persons().sex.to_dict() == {"Ada": "f", "Bea": "u", "Cy": "u"}
    left_out = [["Cy", "a voice alone"], ["row 4 of pairs.csv", "the same as an earlier row"]]
    assert manifest.left_out.values.tolist() == left_out
    rows = ["person;sex;split;kind;session;path", "Ada;f;test;face;;faces\\a.png"]
    (tmp_path / "manifest.csv").write_bytes("\r\n".join(rows).encode("utf-8-sig"))
    assert from_csv(tmp_path / "manifest.csv").table.values.tolist() == [
        ["Ada", "f", "test", "face", "", "faces/a.png"]
    ]


def test_a_scan_of_your_own_data_writes_nothing_and_names_what_is_not_there(tmp_path):
    write(tmp_path / "pairs.csv", "clip,face,person,sex\na.wav,a.png,Ada,f\na.wav,a.png,Ada,f\n")
    write(tmp_path / "a.wav")
    assert list(summary(scan(tmp_path))) == [
        "train: 1 persons (1 f), 1 faces, 1 recordings",
        "left out: a.png: no such file",
        "left out: row 3 of pairs.csv: the same as an earlier row",
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"pairs.csv", "a.wav"}


def test_a_folder_for_each_person_is_a_dataset(tmp_path, monkeypatch):
    for name in ("Ada/a.wav", "Ada/a.JPG", "Ada/notes.txt", "Bea/b.ogg", "Bea/.hidden", "Cleo/c.png", "Cleo/0.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" if name != "Cleo/0.wav" else b"")
    monkeypatch.setenv("V2F_DATASET", str(tmp_path))
    manifest = open_dataset(load_profile("open"))
    assert manifest.table[["person", "kind"]].values.tolist() == [
        ["Ada", "face"], ["Ada", "voice"], ["Cleo", "face"], ["Bea", "voice"],
    ]  # fmt: skip
    left = dict(manifest.left_out.values)
    assert left.keys() == {"Ada/notes.txt", "Bea", "Cleo", "Cleo/0.wav"}
    assert (left["Bea"], left["Cleo"], left["Cleo/0.wav"]) == ("a voice alone", "a face alone", "empty")


def test_of_folders_for_persons_those_that_cannot_be_used_are_named(tmp_path):
    for name in (b"Ada", b"J\xfcrgen"):
        write(tmp_path / os.fsdecode(name) / "hello.wav")
        write(tmp_path / os.fsdecode(name) / "me.jpg")
    for link, target in (("Eve", "Ada"), ("up", ".."), ("nowhere", "no")):
        (tmp_path / link).symlink_to(target)
    (tmp_path.parent / "private.wav").write_text("in the folder above")
    manifest = from_folders(tmp_path)
    assert manifest.table.path.tolist() == ["Ada/me.jpg", "Ada/hello.wav"]
    assert dict(manifest.left_out.values) == {
        "Eve": "another name of Ada",
        "J\\xfcrgen": "its name is not UTF-8, or has signs that cannot be printed",
        "up": "another name of a folder that it is in",
        "nowhere": "a link that leads nowhere",
    }
