"""README's map shows a picture of each notebook: small, with a text, and as the notebook shows it now."""

import base64
import io
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat import v4
from PIL import Image
from thumbnails import SIZE, thumbnail

from v2f_core.errors import InputError

ROOT = Path(__file__).parents[2]
SERIES = sorted((ROOT / "notebooks").glob("*.ipynb"))


def shows(**data: str) -> nbformat.NotebookNode:
    """A notebook whose tagged cell shows something."""
    cell = v4.new_code_cell("1", metadata={"tags": ["thumbnail"]})
    cell.outputs = [v4.new_output("display_data", data={name.replace("_", "/"): code for name, code in data.items()})]
    return v4.new_notebook(cells=[v4.new_code_cell("0"), cell])


def encoded(colour: tuple[int, int, int], form: str) -> str:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(data, form)
    return base64.b64encode(data.getvalue()).decode()


def test_a_figure_keeps_its_shape():
    small = thumbnail(shows(image_png=encoded((255, 0, 0), "PNG")))
    assert small.size == (SIZE[1], SIZE[1])
    assert np.asarray(small)[90, 90].tolist() == [255, 0, 0]


def test_faces_of_a_table_stand_as_they_do_on_the_page():
    red, blue = (f'<img src="data:image/png;base64,{encoded(c, "PNG")}">' for c in ((255, 0, 0), (0, 0, 255)))
    small = np.asarray(thumbnail(shows(text_html=f"<tr>{red}{blue}</tr>\n<tr>{blue}{red}</tr>")))
    colours = [[int(small[y, x].argmax()) for x in (40, -40)] for y in (40, -40)]
    assert colours == [[0, 2], [2, 0]]


def test_a_cell_without_a_picture_is_refused():
    with pytest.raises(InputError, match="shows no picture"):
        thumbnail(shows(text_plain="1"))


@pytest.mark.parametrize("path", SERIES, ids=lambda path: path.stem)
def test_readme_shows_the_notebook_as_it_is_now(path):
    kept = ROOT / "docs" / "thumbnails" / f"{path.stem}.webp"
    assert kept.stat().st_size <= 25_000
    now = thumbnail(nbformat.read(path, as_version=4))
    stored = Image.open(kept).convert("RGB")
    assert stored.size == now.size, "the notebook has been run anew; python docs/tools/thumbnails.py"
    difference = np.asarray(stored).astype(int) - np.asarray(now)
    assert np.abs(difference).mean() < 6, "the notebook has been run anew; python docs/tools/thumbnails.py"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(rf'<img src="docs/thumbnails/{path.stem}.webp"[^>]* alt="([^"]+)"', readme)
    assert shown is not None
    assert len(shown[1]) > 30
