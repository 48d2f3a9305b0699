"""Photographs: any picture file becomes upright RGB, or is refused in one line that names it. The one door for them."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from v2f_core.artefacts.loading import refusing
from v2f_core.errors import InputError

logging.getLogger("PIL").addHandler(logging.NullHandler())  # what matters is in the errors; nothing is printed
FORMATS = ("JPEG", "PNG", "WEBP")
EXPECTED = "expected a JPEG, PNG or WebP file"
MOST_PIXELS = 50_000_000  # as large as cameras have; 150 MB in memory


def read_image(path: str | Path) -> UInt8[np.ndarray, "height width 3"]:
    """A picture (of an animation the first) as upright RGB; grey of 16 bits is scaled.

    The size is read before anything is decoded, and the orientation that a camera wrote into it is applied.

    Raises:
        InputError: the file is missing, no regular file, damaged, of another format, or of more than 50 million pixels.
    """
    from PIL import Image, ImageOps

    path = Path(path)
    with refusing(path, "a picture", EXPECTED), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about sizes and metadata; a picture is refused below, or it decodes
        if not path.exists():
            raise InputError(f"{path}: no such file; {EXPECTED}")
        if not path.is_file():  # opening a pipe would wait for its writer
            raise InputError(f"{path}: no regular file; {EXPECTED}")
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise InputError(f"{path}: {width} × {height} pixels; expected at most {MOST_PIXELS:,}; scale it")
            content = b"" if image.format == "PNG" else path.read_bytes()
            # a WebP has no checksum, but its length in its header: damaged data decode to some picture
            stated = int.from_bytes(content[4:8], "little") + 8
            if image.format == "WEBP" and len(content) - stated not in (0, 1):
                raise ValueError("its length is not the one that it states")
            if image.format == "JPEG" and not _is_whole(content):
                raise ValueError("its data are damaged")
            upright = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # grey of 16 bits, which Pillow would clip to white
                upright = Image.fromarray((np.asarray(upright) // 257).astype(np.uint8))
            return np.ascontiguousarray(upright.convert("RGB"))


def _is_whole(content: bytes) -> bool:
    """Whether FFmpeg finds no fault in a JPEG. Pillow makes a picture of damaged data, and says nothing."""
    import av

    decoder = av.CodecContext.create("mjpeg", "r")
    decoder.options = {"err_detect": "explode"}
    try:
        return bool([*decoder.decode(av.Packet(content)), *decoder.decode(None)])
    except av.error.InvalidDataError:
        return False
    except av.error.FFmpegError:  # a rare kind of JPEG that it does not know
        return True
