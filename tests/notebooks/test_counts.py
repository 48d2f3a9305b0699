"""The series stays short: what the counting program counts, the limits it knows, and that the notebooks keep them."""

import re
from pathlib import Path

import count_notebooks
import nbformat
import pytest
from nbformat import v4

SERIES = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def code(source, said="", **metadata):
    outputs = [v4.new_output("stream", text=said)] if said else []
    return v4.new_code_cell(source, outputs=outputs, metadata=metadata)


def test_a_notebook_is_counted_as_a_reader_would():
    """Figures and ignored cells are not compared; tagged cells alone belong to the first tour."""
    module, figure = "v2f_core.show.plots", code("figure")
    figure.outputs = [v4.new_output("display_data", data={"image/png": "", "text/plain": "<Figure>"})]
    cells = [
        v4.new_markdown_cell(
            "# A title ●\n\n| word | 10 % |\n|---|---|\n\n```\nnot counted\n```\n- $z$ → two **words**"
        ),
        v4.new_markdown_cell("three", metadata={"tags": ["route"]}),
        code(
            "import v2f_core.show.plots\nfrom v2f_core import Prior, Pairs\nfrom os import path",
            "right: True\n3 of 4\n",
        ),
        code("# NBVAL_IGNORE_OUTPUT\nx", "False\n", tags=["varies", "route"]),
        figure,
    ]
    found = count_notebooks.count("a", v4.new_notebook(cells=cells))
    assert (found.cells, found.words, found.code_lines, found.longest_cell) == (5, 8, 6, 3)
    assert (found.printed, found.verdicts, found.compared) == (3, 2, pytest.approx(1 / 3))
    assert (found.route_words, found.route_lines) == (1, 2)
    assert found.imports == {("v2f_core", "Prior"), ("v2f_core", "Pairs"), (module, module)}


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
    within = {"name": "a", "cells": 1, "words": 1, "code_lines": 1, "longest_cell": 1, "printed": 6, "verdicts": 1}
    within |= {"compared": 1.0, "route_words": 1, "route_lines": 1, "imports": frozenset()}
    assert list(count_notebooks.faults([count_notebooks.Count(**within)])) == []
    (fault,) = count_notebooks.faults([count_notebooks.Count(**within | fields)])
    assert said in fault


def test_the_series_keeps_its_limits():
    counts = [count_notebooks.count(path.stem, nbformat.read(path, as_version=4)) for path in SERIES]
    assert list(count_notebooks.faults(counts)) == []


def sections(path):
    """Each section of a notebook: its heading, and whether its cells belong to the first tour."""
    found = []
    for cell in nbformat.read(path, as_version=4).cells:
        heading = re.search(r"^## (.+)$", cell.source, flags=re.M) if cell.cell_type == "markdown" else None
        if heading:
            found.append((heading[1], []))
        if found:
            found[-1][1].append("route" in cell.metadata.get("tags", ()))
    return found


@pytest.mark.parametrize("path", SERIES, ids=lambda path: path.stem)
def test_a_heading_ends_in_a_dot_where_its_section_belongs_to_the_first_tour(path):
    for heading, toured in sections(path):
        assert toured[0] == heading.endswith("●"), heading
        assert not any(toured) or heading.endswith("●"), heading


def test_the_glossary_leads_to_the_cells_that_begin_a_section():
    (text,) = (c.source for c in nbformat.read(SERIES[0], as_version=4).cells if c.source.startswith("## Words"))
    links = re.findall(r"\]\((\d\d\w+\.ipynb)#cell-id=(\S+)\) \|", text)
    assert len(links) > 12
    for chapter, place in links:
        (cell,) = (c for c in nbformat.read(SERIES[0].with_name(chapter), as_version=4).cells if c.id == place)
        assert cell.source.startswith("## "), f"{chapter}: {place}"
