"""The deck of slides holds the first tour and nothing else, shows what can be read from afar, and notes the rest."""

import re

import make_slides
import nbformat
import pytest
from nbformat import v4

from v2f_core.errors import InputError

TEXT = "## One thing ●\n\nLong prose. **The point.** More prose.\n\n$$\na = b\n$$\n\n| x | y |"
ROUTE = {"tags": ["route"]}


def test_a_slide_shows_formulas_tables_and_bold_sentences_and_the_notes_hold_the_text():
    cells = make_slides.slides([v4.new_markdown_cell(TEXT, metadata=ROUTE), v4.new_code_cell("y = 7", metadata=ROUTE)])
    kinds = [(cell.cell_type, cell.metadata.slideshow.slide_type) for cell in cells]
    assert kinds == [("markdown", "slide"), ("markdown", "notes"), ("code", "subslide")]
    seen = make_slides.shown(TEXT)
    assert seen.splitlines()[0] == "## One thing"
    assert all(part in seen for part in ("**The point.**", "$$\na = b\n$$", "| x | y |"))
    assert "prose" not in seen


def test_the_page_shows_results_and_leaves_the_rest_of_the_series_out(tmp_path):
    code = v4.new_code_cell("print(41 + 1)", metadata=ROUTE, outputs=[v4.new_output("stream", text="42\n")])
    cells = [v4.new_markdown_cell(TEXT, metadata=ROUTE), code, v4.new_markdown_cell("secret_aside")]
    for name, tour in (("a", cells), ("b", cells[2:])):
        nbformat.write(v4.new_notebook(cells=tour), tmp_path / f"{name}.ipynb")
    make_slides.make([tmp_path / "a.ipynb"], tmp_path / "slides" / "deck.html")
    page = (tmp_path / "slides" / "deck.html").read_text(encoding="utf-8")
    notes = "".join(re.findall(r'<aside class="notes">.*?</aside>', page, flags=re.S))
    assert "Long prose" in notes
    assert "Long prose" not in re.sub(r"<aside.*?</aside>", "", page, flags=re.S)
    assert "42" in page
    assert "secret_aside" not in page
    with pytest.raises(InputError, match="the deck would be empty"):
        make_slides.make([tmp_path / "b.ipynb"], tmp_path / "deck.html")
