"""A contact sheet: persons down, their views across."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from minivox.build.portrait.looks import View, look_of
from minivox.build.portrait.render import render
from minivox.world import Person


def view_rng(person: Person, number: int) -> np.random.Generator:
    """The generator of a person's photograph ``number``: what every pool of pictures uses.

    Example:
        >>> from minivox.world import person
        >>> p = person("minivox", 0)
        >>> bool(view_rng(p, 0).random() == view_rng(p, 0).random())
        True
    """
    return np.random.default_rng([person.face_seed & 0xFFFFFFFF, person.face_seed >> 32, number])


def contact_sheet(
    persons: Sequence[Person], views_per_person: int, path: str | Path, columns: int = 1, size: int = 128
) -> None:
    """Draw every person ``views_per_person`` times and save the sheet; ``columns`` persons stand side by side."""
    rows = -(-len(persons) // columns)
    sheet = np.zeros((rows * size, columns * views_per_person * size, 3), np.uint8)
    for i, person in enumerate(persons):
        look = look_of(person)
        for k in range(views_per_person):
            top, left = i // columns * size, (i % columns * views_per_person + k) * size
            sheet[top : top + size, left : left + size] = render(look, View.sample(view_rng(person, k)), size)
    Image.fromarray(sheet).save(path)
