"""The deck of slides holds the first tour and nothing else, shows what can be read from afar, and notes the rest."""

import re
from pathlib import Path

import make_slides
import nbformat
import pytest
from nbformat import v4

from v2f_core.errors import InputError

TEXT = (
    "## One thing ●\n\nLong prose that nobody reads from afar. **The point.** More prose.\n\n$$\na = b\n$$\n\n| x | y |"
)


@pytest.fixture
def notebook(tmp_path):
    route = {"tags": ["route"]}
    code = v4.new_code_cell("x = 41\nprint(x + 1)", metadata=route)
    code.outputs = [v4.new_output("stream", text="42\n")]
    cells = [
        v4.new_markdown_cell(TEXT, metadata=route),
        code,
        v4.new_code_cell("y = 7", metadata=route),
        v4.new_markdown_cell("## Another thing\n\nsecret_aside"),
    ]
    path = tmp_path / "a.ipynb"
    nbformat.write(v4.new_notebook(cells=cells), path)
    return path


def kinds(path):
    cells = make_slides.slides(nbformat.read(path, as_version=4).cells)
    return [(cell.cell_type, cell.metadata.slideshow.slide_type) for cell in cells]


def test_a_heading_begins_a_slide_and_text_is_in_the_notes(notebook):
    assert kinds(notebook) == [
        ("markdown", "slide"),
        ("markdown", "notes"),
        ("code", "subslide"),
        ("markdown", "notes"),
        ("code", "subslide"),
    ]


def test_a_slide_shows_formulas_tables_and_bold_sentences_only():
    seen = make_slides.shown(TEXT)
    assert seen.splitlines()[0] == "## One thing"
    for part in ("**The point.**", "$$\na = b\n$$", "| x | y |"):
        assert part in seen
    assert "prose" not in seen


def test_the_page_shows_results_without_their_code_and_leaves_the_rest_of_the_series_out(notebook, tmp_path):
    out = tmp_path / "slides" / "deck.html"
    make_slides.make([notebook], out)
    page = out.read_text(encoding="utf-8")
    notes = "".join(re.findall(r'<aside class="notes">.*?</aside>', page, flags=re.S))
    assert "Long prose" in notes
    assert "Long prose" not in re.sub(r"<aside.*?</aside>", "", page, flags=re.S)
    assert "42" in page
    assert "secret_aside" not in page
    assert "reveal" in page


def test_a_series_without_a_tour_makes_no_deck(tmp_path):
    path = tmp_path / "b.ipynb"
    nbformat.write(v4.new_notebook(cells=[v4.new_markdown_cell("# B")]), path)
    with pytest.raises(InputError, match="the deck would be empty"):
        make_slides.make([path], tmp_path / "deck.html")


def test_chapter_nine_is_part_of_the_deck():
    path = next((Path(__file__).parents[2] / "notebooks").glob("09_*.ipynb"))
    assert [kind for _, kind in kinds(path)].count("slide") >= 4
