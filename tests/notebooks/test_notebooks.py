"""The notebooks keep the rules of the series, and the program that runs and stores them keeps nothing else."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import run_notebooks
from nbconvert import HTMLExporter
from nbformat import v4

from v2f_core.artefacts.profiles import load_profile
from v2f_core.artefacts.weights import open_faces
from v2f_core.errors import InputError

SERIES = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
of_the_series = pytest.mark.parametrize("path", SERIES, ids=lambda path: path.name)


def small(*sources: str) -> nbformat.NotebookNode:
    """A notebook of a few cells of code and one of text."""
    return v4.new_notebook(cells=[*(v4.new_code_cell(source) for source in sources), v4.new_markdown_cell("…")])


def test_a_run_notebook_holds_results_and_nothing_volatile(tmp_path):
    path = tmp_path / "a.ipynb"
    book = small(
        "import os, sys\nfrom pathlib import Path\nprint(os.environ['V2F_PROFILE'])",
        "print('50%|#####', file=sys.stderr)\nPath('here').touch()",
        "6 * 7",
        "print(1)\nsys.stdout.flush()\nprint(2)",
    )
    book.metadata["widgets"] = {"state": 1}
    nbformat.write(book, path)
    run_notebooks.run(path)
    book = json.loads(path.read_text())
    first, second, third, fourth = book["cells"][:4]
    assert first["outputs"][0]["text"] == ["mini\n"]  # under the mini profile
    assert second["outputs"] == []  # progress bars are gone
    assert third["outputs"][0]["data"]["text/plain"] == ["42"]
    assert [output["text"] for output in fourth["outputs"]] == [["1\n", "2\n"]]  # in one piece
    assert all(cell["metadata"] == {} for cell in book["cells"])
    assert book["metadata"] == {"kernelspec": run_notebooks.KERNEL, "language_info": {"name": "python"}}
    run_notebooks.check(path)  # without being run


def test_a_failing_notebook_is_left_as_it_was(tmp_path):
    path = tmp_path / "b.ipynb"
    nbformat.write(small("1 / 0"), path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="ZeroDivisionError"):
        run_notebooks.run(path)
    assert path.read_bytes() == before


def test_each_broken_rule_is_named(tmp_path):
    book = small("\n".join("x = 1" for _ in range(16)), "y")
    book.cells[0].execution_count, book.cells[1].execution_count = 1, 3
    book.cells[1].outputs = [v4.new_output("error", ename="E", evalue="", traceback=[])]
    book.metadata["widgets"] = {}
    kinds = ("application/vnd.jupyter.widget-view+json", "image/png")
    book.cells[1].outputs += [v4.new_output("display_data", data={kind: ""}) for kind in kinds]
    book.cells[2].source = "x" * run_notebooks.BYTES
    text = "\n".join(run_notebooks.faults(book))
    rules = ("not 1..n", "16 lines", "an error in", "widget state", "a widget in", "without alternative")
    assert all(part in text for part in (*rules, "expected at most 1,000,000"))
    nbformat.write(book, tmp_path / "changed.ipynb")
    with pytest.raises(InputError, match=r"changed\.ipynb: .*; run it with"):
        run_notebooks.check(tmp_path / "changed.ipynb")


# --- the series


@of_the_series
def test_a_notebook_of_the_series_is_stored_clean_with_a_caption_to_each_figure(path):
    book = nbformat.read(path, as_version=4)
    assert list(run_notebooks.faults(book)) == []
    assert nbformat.writes(run_notebooks.clean(book)) == nbformat.writes(nbformat.read(path, as_version=4))
    for i, cell in enumerate(book.cells):
        assert not (cell.get("outputs") and "NBVAL_SKIP" in cell.source)
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            after = "\n".join(later.source for later in book.cells[i + 1 : i + 3] if later.cell_type == "markdown")
            assert "What to see" in after, cell.source.splitlines()[0]


@pytest.mark.slow
@of_the_series
def test_a_notebooks_page_is_light_and_says_what_its_pictures_show(path):
    page, _ = HTMLExporter(template_name="classic").from_filename(path)  # the default leaves texts out; as heavy
    assert len(page.encode()) < 960_000
    assert "No description has been provided" not in page  # nbconvert's own words for want of any
    assert not re.search(r"\w+Warning: ", page)


@of_the_series
def test_a_kernel_without_the_package_is_told_what_to_do(path, monkeypatch):
    source = next(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    for name in ("v2f_core", "v2f_core.artefacts.files"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=r"make lab.*choose the kernel"):
        exec(source.replace("%matplotlib inline", ""), {})


@pytest.mark.parametrize(
    ("setting", "value", "remedy"),
    [
        ("V2F_CACHE", "no_folder/cache", "cannot be written to.*set V2F_CACHE to a folder"),
        ("V2F_PROFILE", "full", "the full profile's dataset is missing; link it there"),
    ],
)
def test_a_missing_artefact_and_a_folder_without_permission_are_said_with_the_way_out(
    setting, value, remedy, tmp_path, monkeypatch
):
    (tmp_path / "no_folder").touch()  # permissions do not hold back who tests as root
    monkeypatch.setenv("V2F_FULL", str(tmp_path / "full"))
    monkeypatch.setenv(setting, value if setting == "V2F_PROFILE" else str(tmp_path / value))
    cells = [cell.source for cell in nbformat.read(SERIES[0], as_version=4).cells if cell.cell_type == "code"]
    with pytest.raises(InputError, match=remedy):
        exec("\n".join(cells[1:5]), {})


def test_the_class_project_runs_where_the_open_profile_is_installed_and_is_skipped_elsewhere(
    tmp_path, monkeypatch, capsys
):
    """Without a class, on made-up pairs: clips of real readers with synthetic portraits."""
    [path] = [path for path in SERIES if path.name.startswith("12_")]
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    [source] = [source for source in cells if "V2F_CLASS" in source]
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("V2F_CLASS", str(tmp_path / "none"))
    shown: list[str] = []
    names = {"os": os, "subprocess": subprocess, "sys": sys, "Path": Path, "work": tmp_path, "InputError": InputError}
    exec(source, names | {"load_profile": load_profile, "Markdown": str, "display": shown.append})
    if open_faces() is None:
        assert re.match(r"skipped: .*faces is missing; install it: .*make open", capsys.readouterr().out)
    else:
        assert shown[0].startswith("# Stage I on 12 persons (6 f, 6 m)")
