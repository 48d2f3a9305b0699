"""``make demo``: voices → faces on the embedded data, a gallery and a table.

Nobody is picked by hand: the gallery shows the first women and men of the test split by name, and one recording of
other origin. Their faces took part in no training, neither here nor in any miniature.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from v2f_core.app.generate import check_writable, png_fields, png_text, staged
from v2f_core.artefacts.profiles import MINI_ASSETS
from v2f_core.artefacts.provenance import folder_hash

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from v2f_core.artefacts.profiles import Profile
    from v2f_core.data.manifest import Manifest
    from v2f_core.pipeline import Vox2FacePipeline
    from v2f_core.training.pairs import Pairs

OTHER_VOICE = MINI_ASSETS.parent / "other_voice.ogg"
EACH_SEX, FACES = 3, 4


@dataclass(frozen=True)
class Heard:
    """One recording of the gallery: who speaks, its windows, and the speaker's photo if there is one."""

    name: str
    label: str
    windows: torch.Tensor
    photo: Path | None = None


def demo(out: str | Path = "outputs/demo", profile: str | Profile | None = None, seed: int = 0) -> Path:
    """Write ``gallery.png``, ``table.csv``, ``table.md`` and every generated face into a folder.

    Args:
        out: folder; made if missing.
        profile: name of a profile, or a profile.
        seed: of the first face of each voice.
    Returns:
        the gallery's path.
    Raises:
        InputError: the profile, its parts, its dataset or the folder cannot be used.
    """
    from transformers.utils import logging

    from v2f_core.app.evaluate import stage1_table
    from v2f_core.artefacts.profiles import Profile, load_profile
    from v2f_core.data.layouts import open_dataset
    from v2f_core.evaluation import stage1_report
    from v2f_core.pipeline import Vox2FacePipeline
    from v2f_core.training.embeddings import embed_dataset
    from v2f_core.training.pairs import pair_up

    logging.disable_progress_bar()  # of loading weights, which takes no time
    chosen, out = profile if isinstance(profile, Profile) else load_profile(profile), Path(out)
    check_writable(out)
    began = time.perf_counter()
    manifest = open_dataset(chosen)
    pipe = Vox2FacePipeline.from_profile(chosen)
    weights = {part: folder_hash(chosen.part(part)) for part in (chosen.encoder, chosen.last_stage, "prior")}
    made = {"weights_sha256": weights, "guidance": pipe.config["guidance"], "steps": pipe.config["num_steps"]}
    voices, faces = embed_dataset(chosen, manifest)
    training, test = (pair_up(manifest, voices, faces, split) for split in ("train", "test"))
    table = stage1_table(pipe.aligner, training, test)
    with staged(out) as stage:
        shown = draw(pipe, list(recordings(manifest, test, chosen.clip_seconds)), stage, seed, made)
        save_gallery(shown, stage / "gallery.png", made)
        stage1_report.save(table, stage, "table")
    print(summary(table))
    print(f"{out / 'gallery.png'}, {out / 'table.md'}: {time.perf_counter() - began:.0f} s")
    return out / "gallery.png"


def recordings(manifest: Manifest, test: Pairs, clip_seconds: float) -> Iterator[Heard]:
    """The first women and men of the test split, in turn, then the recording of other origin."""
    import torch

    from v2f_core.speech.audio import read_clips

    of_sex = {sex: [name for name, s in zip(test.persons, test.sexes, strict=True) if s == sex] for sex in "fm"}
    turns = zip(of_sex["f"], of_sex["m"], strict=False)
    for name in [name for pair in turns for name in pair][: 2 * EACH_SEX]:
        heard, seen = (rows[rows.person == name] for rows in (manifest.voices("test"), manifest.faces("test")))
        windows = torch.cat([read_clips(path, clip_seconds) for path in manifest.absolute(heard)])
        sex = "woman" if heard.sex.iloc[0] == "f" else "man"
        yield Heard(name, f"{name}\ntest {sex}", windows, manifest.absolute(seen)[0])
    yield Heard("other_voice", "another\nsynthesiser", read_clips(OTHER_VOICE, clip_seconds))


def draw(
    pipe: Vox2FacePipeline, heard: list[Heard], folder: Path, seed: int, made: dict[str, Any]
) -> list[tuple[Heard, list[Any]]]:
    """Draw the faces of each recording and write them as labelled PNGs."""
    import torch
    from tqdm import tqdm

    shown = []
    for voice in tqdm(heard, desc="faces", unit="voice", file=sys.stderr):
        seeds = range(seed, seed + FACES)
        generators = [torch.Generator().manual_seed(s) for s in seeds]
        images = pipe(voice.windows, num_images=FACES, generator=generators).images
        for s, image in zip(seeds, images, strict=True):
            image.save(folder / f"{voice.name}_{s}.png", pnginfo=png_text({**made, "seed": s}))
        shown.append((voice, images))
    return shown


def save_gallery(shown: list[tuple[Heard, list[Any]]], path: Path, made: dict[str, Any]) -> None:
    """One line a recording: voice → true face | generated faces."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from v2f_core.show.plots import GalleryRow, gallery
    from v2f_core.training.embeddings import read_image

    rows = [
        GalleryRow(
            voice.label,
            voice.windows[::2].flatten().numpy(),
            [np.asarray(image) for image in images],
            None if voice.photo is None else read_image(voice.photo),
        )
        for voice, images in shown
    ]
    figure = gallery(rows, "Faces drawn from voices: no likeness of any person")
    figure.savefig(path, metadata=png_fields(made))
    plt.close(figure)


def summary(table: pd.DataFrame) -> str:
    """What the table says, in a few lines.

    Example:
        >>> import pandas as pd
        >>> row = {"gallery": "all", "system": "full", "gallery size": 200}
        >>> row |= {"R@10": 0.5, "R@10 low": 0.4, "R@10 high": 0.6}
        >>> print(summary(pd.DataFrame([row])))
        all, gallery of 200:
          full                 R@10 0.500 [0.400, 0.600]
    """
    lines = []
    measures = [c for c in ("cosine", "R@10", "1:2 matching", "skill, cosine", "skill, R@10") if c in table.columns]
    for (gallery, size), part in table.groupby(["gallery", "gallery size"], sort=False):
        lines.append(f"{gallery}, gallery of {size}:")
        for _, row in part.iterrows():
            cells = []
            for measure in measures:
                value, low, high = (row.get(f"{measure}{end}", np.nan) for end in ("", " low", " high"))
                if not np.isnan(value):
                    cells.append(f"{measure} {value:.3f}" + ("" if np.isnan(low) else f" [{low:.3f}, {high:.3f}]"))
            lines.append(f"  {row['system']:22} " + "  ".join(cells))
    return "\n".join(lines)
