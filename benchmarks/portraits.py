"""Draw the picture of the README: persons of MiniVox's test split, three photographs each.

python benchmarks/portraits.py                    # from the package's own data
python benchmarks/portraits.py --root MINIVOX     # from an unpacked MiniVox
"""

import argparse
from pathlib import Path

from PIL import Image

from minivox.dataset import unpack
from v2f_core.artefacts.files import atomic_write
from v2f_core.data.voxceleb import read_layout
from v2f_core.identity.photos import read_image

COLUMNS, ROWS, VIEWS, SIDE, GAP = 4, 3, 3, 104, 8


def main() -> None:
    """Write docs/portraits.webp."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="an unpacked MiniVox (default: the package's)")
    manifest = read_layout(parser.parse_args().root or unpack())
    people = manifest.persons("test").index[: COLUMNS * ROWS]
    faces = manifest.faces("test")
    width = VIEWS * SIDE + GAP
    sheet = Image.new("RGB", (COLUMNS * width - GAP, ROWS * (SIDE + GAP) - GAP), "white")
    for i, person in enumerate(people):
        left, top = i % COLUMNS * width, i // COLUMNS * (SIDE + GAP)
        for k, path in enumerate(manifest.absolute(faces[faces.person == person])[:VIEWS]):
            face = Image.fromarray(read_image(path)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            sheet.paste(face, (left + k * SIDE, top))
    with atomic_write(Path(__file__).parent.parent / "docs" / "portraits.webp") as temporary:
        sheet.save(temporary, "WEBP", quality=85, method=6)


if __name__ == "__main__":
    main()
