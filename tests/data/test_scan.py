"""A whole dataset looked through once: counts, reasons, the published split, hashes that survive a kill."""

import hashlib
from pathlib import Path

import pandas as pd
import pytest

from v2f_core.artefacts.profiles import load_profile
from v2f_core.cli import main
from v2f_core.data import scan as module
from v2f_core.data.layouts import open_dataset, read_layout
from v2f_core.data.manifest import COLUMNS, Manifest, from_parquet
from v2f_core.data.metadata import read_speakers
from v2f_core.data.pairs import from_pairs
from v2f_core.data.scan import compared, rule_counts, scan, summary
from v2f_core.errors import InputError

VOX1 = "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n"
VOX2 = "Class_ID,Name,Sample_Num,Flag,Gender_x,VoxCeleb2ID,VGGFace2ID,Gender_y,Set\n"


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


@pytest.fixture
def root(tmp_path):
    """HQ-VoxCeleb and VoxCeleb in small: 12 persons of vox1, 10 of vox2; one name in both, one without a voice."""
    root = tmp_path / "dataset"
    vox1 = [(f"One_{i:02d}", f"id100{i:02d}", "fm"[i % 2]) for i in range(12)]
    vox2 = [(f"Two_{i:02d}", f"id000{i:02d}", "fm"[i % 2]) for i in range(9)] + [("One_03", "id00099", "m")]
    write(root / "vox1_meta.csv", VOX1 + "".join(f"{i}\t{n}\t{s}\tIreland\tdev\n" for n, i, s in vox1))
    write(root / "full_vox2_meta.csv", VOX2 + "".join(f"n1,{n},9,1,{s},{i},n1,{s},dev\n" for n, i, s in vox2))
    for part, people, form in (("vox1", vox1, "wav/{}/v1/1.wav"), ("vox2", vox2, "dev/aac/{}/v1/1.m4a")):
        for name, identifier, _ in people:
            write(root / part / "masked_faces" / name / "0.jpg", f"face of {name}")
            if name != "Two_00":
                write(root / part / form.format(identifier), f"voice of {identifier}")
    return root


