"""README's map shows a picture of each notebook: small, with a text, and as the notebook shows it now."""

import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image
from thumbnails import thumbnail

ROOT = Path(__file__).parents[2]
SERIES = sorted((ROOT / "notebooks").glob("*.ipynb"))


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
