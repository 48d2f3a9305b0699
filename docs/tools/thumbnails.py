"""A small picture of each notebook, cut from what it shows: that of the cell tagged "thumbnail".

python docs/tools/thumbnails.py    # notebooks/*.ipynb → docs/thumbnails/*.webp, for README's map of the series
"""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

from v2f_core.artefacts.files import atomic_write
from v2f_core.errors import InputError

if TYPE_CHECKING:
    from nbformat import NotebookNode
    from PIL import Image

TAG = "thumbnail"
SIZE = (400, 200)  # pixels, at most


def thumbnail(book: NotebookNode) -> Image.Image:
    """The figure, or the table of faces, of the tagged cell, as large as ``SIZE`` lets it be.

    Raises:
        InputError: no cell is tagged, more than one is, or it shows no picture.

    Example:
        >>> from nbformat import v4
        >>> thumbnail(v4.new_notebook(cells=[v4.new_code_cell("1")]))
        Traceback (most recent call last):
        v2f_core.errors.InputError: 0 cells are tagged "thumbnail", expected one
    """
    from PIL import Image, ImageOps

    tagged = [cell for cell in book.cells if TAG in cell.metadata.get("tags", ())]
    if len(tagged) != 1:
        raise InputError(f'{len(tagged)} cells are tagged "{TAG}", expected one')
    for output in tagged[0].outputs:
        data = output.get("data", {})
        if "image/png" in data:
            found = _opened(data["image/png"])
        elif "<img" in data.get("text/html", ""):
            found = _table(data["text/html"])
        else:
            continue
        return ImageOps.contain(found, SIZE, Image.Resampling.LANCZOS)
    raise InputError(f'the cell tagged "{TAG}" shows no picture; run the notebook, or tag another cell')


def _opened(code: str) -> Image.Image:
    from PIL import Image

    return Image.open(io.BytesIO(base64.b64decode(code))).convert("RGB")


def _table(page: str) -> Image.Image:
    """The pictures of a table, row by row, without its words."""
    from PIL import Image

    rows = [re.findall(r'src="data:image/\w+;base64,([\w+/=]+)"', row) for row in page.split("</tr>")]
    faces = [[_opened(code) for code in row] for row in rows if row]
    side, gap = faces[0][0].width, 6
    step = side + gap
    whole = Image.new("RGB", (step * max(map(len, faces)) - gap, step * len(faces) - gap), "white")
    for i, row in enumerate(faces):
        for j, face in enumerate(row):
            whole.paste(face.resize((side, side)), (j * step, i * step))
    return whole


def main() -> None:
    """Make them all."""
    import nbformat

    folder = Path("docs/thumbnails")
    folder.mkdir(exist_ok=True)
    for path in sorted(Path("notebooks").glob("*.ipynb")):
        small = thumbnail(nbformat.read(path, as_version=4))
        with atomic_write(folder / f"{path.stem}.webp") as temporary:
            small.save(temporary, "WEBP", quality=82, method=6)


if __name__ == "__main__":
    main()