def test_a_scan_is_the_layout_with_hashes_sizes_and_nationalities(root):
    found = scan(root)
    plain = read_layout(root)
    pd.testing.assert_frame_equal(found.table[list(COLUMNS)], plain.table)
    for row in found.table.itertuples():
        content = (root / row.path).read_bytes()
        assert (row.bytes, row.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert found.table.groupby("person").nationality.first().loc[["One_00", "Two_01"]].tolist() == ["Ireland", ""]


def test_every_later_step_reads_the_manifest_in_place_of_the_folders(root, monkeypatch):
    found = scan(root)
    monkeypatch.setenv("V2F_FULL", str(root.parent))
    monkeypatch.setattr("v2f_core.data.layouts.read_layout", lambda *_: pytest.fail("the folders were read again"))
    again = open_dataset(load_profile("full"))
    pd.testing.assert_frame_equal(again.table, found.table)
    assert again.root == root


def test_the_summary_says_who_is_there_and_who_is_not_and_why(root):
    lines = list(summary(scan(root)))
    assert lines == [
        "train: 17 persons (8 f, 9 m), 17 faces, 17 recordings",
        "val: 1 persons (1 m), 1 faces, 1 recordings",
        "test: 2 persons (2 f), 2 faces, 2 recordings",
        "left out: 1 × also in vox1",
        "left out: 1 × a face, but no voice",
        "One_03: also in vox1 (train there, val here); taken once",
        "SF2F's split: 17/2/2 of 21 identities; HQ-VoxCeleb has 2890/370/378 of 3638: not whole",
    ]


def test_hashes_of_a_stopped_run_are_kept_but_for_a_torn_line_and_changed_files(root, monkeypatch):
    scan(root)
    log = root / "manifest.hashes.csv"
    whole = log.read_text()
    log.write_text(whole[: len(whole) // 2])  # killed in the middle of a line
    changed = root / "vox1/wav/id10000/v1/1.wav"
    changed.write_text("another voice")
    hashed = []
    monkeypatch.setattr(
        module, "sha256", lambda path: hashed.append(path) or hashlib.sha256(path.read_bytes()).hexdigest()
    )
    found = scan(root)
    kept = len(whole[: len(whole) // 2].splitlines()) - 1
    assert len(found.table) - kept <= len(hashed) <= len(found.table) - kept + 1
    assert changed in hashed
    for row in found.table.itertuples():
        assert row.sha256 == hashlib.sha256((root / row.path).read_bytes()).hexdigest()
    hashed.clear()
    scan(root)
    assert hashed == []


def of_counts(train, val, test, doubled=()):
    """A manifest of that many persons of each split, and of names that stand in both parts."""
    people = [("train", train), ("val", val), ("test", test)]
    rows = [(f"{split}{i}", "f", split, "face", "", f"{split}{i}.png") for split, n in people for i in range(n)]
    out = [(f"vox2/x{i}", f"also in vox1 (train there, {split} here); taken once") for i, split in enumerate(doubled)]
    return Manifest(
        Path("data"), pd.DataFrame(rows, columns=COLUMNS), pd.DataFrame(out, columns=["item", "why"], dtype=str)
    )


@pytest.mark.parametrize(
    ("manifest", "verdict"),
    [
        ((2890, 369, 378, ["val"]), "SF2F's split: 2890/370/378, as published"),
        ((2890, 370, 378), "SF2F's split: 2890/370/378, as published"),
        ((2891, 369, 378), "SF2F's split: 2891/369/378, but 2890/370/378 was published: the metadata's rows are"),
        ((2890, 369, 378), "SF2F's split: 2890/369/378 of 3637 identities; .* not whole"),
    ],
)
def test_the_published_counts_are_checked_when_the_data_are_whole(manifest, verdict):
    made = of_counts(*manifest[:3], doubled=manifest[3] if len(manifest) > 3 else ())
    assert sum(rule_counts(made).values()) >= 3637
    assert pd.Series([compared(made)]).str.match(verdict).all()


def test_the_command_writes_and_reports(root, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["scan", str(root), "--no-hashes"])
    assert stopped.value.code == 0
    assert "train: 17 persons" in capsys.readouterr().out
    assert "sha256" not in from_parquet(root / "manifest.parquet").table
    assert pd.read_csv(root / "left_out.csv").item.tolist() == ["vox2/One_03", "vox2/Two_00"]


def test_the_command_can_be_told_to_bear_more_unusable_files(root, capsys):
    for i in range(20):
        (root / f"vox1/wav/{i}.txt").write_text("a note")
    for options, code in ([], 2), (["--max-bad", "0.9"], 0):
        with pytest.raises(SystemExit) as stopped:
            main(["scan", str(root), "--no-hashes", *options])
        assert stopped.value.code == code, capsys.readouterr().err
    assert len(pd.read_csv(root / "left_out.csv")) == 2 + 20


def test_a_table_may_lie_in_its_part_and_begin_with_a_byte_order_mark(root):
    (root / "vox1_meta.csv").unlink()
    (root / "vox1" / "vox1_meta.csv").write_text(VOX1 + "id10001\tAda\tf\tIreland\tdev\n", encoding="utf-8-sig")
    assert read_speakers(root, "vox1") == [("Ada", "id10001", "f", "Ireland")]


@pytest.mark.parametrize("content", [b"", b"PAR1 torn", b"person,sex\n"])
def test_a_torn_manifest_is_named(tmp_path, content):
    (tmp_path / "manifest.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"manifest\.parquet: cannot be read as Parquet"):
        from_parquet(tmp_path / "manifest.parquet")


# --- a table of your own


def test_pairs_of_your_own_are_split_by_person(tmp_path):
    rows = [f"{name}{clip}.wav,{name}.png,{name}" for name in "lkjihgfedcba" for clip in range(3)]
    write(tmp_path / "pairs.csv", "clip,face,person\n" + "\n".join(rows))
    manifest = from_pairs(tmp_path / "pairs.csv")
    persons = manifest.persons()
    assert persons[persons.split != "train"].split.to_dict() == {"i": "test", "j": "val"}
    assert set(persons.faces), set(persons.voices) == ({1}, {3})
    assert set(persons.sex) == {"u"}
    assert manifest.root == tmp_path


def test_what_a_table_says_goes_before_the_rule(tmp_path):
    write(
        tmp_path / "pairs.csv", "clip,face,person,split,sex,session\na.wav,a.png,Ada,test,f,day1\n,b.png,Ada,test,f,\n"
    )
    table = from_pairs(tmp_path / "pairs.csv").table
    assert table[["sex", "split", "kind", "session", "path"]].values.tolist() == [
        ["f", "test", "face", "", "a.png"],
        ["f", "test", "face", "", "b.png"],
        ["f", "test", "voice", "day1", "a.wav"],
    ]


def test_the_full_profile_takes_pairs_of_your_own(tmp_path, monkeypatch):
    monkeypatch.setenv("V2F_FULL", str(tmp_path))
    write(tmp_path / "dataset" / "pairs.csv", "clip,face,person\na.wav,a.png,Ada\n")
    assert open_dataset(load_profile("full")).persons().index.tolist() == ["Ada"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("clip,person\na.wav,Ada\n", "no column 'face'"),
        ("clip,face,person\na.wav,a.png,\n", "row 2 lacks a person"),
        ("clip,face,person\na.wav,a.png,Ada\n,,Ada\n", "row 3 lacks a person, or both"),
        ("clip,face,person,split\na.wav,a.png,Ada,test\nb.wav,a.png,Ada,train\n", "Ada: in more than one split"),
        ("clip,face,person,split\na.wav,a.png,Ada,dev\n", "split is 'dev'"),
        ("clip,face,person\na.wav,a.png,Ada\na.wav,b.png,Bob\n", "a.wav: listed twice"),
        ("clip,face,person\n/a.wav,a.png,Ada\n", "not a path below"),
        ("", "cannot be read as a table"),
    ],
)
def test_pairs_that_make_no_sense_are_refused_by_name(tmp_path, content, message):
    write(tmp_path / "pairs.csv", content)
    with pytest.raises(InputError, match=rf"pairs\.csv.*{message}"):
        from_pairs(tmp_path / "pairs.csv")
