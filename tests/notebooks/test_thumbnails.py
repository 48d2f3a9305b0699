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
from thumbnails import thumbnail

ROOT = Path(__file__).parents[2]
SERIES = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_faces_of_a_table_stand_as_they_do_on_the_page():
    def face(colour):
        data = io.BytesIO()
        Image.new("RGB", (8, 8), colour).save(data, "PNG")
        return f'<img src="data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}">'

    red, blue = face((255, 0, 0)), face((0, 0, 255))
    cell = v4.new_code_cell("1", metadata={"tags": ["thumbnail"]})
    table = f"<tr>{red}{blue}</tr>\n<tr>{blue}{red}</tr>"
    cell.outputs = [v4.new_output("display_data", data={"text/html": table})]
    small = np.asarray(thumbnail(v4.new_notebook(cells=[v4.new_code_cell("0"), cell])))
    assert [[int(small[y, x].argmax()) for x in (40, -40)] for y in (40, -40)] == [[0, 2], [2, 0]]


@pytest.mark.parametrize("path", SERIES, ids=lambda path: path.stem)
def test_readme_shows_the_notebook_as_it_is_now(path):
    kept = ROOT / "docs" / "thumbnails" / f"{path.stem}.webp"
    assert kept.stat().st_size <= 25_000
    now, stored = thumbnail(nbformat.read(path, as_version=4)), Image.open(kept).convert("RGB")
    assert stored.size == now.size, "the notebook has been run anew; python docs/tools/thumbnails.py"
    difference = np.asarray(stored).astype(int) - np.asarray(now)
    assert np.abs(difference).mean() < 6, "the notebook has been run anew; python docs/tools/thumbnails.py"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(rf'<img src="docs/thumbnails/{path.stem}.webp"[^>]* alt="[^"]+"', readme)
