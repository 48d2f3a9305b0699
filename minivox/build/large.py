"""Stage `large`: MiniVox-L, a larger set of the same world: 2,890 training persons, as many as the paper's Stage I has.

MiniVox fits into a repository; but 800 persons are few to learn a faint relation from, and 200 are few to see a small
difference by. MiniVox-L has MiniVox's training and validation persons, 2,090 further ones to train on, and 1,000 test
persons of its own. It is not packed; give its folder as V2F_DATASET to any command.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from minivox import world
from minivox.build import minivox

MORE, TEST = 2890 - minivox.SPLITS["train"], 1000


def people(tiny: bool = False) -> list[tuple[world.Person, str]]:
    """Everybody and their splits. Nobody of MiniVox's test split is among them.

    Example:
        >>> from collections import Counter
        >>> Counter(split for _, split in people())
        Counter({'train': 2890, 'test': 1000, 'val': 100})
    """
    sizes = minivox.FEW if tiny else minivox.SPLITS
    old = list(
        zip(
            world.population("minivox", sizes["train"] + sizes["val"]),
            ["train"] * sizes["train"] + ["val"] * sizes["val"],
            strict=True,
        )
    )
    more, test = (world.population(pool, 2 if tiny else n) for pool, n in (("more", MORE), ("study", TEST)))
    return [*old, *((person, "train") for person in more), *((person, "test") for person in test)]


def run(work: Path, tiny: bool = False) -> None:
    """Write work/large/, in MiniVox's layout. Needs the stages `base_speech` and `minivox`."""
    root, listed = work / "large", people(tiny)
    for person in tuple(person for person, _ in listed if person.pool == "minivox"):
        name, code = minivox.names(person)
        for part in (Path("vox1/origin_faces", name), Path("vox1/wav", code)):
            shutil.copytree(work / "minivox" / part, root / part, dirs_exist_ok=True)
    persons, splits = map(list, zip(*listed, strict=True))
    clips = minivox.FEW_CLIPS if tiny else minivox.CLIPS
    minivox.make(root, work / "base_speech" / "minivox", persons, splits, clips)
