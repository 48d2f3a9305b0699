"""Stage `minivox`: portraits, recordings and tables of MiniVox v1, in the layout of HQ-VoxCeleb and VoxCeleb.

Needs the stage `base_speech`. One file a view or clip, each written whole; what exists is not made again.
"""

from __future__ import annotations

import io
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from minivox import world
from minivox.build.portrait.looks import View, look_of
from minivox.build.portrait.render import render
from minivox.build.voice.speaker import load_timbres, voice_of
from v2f_core.artefacts.files import atomic_write

SPLITS, FEW = {"train": 800, "val": 100, "test": 200}, {"train": 8, "val": 2, "test": 2}  # a tiny build has few
CODES = {"Mini": "id9", "More": "id8", "Study": "id7"}  # audio ids' beginnings
VIEWS, CLIPS, FEW_CLIPS = 3, 3, 1
WEBP_QUALITY, OPUS_COMPRESSION = 85, 0.97
WORKERS = 2


def names(person: world.Person) -> tuple[str, str]:
    """A person's face folder and audio id, as HQ-VoxCeleb and VoxCeleb have them.

    Example:
        >>> names(world.person("minivox", 7, world.MALE))
        ('Mini_0007', 'id90007')
    """
    name = next(name for name, pool in world.NAMES.items() if pool == person.pool)
    return f"{name}_{person.index:04d}", f"{CODES[name]}{person.index:04d}"


def draw_faces(root: Path, person: world.Person) -> dict[str, float | str]:
    """Write a person's views as WebP; give the face's true factors."""
    look = look_of(person)
    folder = root / "vox1" / "origin_faces" / names(person)[0]
    for view in range(VIEWS):
        path = folder / f"{view}.webp"
        if not path.exists():
            image = render(look, View.sample(np.random.default_rng([person.face_seed, view])))
            data = io.BytesIO()
            Image.fromarray(image).save(data, "WEBP", quality=WEBP_QUALITY, method=6)
            with atomic_write(path) as temporary:
                temporary.write_bytes(data.getvalue())
    return look.factors()


def record_voices(root: Path, timbres: Path, person: world.Person, clips: int = CLIPS) -> dict[str, float | str]:
    """Write a person's clips as Opus in OGG; give the voice's true factors."""
    import soundfile

    voice = voice_of(person, load_timbres(timbres))
    folder = root / "vox1" / "wav" / names(person)[1] / "v000"
    sentences = np.random.default_rng([person.voice_seed, 0]).permutation(voice.sentences)[:clips]
    for clip, sentence in enumerate(sentences):
        path = folder / f"{clip + 1:05d}.ogg"
        if not path.exists():
            wave = voice.say(int(sentence), np.random.default_rng([person.voice_seed, 1 + clip]))
            with atomic_write(path) as temporary:
                settings = {"format": "OGG", "subtype": "OPUS", "compression_level": OPUS_COMPRESSION}
                soundfile.write(temporary, wave, 16_000, **settings)
    return voice.factors()


def tables(root: Path, people: list[world.Person], faces: list[dict], voices: list[dict], splits: list[str]) -> None:
    """factors.csv (every person's true factors), split.csv and vox1_meta.csv."""
    rows = []
    for p, face, voice, split in zip(people, faces, voices, splits, strict=True):
        name, code = names(p)
        row = {"name": name, "person": code, "split": split, "sex": p.sex, "age": p.age}
        row |= {k: getattr(p, k) for k in world.SHARED}
        row |= {f"face_{k}": v for k, v in (p.face._asdict() | face).items()}
        row |= {f"voice_{k}": v for k, v in (p.voice._asdict() | voice).items()}
        rows.append(row)
    frame = pd.DataFrame(rows)
    frame.to_csv(root / "factors.csv", index=False, float_format="%.4f", lineterminator="\n")
    frame[["name", "split"]].to_csv(root / "split.csv", index=False, lineterminator="\n")
    meta = frame.assign(Nationality="none", Set=np.where(frame.split == "test", "test", "dev"))
    meta = meta.rename(columns={"person": "VoxCeleb1 ID", "name": "VGGFace1 ID", "sex": "Gender"})
    columns = ["VoxCeleb1 ID", "VGGFace1 ID", "Gender", "Nationality", "Set"]
    meta[columns].to_csv(root / "vox1_meta.csv", sep="\t", index=False, lineterminator="\n")


def make(root: Path, timbres: Path, people: list[world.Person], splits: list[str], clips: int = CLIPS) -> None:
    """Write a dataset of persons, each in the split of the same place."""
    with ProcessPoolExecutor(WORKERS) as pool:
        draw = pool.map(partial(draw_faces, root), people, chunksize=4)
        faces = list(tqdm(draw, total=len(people), desc="portraits", unit="person"))
        record = pool.map(partial(record_voices, root, timbres, clips=clips), people, chunksize=4)
        voices = list(tqdm(record, total=len(people), desc="recordings", unit="person"))
    tables(root, people, faces, voices, splits)


def run(work: Path, tiny: bool = False) -> None:
    """Write work/minivox/, everything that `pack` packs."""
    splits = [name for name, n in (FEW if tiny else SPLITS).items() for _ in range(n)]
    people, clips = world.population("minivox", len(splits)), FEW_CLIPS if tiny else CLIPS
    make(work / "minivox", work / "base_speech" / "minivox", people, splits, clips)
