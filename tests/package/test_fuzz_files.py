"""Photographs and models damaged at random: each is read or refused in one line, and none crashes or hangs."""

import json
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("kind", "count"), [("pictures", 40), ("weights", 25)])
def test_a_few_damaged_inputs_are_read_or_refused(monkeypatch, tmp_path, capfd, kind, count):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    from fuzz import main

    given = [kind, "--seed", "7", "--log", str(tmp_path), "--out", str(tmp_path)]
    assert main([*given, "--count", str(count // 2)]) == 0, capfd.readouterr().out
    assert main([*given, "--count", str(count)]) == 0, capfd.readouterr().out  # it goes on where it was
    found = json.loads((tmp_path / "fuzz.json").read_text())[kind]
    assert found["inputs"] == count
    assert set(found["outcomes"]) == {"refused", "silent"}  # "silent" is also what is read rightly
    rows = [json.loads(line) for line in (tmp_path / f"fuzz_{kind}_7.jsonl").read_text().splitlines()]
    assert [row["number"] for row in rows] == list(range(count))
    sys.modules.pop("fuzz", None)
