"""Photographs as users have them: turned by a tag, of 16 bits, damaged, too large, no files at all."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from v2f_core.artefacts.profiles import load_profile
from v2f_core.data.voxceleb import open_dataset
from v2f_core.errors import InputError
from v2f_core.identity.faces import FacePack
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


@pytest.fixture(scope="module")
def photos():
    manifest = open_dataset(load_profile("mini"))
    return [Image.open(path).convert("RGB") for path in manifest.absolute(manifest.faces("train"))[:1200:300]]


@pytest.fixture(scope="module")
def pack():
    return FacePack.from_folder(load_profile("mini").part("faces"))


def turned(photo, tag):
    exif = Image.Exif()
    exif[0x0112] = tag
    return (photo if TURNS[tag] is None else photo.transpose(TURNS[tag])), exif


# --- upright


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
@pytest.mark.parametrize("tag", TURNS)
def test_a_tag_of_orientation_is_applied_in_every_format(photos, tmp_path, kind, tag):
    photo = photos[0].crop((0, 0, 128, 100))  # not square, so that sides that are swapped show
    laid, exif = turned(photo, tag)
    laid.save(tmp_path / f"x.{kind}", exif=exif, quality=95)
    read = read_image(tmp_path / f"x.{kind}")
    assert read.shape == (100, 128, 3)
    assert np.abs(read.astype(int) - np.array(photo)).mean() < 6
    assert np.array_equal(read, np.array(ImageOps.exif_transpose(Image.open(tmp_path / f"x.{kind}")).convert("RGB")))


def test_a_face_that_lies_on_its_side_or_head_is_no_face_of_that_person(photos, pack):
    """The detector finds it, with landmarks where an upright face has them."""
    upright, lying = [], []
    for photo in photos:
        pixels = np.array(photo)
        for turn in range(4):
            (identity,), found = pack.embed([np.rot90(pixels, turn).copy()])
            (upright if turn == 0 else lying).append(bool(found[0]))
            assert turn == 0 or not found[0] or identity @ pack.embed([pixels])[0][0] < 0.7
    assert all(upright)
    assert sum(lying) <= 1


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (16, 5000), (1, 1)])
def test_a_picture_too_narrow_for_a_face_has_none(pack, tmp_path, size):
    Image.new("RGB", size).save(tmp_path / "narrow.png")
    identities, found = pack.embed([read_image(tmp_path / "narrow.png")])
    assert not found.any()
    assert not identities.any()


# --- grey, palettes, transparency


def test_grey_of_16_bits_is_scaled_not_clipped(photos, tmp_path):
    grey = np.array(photos[0].convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    read = read_image(tmp_path / "deep.png")
    assert np.array_equal(read, np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize(
    ("mode", "kind"), [("1", "png"), ("L", "png"), ("LA", "png"), ("P", "png"), ("RGBA", "png"), ("CMYK", "jpg")]
)
def test_other_modes_are_read_as_rgb(photos, tmp_path, mode, kind):
    photos[0].convert(mode).save(tmp_path / f"x.{kind}", quality=95)
    read = read_image(tmp_path / f"x.{kind}")
    assert read.shape == (128, 128, 3)
    grey = np.array(photos[0].convert("L") if mode in ("1", "L", "LA") else photos[0]).mean()
    assert abs(read.mean() - grey) < 8


@pytest.mark.parametrize(
    "options",
    [{"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}, {"optimize": True, "quality": 20}],
    ids=str,
)
def test_every_kind_of_whole_jpeg_is_read(photos, tmp_path, options):
    photos[0].resize((131, 77)).save(tmp_path / "x.jpg", **options)
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


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    """144 million pixels would take 432 MB."""
    resource = pytest.importorskip("resource")
    (tmp_path / "bomb.png").write_bytes(png(12_000, 12_000, bytes(12_000 * 36_001)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"bomb\.png: 12000"):
        read_image(tmp_path / "bomb.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB on Linux


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
