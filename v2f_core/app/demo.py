"""``make demo``: voices → faces on the built-in data, a gallery and a table.

The gallery shows the first women and men of the test split by name, and a recording by another synthesiser. Neither
the weights of the mini profile nor those of any miniature were trained on their faces.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm
from transformers.utils import logging

from v2f_core.app.evaluate import stage1_table
from v2f_core.app.generate import draw_faces, provenance, save_gallery, waveform
from v2f_core.artefacts.files import check_writable, png_text, safe_name, staged
from v2f_core.artefacts.profiles import MINI_ASSETS, Profile, load_profile
from v2f_core.data.manifest import Manifest
from v2f_core.data.voxceleb import open_dataset
from v2f_core.evaluation import tables
from v2f_core.identity.photos import read_image
from v2f_core.pipeline import Vox2FacePipeline
from v2f_core.show.plots import GalleryRow
from v2f_core.speech.audio import read_clips
from v2f_core.training.embeddings import embed_dataset
from v2f_core.training.pairs import Pairs, pair_up

OTHER_VOICE = MINI_ASSETS.parent / "other_voice.ogg"
EACH_SEX, FACES = 3, 4


@dataclass(frozen=True)
class Speaker:
    """One line of the gallery: a speaker, the windows of their recordings, and their photo if there is one."""

    name: str
    label: str
    windows: torch.Tensor
    photo: Path | None = None


def demo(out: str | Path = "outputs/demo", profile: str | Profile | None = None, seed: int = 0) -> Path:
    """Write ``gallery.png``, ``table.csv``, ``table.md`` and every generated face into a folder.

    Args:
        out: folder; created if missing.
        profile: name of a profile, or a profile.
        seed: of the first face of each voice.
    Returns:
        the gallery's path.
    Raises:
        InputError: the profile, its parts, its dataset or the folder cannot be used.
    """
    logging.disable_progress_bar()  # of loading weights
    settings, out = profile if isinstance(profile, Profile) else load_profile(profile), Path(out)
    check_writable(out)
    began = time.perf_counter()
    manifest = open_dataset(settings)
    pipe = Vox2FacePipeline.from_profile(settings)
    voices, faces = embed_dataset(settings, manifest)
    training, test = (pair_up(manifest, voices, faces, split) for split in ("train", "test"))
    table = stage1_table(pipe.aligner, training, test)
    with staged(out) as stage:
        draw(pipe, list(speakers(manifest, test, settings.clip_seconds)), stage, seed, provenance(settings))
        tables.save_identity_table(table, stage, "table")
    print(summary(table))
    print(f"{out / 'gallery.png'}, {out / 'table.md'}: {time.perf_counter() - began:.0f} s")
    return out / "gallery.png"


def speakers(manifest: Manifest, test: Pairs, clip_seconds: float) -> Iterator[Speaker]:
    """The first women and men of the test split in turn, then the recording by another synthesiser."""
    of_sex = {sex: [name for name, s in zip(test.persons, test.sexes, strict=True) if s == sex] for sex in "fm"}
    turns = zip(of_sex["f"], of_sex["m"], strict=False)
    for name in [name for pair in turns for name in pair][: 2 * EACH_SEX]:
        voices, faces = (rows[rows.person == name] for rows in (manifest.voices("test"), manifest.faces("test")))
        windows = torch.cat([read_clips(path, clip_seconds) for path in manifest.absolute(voices)])
        sex = "woman" if voices.sex.iloc[0] == "f" else "man"
        yield Speaker(name, f"{name}\ntest {sex}", windows, manifest.absolute(faces)[0])
    yield Speaker("other_voice", "another\nsynthesiser", read_clips(OTHER_VOICE, clip_seconds))


def draw(pipe: Vox2FacePipeline, shown: list[Speaker], folder: Path, seed: int, fields: dict[str, Any]) -> None:
    """Draw the faces of each speaker, and write them as labelled PNGs and as a gallery."""
    rows = []
    for number, speaker in enumerate(tqdm(shown, desc="faces", unit="voice", file=sys.stderr)):
        seeds = range(seed + FACES * number, seed + FACES * (number + 1))  # other persons for other voices
        result, estimate = draw_faces(pipe, speaker.windows, seeds)
        for i, (s, image) in enumerate(zip(seeds, result.images, strict=True)):
            image.save(folder / f"{safe_name(speaker.name)}_{i}.png", pnginfo=png_text({**fields, "seed": s}))
        photo = None if speaker.photo is None else read_image(speaker.photo)
        pictures = [np.asarray(image) for image in (*([estimate] if estimate else []), *result.images)]
        captions = ["ẑ, the point estimate"] if estimate else []
        rows.append(GalleryRow(speaker.label, waveform(speaker.windows), pictures, photo, captions))
    save_gallery(rows, folder / "gallery.png", fields, "Faces drawn from voices: no likeness of any person")


def summary(table: pd.DataFrame) -> str:
    """The table in a few lines.

    Example:
        >>> row = {"gallery": "all", "system": "full", "gallery size": 200}
        >>> row |= {"R@10": 0.5, "R@10 low": 0.4, "R@10 high": 0.6}
        >>> print(summary(pd.DataFrame([row])))
        all, gallery of 200:
          full                 R@10 0.500 [0.400, 0.600]
    """
    lines = []
    for (name, size), part in table.groupby(["gallery", "gallery size"], sort=False):
        lines.append(f"{name}, gallery of {size}:")
        for row in part.to_dict("records"):
            cells = {m: tables.cell(row, m) for m in ("cosine", "R@10", "1:2 matching", "skill, cosine", "skill, R@10")}
            shown = "  ".join(f"{measure} {text}" for measure, text in cells.items() if text)
            lines.append(f"  {row['system']:22} {shown}")
    return "\n".join(lines)
