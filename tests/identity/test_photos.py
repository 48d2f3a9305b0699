"""Photographs as users have them: turned by a tag, of 16 bits, damaged, too large, no files at all."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from v2f_core.errors import InputError
from v2f_core.identity.photos import read_image

TURNS = {  # EXIF's orientation → how a camera laid the picture down, which the tag says to undo
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


# --- upright


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
@pytest.mark.parametrize("tag", TURNS)
def test_a_tag_of_orientation_is_applied_in_every_format(portraits, tmp_path, kind, tag):
    photo = Image.fromarray(portraits[0][:100])  # not square, so that sides that are swapped show
    exif = Image.Exif()
    exif[0x0112] = tag
    laid = photo if TURNS[tag] is None else photo.transpose(TURNS[tag])
    laid.save(tmp_path / f"x.{kind}", exif=exif, quality=95)
    read = read_image(tmp_path / f"x.{kind}")
    assert read.shape == (100, 128, 3)
    assert np.abs(read.astype(int) - np.array(photo)).mean() < 6
    assert np.array_equal(read, np.array(ImageOps.exif_transpose(Image.open(tmp_path / f"x.{kind}")).convert("RGB")))


def test_a_face_that_lies_on_its_side_or_head_is_no_face_of_that_person(portraits, mini_pack):
    """The detector finds it, with landmarks where an upright face has them."""
    upright, found = mini_pack.embed(portraits)
    assert found.all()
    lying, found = mini_pack.embed([np.rot90(pixels, turn).copy() for pixels in portraits for turn in (1, 2, 3)])
    assert found.sum() <= 1
    assert ((lying * np.repeat(upright, 3, axis=0)).sum(axis=1) < 0.7).all()


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (16, 5000), (1, 1)])
def test_a_picture_too_narrow_for_a_face_has_none(mini_pack, tmp_path, size):
    Image.new("RGB", size).save(tmp_path / "narrow.png")
    assert not mini_pack.embed([read_image(tmp_path / "narrow.png")])[1].any()


# --- grey, palettes, transparency


def test_grey_of_16_bits_is_scaled_not_clipped(portraits, tmp_path):
    grey = portraits[0][..., 0]
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert np.array_equal(read_image(tmp_path / "deep.png"), np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize(
    ("mode", "kind"), [("1", "png"), ("L", "png"), ("LA", "png"), ("P", "png"), ("RGBA", "png"), ("CMYK", "jpg")]
)
def test_other_modes_are_read_as_rgb(portraits, tmp_path, mode, kind):
    photo = Image.fromarray(portraits[0])
    photo.convert(mode).save(tmp_path / f"x.{kind}", quality=95)
    read = read_image(tmp_path / f"x.{kind}")
    assert read.shape == (128, 128, 3)
    assert abs(read.mean() - np.array(photo.convert("L") if mode in ("1", "L", "LA") else photo).mean()) < 8


@pytest.mark.parametrize(
    "options",
    [{"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}, {"optimize": True, "quality": 20}],
    ids=str,
)
def test_every_kind_of_whole_jpeg_is_read(portraits, tmp_path, options):
    Image.fromarray(portraits[0][:77]).save(tmp_path / "x.jpg", **options)
    with (tmp_path / "x.jpg").open("ab") as file:
        file.write(b"what telephones write after a picture")
    assert np.array_equal(read_image(tmp_path / "x.jpg"), np.array(Image.open(tmp_path / "x.jpg").convert("RGB")))


# --- refused, in one line that names the file


def png(width, height, rows=b""):
    """A PNG that states a size and holds ``rows``, compressed."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def encoded(kind, **options):
    data = io.BytesIO()
    gradient = np.arange(64 * 64 * 3).reshape(64, 64, 3) % 251
    Image.fromarray(gradient.astype(np.uint8)).save(data, kind, **options)
    return data.getvalue()


DDS = b"DDS " + struct.pack("<7I", 124, 0x1007, 64, 64, 0, 0, 0) + bytes(44 + 32 + 20)
REFUSED = {
    "empty": (b"", "cannot be read as a picture"),
    "text": (b"no picture", "cannot be read as a picture"),
    "of another kind": (DDS, "cannot be read as a picture"),
    "a bomb": (png(30_000, 30_000), "cannot be read as a picture (Image size (900000000 pixels) exceeds"),
    "a small bomb": (png(8_000, 8_000), "8000 × 8000 pixels; expected at most 50,000,000"),
    "cut off": (encoded("JPEG")[:900], "cannot be read as a picture"),
    "a JPEG that lacks a stretch": (encoded("JPEG")[:1000] + encoded("JPEG")[1200:], "its data are damaged"),
    "a cut WebP": (encoded("WEBP")[:-40], "cannot be read as a picture"),
    "a WebP with more after its end": (encoded("WEBP") + b"more", "its length is not the one that it states"),
    "a damaged PNG": (encoded("PNG")[:200] + b"????" + encoded("PNG")[204:], "cannot be read as a picture"),
    "a damaged AVIF": (encoded("AVIF")[:300], "cannot be read as a picture"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_picture_is_named_in_one_line(tmp_path, case, capfd):
    content, message = REFUSED[case]
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_is_refused_at_once_and_a_folder_and_a_link_to_nowhere_too(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere.png")
    for name, message in (("pipe", "no regular file"), ("folder", "no regular file"), ("link", "no such file")):
        with pytest.raises(InputError, match=rf"{name}\.png: {message}"):
            read_image(tmp_path / f"{name}.png")
    with pytest.raises(InputError, match="no such file"):
        read_image("a\0b.png")
