"""Tables of faces for notebooks: every picture is there, in its place, with its words, and small."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from v2f_core.show.faces import face_table


def plain(shade, side=128):
    return np.full((side, side, 3), shade, np.uint8)


def shades(page):
    """Mean brightness of every embedded picture, in the order of the page."""
    codes = re.findall(r"data:image/webp;base64,([\w+/=]+)", page)
    return [int(np.asarray(Image.open(io.BytesIO(base64.b64decode(code)))).mean().round()) for code in codes]


def test_pictures_stand_row_by_row_under_their_headings():
    page = face_table([[plain(10), plain(60)], [plain(110), None]], ["<a>", "b"], ["first", "second"]).data
    assert shades(page) == pytest.approx([10, 60, 110], abs=2)
    assert re.findall(r'alt="([^"]*)"', page) == ["first, &lt;a&gt;", "first, b", "second, &lt;a&gt;"]
    lines = page.split("<tr")[1:]
    assert [line.count("<td") for line in lines] == [0, 2, 2]
    assert [line.count("<th") for line in lines] == [3, 1, 1]  # a corner above the labels
    assert "<a>" not in page  # a heading is text, not markup


def test_pictures_without_headings_have_texts_and_only_minivox_is_called_synthetic(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    page = face_table([[noise]]).data
    assert 'alt="a face"' in page
    assert "<th" not in page
    assert "all faces are synthetic" in page
    assert len(page) < 30_000
    monkeypatch.setenv("V2F_DATASET", str(tmp_path))
    page = face_table([[noise]]).data
    assert "all faces" not in page
    assert "faces drawn by the model are synthetic" in page
