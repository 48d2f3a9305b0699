"""The exercises' solutions satisfy their checkers: each is put into its notebook after the cell that it answers."""

import ast
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SOLUTIONS = sorted((NOTEBOOKS / "solutions").glob("*.py"))
FINISHED = [path for path in SOLUTIONS if (NOTEBOOKS / f"{path.stem}.ipynb").exists()]


def names(source: str) -> set[str]:
    """What the top level of some Python defines, imports not counted."""
    found = set()
    for node in ast.parse(re.sub(r"^%.*", "", source, flags=re.M)).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def code(path: Path) -> list[nbformat.NotebookNode]:
    cells = nbformat.read(NOTEBOOKS / f"{path.stem}.ipynb", as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


def exercises(path: Path) -> list[str]:
    """The sources of the cells that a reader fills in: each stands right before its checker."""
    cells = [cell.source for cell in code(path)]
    return [cells[i - 1] for i, source in enumerate(cells) if re.search(r"^def check_\d", source, flags=re.M)]


@pytest.mark.parametrize("path", FINISHED, ids=lambda path: path.name)
def test_each_exercise_has_its_solution_and_is_told_that_it_is_not_done(path):
    asked = [names(source) for source in exercises(path)]
    assert len(asked) == 3
    assert all(names(path.read_text(encoding="utf-8")) & one for one in asked)
    said = "".join(output.get("text", "") for cell in code(path) for output in cell.outputs)
    assert [f"exercise {i}: no answer yet" in said for i in (1, 2, 3)] == [True] * 3


@pytest.mark.slow
@pytest.mark.parametrize("path", FINISHED, ids=lambda path: path.name)
def test_solutions_are_right(path, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setitem(os.environ, "V2F_PROFILE", "mini")
    book = nbformat.read(NOTEBOOKS / f"{path.stem}.ipynb", as_version=4)
    asked, solution = exercises(path), path.read_text(encoding="utf-8")
    cells = []
    for cell in book.cells:
        cells += [cell, v4.new_code_cell(solution)] if cell.source in asked else [cell]
    book.cells = cells
    NotebookClient(book, timeout=900, kernel_name="python3", resources={"metadata": {"path": NOTEBOOKS}}).execute()
    printed = [o.text for cell in cells for o in cell.get("outputs", []) if o.get("name") == "stdout"]
    verdicts = re.findall(r"^exercise (\d): (.*)$", "".join(printed), flags=re.M)
    assert [number for number, _ in verdicts] == ["1", "2", "3"]
    for number, verdict in verdicts:
        assert re.match(r"right|4 of 4 right", verdict), f"exercise {number}: {verdict}"
