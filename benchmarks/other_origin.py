"""Voices that nothing here was made from: does the generated face at least have the speaker's sex?

    python benchmarks/other_origin.py            # writes benchmarks/results/other_origin.csv

Two synthesizers that MiniVox's voices do not come from speak the same sentences:

- espeak-ng, a formant synthesizer, through the package espeakng-loader (extra [build]): ten voice variants, five women
  and five men, in three accents, 30 recordings;
- flite (Debian's package of that name), made of recordings of three men and a woman, 4 recordings; left out where the
  program is not installed.

The sex of a face is judged on ArcFace identities by a logistic regression fitted on MiniVox's training photos. Both the
predicted identity ẑ and the generated faces are judged.
"""

from __future__ import annotations

import argparse
import ctypes
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch
from tqdm import tqdm

from v2f_core.artefacts.files import atomic_write
from v2f_core.artefacts.profiles import load_profile
from v2f_core.data.voxceleb import open_dataset
from v2f_core.evaluation.metrics import bootstrap
from v2f_core.identity.faces import FacePack
from v2f_core.pipeline import Vox2FacePipeline
from v2f_core.training.embeddings import embed_dataset
from v2f_core.training.pairs import pair_up

TEXT = (
    "Good morning. The weather has been kind to us this week, and the harbour is full of small boats. "
    "I would like to tell you a little about them."
)
ESPEAK_VARIANTS = {**{f"f{i}": "f" for i in range(1, 6)}, **{f"m{i}": "m" for i in range(1, 6)}}
ESPEAK_ACCENTS = ("en-us", "en-gb-scotland", "en-029")
FLITE_VOICES = {"slt": "f", "rms": "m", "awb": "m", "kal16": "m"}
FACES = 2


def espeak(folder: Path) -> Iterator[tuple[Path, str]]:
    """Speak the text with every variant in every accent: file and sex."""
    import espeakng_loader

    library = ctypes.cdll.LoadLibrary(espeakng_loader.get_library_path())
    rate = library.espeak_Initialize(2, 0, str(espeakng_loader.get_data_path()).encode(), 0)  # 2: synchronous
    heard: list[np.ndarray] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def keep(samples: object, count: int, _: object) -> int:
        if samples and count > 0:
            heard.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    library.espeak_SetSynthCallback(keep)
    for accent in ESPEAK_ACCENTS:
        for variant, sex in ESPEAK_VARIANTS.items():
            heard.clear()
            if library.espeak_SetVoiceByName(f"{accent}+{variant}".encode()):
                continue  # this build of espeak-ng lacks the voice
            text = TEXT.encode()
            library.espeak_Synth(text, len(text) + 1, 0, 1, 0, 1, None, None)  # by characters, UTF-8
            library.espeak_Synchronize()
            path = folder / f"espeak_{accent}_{variant}.wav"
            soundfile.write(path, np.concatenate(heard), rate)
            yield path, sex


def flite(folder: Path) -> Iterator[tuple[Path, str]]:
    """Speak the text with flite's voices: file and sex."""
    if shutil.which("flite") is None:
        print("flite is not installed (Debian: apt install flite): left out", file=sys.stderr)
        return
    for voice, sex in FLITE_VOICES.items():
        path = folder / f"flite_{voice}.wav"
        subprocess.run(["flite", "-voice", voice, "-t", TEXT, "-o", str(path)], check=True)
        yield path, sex


def main() -> None:
    """Make the recordings, draw faces, judge them, print and write the shares."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--keep", type=Path, help="keep the recordings and faces in this folder")
    chosen = parser.parse_args()
    from sklearn.linear_model import LogisticRegression

    profile = load_profile()
    manifest = open_dataset(profile)
    training = pair_up(manifest, *embed_dataset(profile, manifest), "train")
    photos = training.face_start.diff().tolist()
    judge = LogisticRegression(max_iter=1000).fit(training.face.numpy(), np.repeat(training.sexes, photos))
    pack, pipe = FacePack.from_folder(profile.part("faces")), Vox2FacePipeline.from_profile(profile)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        voices = [*espeak(folder), *flite(folder)]
        for path, sex in tqdm(voices, desc="voices"):
            made = pipe(path, num_images=FACES, generator=[torch.Generator().manual_seed(i) for i in range(FACES)])
            identities, found = pack.embed([np.asarray(image) for image in made.images])
            seen = judge.predict(identities[found]) if found.any() else np.array([])
            row = {"recording": path.stem, "sex": sex, "identity": judge.predict(made.identity.numpy()[None])[0] == sex}
            rows.append({**row, "faces found": int(found.sum()), "faces": float((seen == sex).sum()) / FACES})
            if chosen.keep:
                for i, image in enumerate(made.images):
                    image.save(folder / f"{path.stem}_{i}.png")
    table = pd.DataFrame(rows)
    with atomic_write(chosen.out / "other_origin.csv") as part:
        table.to_csv(part, index=False)
    for column in ("identity", "faces"):
        print(f"{column} has the speaker's sex: {bootstrap(table[column].to_numpy(float))} of {len(table)} recordings")


if __name__ == "__main__":
    main()
