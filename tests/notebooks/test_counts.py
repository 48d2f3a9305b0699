"""The series stays short: what the counting program counts, the limits it knows, and that the notebooks keep them."""

import subprocess
import sys
from pathlib import Path

import count_notebooks
import nbformat
import pytest
from nbformat import v4

ROOT = Path(__file__).parents[2]
SERIES = sorted((ROOT / "notebooks").glob("*.ipynb"))


def book(*cells, said=""):
    """A notebook of texts (str) and code (bytes); each code cell prints the same."""
    made = [
        v4.new_code_cell(cell.decode(), outputs=[v4.new_output("stream", text=said)] if said else [])
        if isinstance(cell, bytes)
        else v4.new_markdown_cell(cell)
        for cell in cells
    ]
    return v4.new_notebook(cells=made)


def one(**fields):
    """A count that keeps every limit, but for the fields given."""
    usual = {"name": "a", "cells": 1, "words": 1, "code_lines": 1, "longest_cell": 1, "printed": 6, "verdicts": 1}
    usual |= {"compared": 1.0, "route_words": 1, "route_lines": 1, "imports": frozenset()}
    return count_notebooks.Count(**{**usual, **fields})


def test_words_are_counted_as_a_reader_would():
    text = "# A title ●\n\n| word | 10 % |\n|---|---|\n\n```\nnot counted\n```\n- $z$ → two **words**"
    assert count_notebooks.words(text) == len(["A", "title", "word", "10", "z", "two", "words"])


def test_lines_verdicts_and_imports_of_a_notebook():
    source = b"import v2f_core.show.plots\nfrom v2f_core import Prior, Pairs\nfrom os import path"
    counted = count_notebooks.count("a", book("two words", source, b"x", said="right: True\n3 of 4\n\nFalse\n"))
    assert (counted.cells, counted.words, counted.code_lines, counted.longest_cell) == (3, 2, 4, 3)
    assert (counted.printed, counted.verdicts, counted.compared) == (6, 4, 1.0)
    module = "v2f_core.show.plots"
    assert counted.imports == {("v2f_core", "Prior"), ("v2f_core", "Pairs"), (module, module)}


def test_only_tagged_text_belongs_to_the_first_tour():
    tagged = book("one two", "three")
    tagged.cells[1].metadata["tags"] = ["route"]
    tagged.cells.append(v4.new_code_cell("x = 1\ny = 2", metadata={"tags": ["varies", "route"]}))
    counted = count_notebooks.count("a", tagged)
    assert (counted.route_words, counted.route_lines) == (1, 2)


def test_figures_and_ignored_cells_are_not_compared():
    shown = book(b"figure", b"# NBVAL_IGNORE_OUTPUT\nprint(1)", b"print(2)", said="2\n")
    shown.cells[0].outputs = [v4.new_output("display_data", data={"image/png": "", "text/plain": "<Figure>"})]
    assert count_notebooks.count("a", shown).compared == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cells": 61}, "61 cells, expected at most 60"),
        ({"words": 1801}, "1,801 words, expected at most 1,800"),
        ({"longest_cell": 16}, "16 lines in a code cell, expected at most 15"),
        ({"printed": 11, "verdicts": 2}, "2 bare verdicts, expected at most 1"),
        ({"compared": 0.5}, "50% of the code cells print what is compared, expected 60%"),
        ({"route_words": 12_000, "route_lines": 870}, "91 minutes, expected at most 90"),
        ({"imports": frozenset(("v2f_core", str(i)) for i in range(61))}, "imports 61 names"),
        ({"imports": frozenset((str(i), "a") for i in range(17))}, "imports 17 modules"),
    ],
)
def test_each_limit_is_known(fields, said):
    assert list(count_notebooks.faults([one()])) == []
    (fault,) = count_notebooks.faults([one(**fields)])
    assert said in fault


def test_the_series_keeps_its_limits():
    counts = [count_notebooks.count(path.stem, nbformat.read(path, as_version=4)) for path in SERIES]
    assert list(count_notebooks.faults(counts)) == []


def test_the_command_fails_over_a_limit(tmp_path):
    path = tmp_path / "long.ipynb"
    nbformat.write(book("word " * 1_801), path)
    command = [sys.executable, ROOT / "docs" / "tools" / "count_notebooks.py", path]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 1
    assert "long: 1,801 words, expected at most 1,800" in run.stderr
