"""``make demo``: voices → faces on the built-in data, a gallery and a table.

The gallery shows the first women and men of the test split by name, a recording by another synthesiser, and one of a
real person, of whom no true face exists here. Neither the weights of the mini profile nor those of any miniature were
trained on their faces.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from v2f_core.app.evaluate import stage1_table
from v2f_core.app.generate import draw_faces, line, provenance, save_gallery
from v2f_core.artefacts.files import check_writable, png_text, safe_name, staged
from v2f_core.artefacts.profiles import MINI_ASSETS, Profile
from v2f_core.data.manifest import Manifest
from v2f_core.data.voxceleb import open_dataset
from v2f_core.evaluation import tables
from v2f_core.identity.photos import read_image
from v2f_core.pipeline import Vox2FacePipeline, hear
from v2f_core.speech.audio import read_clips
from v2f_core.training.embeddings import embed_dataset
from v2f_core.training.pairs import Pairs, pair_up

OTHER_VOICE, REAL_VOICE = MINI_ASSETS.parent / "other_voice.ogg", MINI_ASSETS.parent / "real_voice.ogg"
EACH_SEX, FACES = 3, 4
SHOWN = (tables.COSINE, "R@10", tables.MATCHING, "skill, cosine", "skill, R@10")


class Speaker(NamedTuple):
    """A line of the gallery; speakers outside the dataset are heard by the encoder for people's own recordings."""

    name: str
    label: str
    windows: torch.Tensor
    photo: Path | None = None
    of_dataset: bool = True


def demo(out: Path, settings: Profile) -> None:
    """Write ``gallery.png``, ``table.csv``, ``table.md`` and every generated face into a folder."""
    settings.must_draw()
    check_writable(out)
    began = time.perf_counter()
    manifest = open_dataset(settings)
    pipe = Vox2FacePipeline.from_profile(settings)
    own_settings = settings.with_encoder(settings.own_voices)
    own = pipe if own_settings is settings else Vox2FacePipeline.from_profile(own_settings)
    # the table needs no voice of the training persons, whose faces its baselines are
    needed = (manifest.voices("test"), manifest.faces("test"), manifest.faces("train"))
    voices, faces = embed_dataset(settings, manifest, wanted={path for rows in needed for path in rows.path})
    training, test = pair_up(manifest, None, faces, "train"), pair_up(manifest, voices, faces, "test")
    table = stage1_table(pipe.aligner, training, test, posterior=pipe.posterior)
    heard_by = {True: (pipe, provenance(settings)), False: (own, provenance(own_settings))}
    with staged(out) as stage:
        draw(heard_by, list(speakers(manifest, test, settings.clip_seconds)), stage)
        tables.save_identity_table(table, stage, "table")
    for (where, size), part in table.groupby(["gallery", "gallery size"], sort=False):
        print(f"\nGallery: {where} ({size} faces)\n{tables.plain(part, SHOWN)}")
    print(f"{out / 'gallery.png'}, {out / 'table.md'}: {time.perf_counter() - began:.0f} s")


def speakers(manifest: Manifest, test: Pairs, clip_seconds: float) -> Iterator[Speaker]:
    """The first women and men of the test split in turn, then another synthesiser's recording and a real person's."""
    of_sex = {sex: [name for name, s in zip(test.persons, test.sexes, strict=True) if s == sex] for sex in "fm"}
    turns = zip(of_sex["f"], of_sex["m"], strict=False)
    for name in [name for pair in turns for name in pair][: 2 * EACH_SEX]:
        voices, faces = (rows[rows.person == name] for rows in (manifest.voices("test"), manifest.faces("test")))
        windows = torch.cat([read_clips(path, clip_seconds) for path in manifest.absolute(voices)])
        sex = "woman" if voices.sex.iloc[0] == "f" else "man"
        yield Speaker(name, f"{name}\ntest {sex}", windows, manifest.absolute(faces)[0])
    for path, label in ((OTHER_VOICE, "another\nsynthesiser"), (REAL_VOICE, "a real voice,\nno true face")):
        yield Speaker(path.stem, label, hear(path, clip_seconds)[0], of_dataset=False)


def draw(heard_by: Mapping[bool, tuple[Vox2FacePipeline, dict[str, Any]]], shown: list[Speaker], folder: Path) -> None:
    """Draw the faces of each speaker, and write them as labelled PNGs and as a gallery.

    ``heard_by`` has the pipeline and its provenance for the dataset's speakers (True) and for others (False).
    """
    rows = []
    for number, speaker in enumerate(tqdm(shown, desc="faces", unit="voice", file=sys.stderr)):
        seeds = range(FACES * number, FACES * (number + 1))  # other persons for other voices
        pipe, fields = heard_by[speaker.of_dataset]
        result, estimate = draw_faces(pipe, speaker.windows, seeds)
        for i, (s, image) in enumerate(zip(seeds, result.images, strict=True)):
            image.save(folder / f"{safe_name(speaker.name)}_{i}.png", pnginfo=png_text({**fields, "seed": s}))
        photo = None if speaker.photo is None else read_image(speaker.photo)
        rows.append(line(speaker.label, speaker.windows, result, estimate, photo))
    made = {"dataset": heard_by[True][1], "others": heard_by[False][1]}
    save_gallery(rows, folder / "gallery.png", made, "Faces drawn from voices: no likeness of any person")
