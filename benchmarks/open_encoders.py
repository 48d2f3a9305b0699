"""The open profile's encoders on real persons: does GE2E know a voice again, and YuNet with SFace a face?

    python benchmarks/open_encoders.py  # writes benchmarks/results/open_encoders.csv
    python benchmarks/open_encoders.py --photos FOLDER  # photographs of your own too: NAME_anything.jpg is of NAME

Voices: the 24 clips of tests/data/real_voices, 12 speakers with two clips each. Faces: two photographs in the public
domain, as scikit-image and Matplotlib ship them (E. Collins, G. Hopper), each as it is, mirrored, darker and turned by
15 degrees; these are not other photographs, so the first line of faces is an upper bound. An equal error rate of 12
same-speaker pairs moves in steps of 1/12; its interval resamples speakers.

Expected, written before the run: an equal error rate of 5 % at most; pictures of one photograph above all pairs of two
persons.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib import get_data_path
from PIL import Image
from skimage import data

from v2f_core.artefacts.profiles import load_profile
from v2f_core.evaluation import metrics
from v2f_core.identity.faces import FacePack
from v2f_core.speech.audio import read_clips
from v2f_core.speech.encoders import ONE_VOICE, load_encoder, oneness
from v2f_core.training.embeddings import read_image

RESULTS = Path("benchmarks/results/open_encoders.csv")
VOICES = Path("tests/data/real_voices")


def main() -> None:
    """Embed, compare, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of photographs, named by person")
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    profile = load_profile("open")
    encoder = load_encoder("ge2e", profile.part("ge2e"))
    clips = pd.read_csv(VOICES / "voices.csv", dtype=str)
    windows = [encoder.embed(read_clips(VOICES / file, profile.clip_seconds)) for file in clips.file]
    spoken = [part.mean(dim=0) for part in windows]
    noted = sum(oneness(part) < ONE_VOICE for part in windows)
    pairs = [(i, j) for i, j in combinations(range(len(clips)), 2) if clips.speaker[i] != clips.speaker[j]]
    joined = sum(oneness(torch.cat([windows[i], windows[j]])) < ONE_VOICE for i, j in pairs)
    print(
        f"noted as two voices: {noted} of {len(clips)} clips; {joined} of {len(pairs)} clips joined of two speakers\n"
    )
    rows = [compared("voices: clips of 12 speakers", np.stack(spoken), clips.speaker.to_numpy())]
    pack = FacePack.from_folder(profile.part("faces"))
    with Image.open(Path(get_data_path()) / "sample_data" / "grace_hopper.jpg") as image:
        originals = {"Collins": data.astronaut(), "Hopper": np.asarray(image.convert("RGB"))}
    pictures = [(name, picture) for name, original in originals.items() for picture in renditions(original)]
    rows.append(of_faces("faces: four renditions of two photographs", pack, pictures))
    if chosen.photos:
        paths = sorted(path for path in chosen.photos.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        given = [(path.stem.partition("_")[0], read_image(path)) for path in paths]
        rows.append(of_faces(f"faces: {len(given)} photographs of {chosen.photos.name}", pack, given))
    table = pd.DataFrame(rows)
    print(table.T.to_string(header=False, float_format="{:.3f}".format))
    table.to_csv(chosen.out, index=False, float_format="%.4g")


def renditions(photograph: np.ndarray) -> list[np.ndarray]:
    """The photograph, its mirror image, a darker one and a turned one."""
    turned = np.asarray(Image.fromarray(photograph).rotate(15, Image.Resampling.BILINEAR))
    return [photograph, photograph[:, ::-1].copy(), (photograph * 0.6).astype(np.uint8), turned]


def of_faces(what: str, pack: FacePack, pictures: list[tuple[str, np.ndarray]]) -> dict[str, object]:
    """The row of some pictures; all must show a face."""
    identities, found = pack.embed([picture for _, picture in pictures])
    names = np.array([name for name, _ in pictures])
    return compared(what, identities[found], names[found]) | {"without a face": int((~found).sum())}


def compared(what: str, embeddings: np.ndarray, owners: np.ndarray) -> dict[str, object]:
    """Cosines within and between persons, the equal error rate and its interval over persons."""
    z = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines, same = z @ z.T, owners[:, None] == owners
    pairs = np.triu(np.ones_like(same), 1)
    within, between = cosines[pairs & same], cosines[pairs & ~same]
    names = np.unique(owners)
    g, rates = np.random.default_rng(0), []
    for _ in range(1000):  # a person drawn twice has no pairs with itself as if they were two
        drawn = [np.flatnonzero(owners == name) for name in g.choice(names, len(names))]
        rows, which = np.concatenate(drawn), np.repeat(np.arange(len(drawn)), [len(part) for part in drawn])
        whose, alike = owners[rows], which[:, None] == which
        upper = np.triu(np.ones((len(rows), len(rows)), bool), 1)
        other = whose[:, None] != whose
        if (upper & other).any():
            of = cosines[np.ix_(rows, rows)]
            rates.append(metrics.equal_error_rate(of[upper & alike], of[upper & other]))
    return {
        "what": what,
        "persons": len(names),
        "pairs of one person": len(within),
        "pairs of two": len(between),
        "lowest of one": within.min(),
        "highest of two": between.max(),
        "mean of one": within.mean(),
        "mean of two": between.mean(),
        "equal error rate": metrics.equal_error_rate(within, between),
        "low": np.quantile(rates, 0.025),
        "high": np.quantile(rates, 0.975),
    }


if __name__ == "__main__":
    main()
