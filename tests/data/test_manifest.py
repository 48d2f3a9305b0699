"""The table of a dataset's files: it comes back as it was saved, and one that makes no sense is refused by name."""

import pandas as pd
import pytest

from v2f_core.data.manifest import COLUMNS, Manifest, check, from_csv
from v2f_core.errors import InputError

GOOD = {"person": "Ada", "sex": "f", "split": "test", "kind": "face", "session": "", "path": "a.png"}


def test_a_manifest_is_sorted_counted_and_comes_back_from_its_file(tmp_path):
    voice = GOOD | {"kind": "voice", "session": "v0", "path": "a.wav"}
    manifest = Manifest(tmp_path, pd.DataFrame([voice, GOOD]))
    manifest.table.to_csv(tmp_path / "manifest.csv", index=False)
    again = from_csv(tmp_path / "manifest.csv")
    pd.testing.assert_frame_equal(again.table, manifest.table)
    assert again.table.kind.tolist() == ["face", "voice"]
    assert again.root == tmp_path
    assert again.persons("test").loc["Ada", ["faces", "voices"]].tolist() == [1, 1]
    with pytest.raises(InputError, match="dev: no such split; choose train, val, test"):
        manifest.faces("dev")


def test_a_csv_that_is_no_manifest_is_refused_by_name(tmp_path):
    path = tmp_path / "mine.csv"
    for content in (None, "", "person,sex\nAda,f\n", "person,sex,split,kind,path\nAda,x,test,face,a.png\n"):
        if content is not None:
            path.write_text(content)
        with pytest.raises(InputError, match=r"mine\.csv: "):
            from_csv(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sex": "x", "path": "b.png"}, "sex is 'x'; expected f or m"),
        ({"split": "train", "path": "b.png"}, "Ada: in more than one split"),
        ({"sex": "m", "path": "b.png"}, "Ada: in more than one sex"),
        ({}, "a.png: listed twice"),
        *(({"path": path}, "not a path below") for path in ("/etc/b.png", "../b.png", "..\\b.png", "")),
        ({"person": "../Bob", "path": "b.png"}, "no name of a person"),
        ({"person": " Ada ", "split": "train", "path": "b.png"}, "Ada: in more than one split"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(change, message):
    assert len(check(pd.DataFrame([GOOD]))) == 1
    with pytest.raises(InputError, match=message):
        check(pd.DataFrame([GOOD, GOOD | change]))


def test_an_accent_that_is_spelt_in_two_ways_is_one_person():
    rows = [GOOD | {"person": "Ren\u00e9"}, GOOD | {"person": "Rene\u0301", "path": "b.png"}]
    assert check(pd.DataFrame(rows)).person.tolist() == ["Ren\u00e9"] * 2
    with pytest.raises(InputError, match="in more than one split"):
        check(pd.DataFrame([rows[0], rows[1] | {"split": "train"}]))


def test_a_table_without_a_column_is_refused():
    for column in COLUMNS:
        with pytest.raises(InputError, match=f"no column '{column}'"):
            check(pd.DataFrame([GOOD]).drop(columns=column))
