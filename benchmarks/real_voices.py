"""How well are real people heard? Each speech encoder on 24 clips of 12 speakers, and on MiniVox's persons.

    python benchmarks/real_voices.py     # writes real_voices.csv and real_voices_minivox.csv; 5 minutes of one core

Real clips (tests/data/real_voices) go the way that a visitor's recording goes: file, speech, windows, v_spk, ẑ. Two
things are asked. Is ẑ a woman's or a man's, as the corpus states the speaker's sex: is it nearer to the mean face of
MiniVox's training women or men? And is ẑ the same when the recording is changed in a way that should not matter?
Nothing else is known of the speakers, and nothing else is read from ẑ. Intervals of cosines are BCa over speakers,
those of shares of speakers Clopper and Pearson's; a speaker's two clips are no two witnesses.

Expected: GE2E, which was trained on real people, hears the sex of at least 95 % of the clips, and every changed
recording with a cosine of at least 0.9 (8 kHz: 0.7); AST and ECAPA, which have heard one synthesiser, do worse. On
MiniVox's persons, for whom AST was trained, GE2E is no better than AST.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
import soxr
import torch
from jaxtyping import Float, Float32
from scipy.signal import fftconvolve
from scipy.stats import binomtest

from minivox.build.rooms import impulse_response
from v2f_core.app.evaluate import stage1_table
from v2f_core.artefacts.files import atomic_write
from v2f_core.artefacts.profiles import ENCODERS, Profile, load_profile
from v2f_core.data.voxceleb import open_dataset
from v2f_core.evaluation import metrics
from v2f_core.pipeline import Vox2FacePipeline
from v2f_core.speech.audio import SAMPLE_RATE
from v2f_core.training.embeddings import embed_dataset
from v2f_core.training.pairs import Pairs, pair_up

CLIPS = Path(__file__).parents[1] / "tests" / "data" / "real_voices"
ROOM, TALKER, ABSORBED = np.array([4.0, 3.0, 2.5]), np.array([1.3, 1.1, 1.4]), 0.3  # m; a share of the power
MP3 = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT", "compression_level": 0.65}  # 64 kbit/s
Wave = Float[np.ndarray, " samples"]


def main() -> None:
    """Hear, compare, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("val", "test"), default="test", help="MiniVox's persons")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    chosen = parser.parse_args()
    real, made = [], []
    for encoder in ENCODERS:
        profile = load_profile("mini").with_encoder(encoder)
        pipe = Vox2FacePipeline.from_profile(profile, stage=1)
        training, persons = pairs_of(profile, "train"), pairs_of(profile, chosen.split)
        real += [{"encoder": encoder, **row} for row in real_rows(pipe, training)]
        made.append(minivox_table(pipe, training, persons).assign(encoder=encoder))
    for name, table in {"real_voices": pd.DataFrame(real), "real_voices_minivox": pd.concat(made)}.items():
        print(table.round(3).to_string(index=False))
        with atomic_write(chosen.out / f"{name}.csv") as part:
            table.to_csv(part, index=False, float_format="%.4g")


def pairs_of(profile: Profile, split: str) -> Pairs:
    """MiniVox's persons of a split, as the profile's encoder hears them."""
    manifest = open_dataset(profile)
    return pair_up(manifest, *embed_dataset(profile, manifest), split)


# --- real people


def real_rows(pipe: Vox2FacePipeline, training: Pairs) -> Iterator[dict[str, Any]]:
    """The sex of ẑ, and of draws from p(z | v); then the cosine of ẑ with that of the unchanged clip."""
    table = pd.read_csv(CLIPS / "voices.csv", dtype={"speaker": str})
    waves = [soundfile.read(CLIPS / file, dtype="float32")[0] for file in table.file]
    speakers, men = table.speaker.to_numpy(), (table.sex == "m").to_numpy()
    faces, sexes = training.centroids().numpy(), np.array(training.sexes)
    women_and_men = np.stack([faces[sexes == sex].mean(axis=0) for sex in "fm"])
    women_and_men /= np.linalg.norm(women_and_men, axis=1, keepdims=True)

    def is_man(identities: Float[np.ndarray, "*batch dim"]) -> np.ndarray:
        return (identities @ women_and_men.T).argmax(axis=-1) == 1

    clean = heard(pipe, waves, save)
    right = is_man(clean) == men
    yield {"measure": "sex of ẑ right, clips", "value": right.mean(), "n": len(right)}
    both = pd.Series(right).groupby(speakers).all()
    ends = binomtest(int(both.sum()), len(both)).proportion_ci()
    yield {"measure": "sex of ẑ right, both clips of a speaker", "value": both.mean(), "n": len(both)} | {
        "low": ends.low,
        "high": ends.high,
    }
    for name, change in CHANGES.items():
        changed = heard(pipe, waves, change)
        yield {"measure": f"sex of ẑ right, {name}", "value": (is_man(changed) == men).mean(), "n": len(men)}
        yield row(f"cosine with the clean clip, {name}", metrics.cosine(changed, clean), speakers)
    own, other = (clean[np.arange(len(clean)) % 2 == i] for i in (0, 1))  # voices.csv: two clips a speaker, in turn
    yield row("cosine of a speaker's two clips", metrics.cosine(own, other), speakers[::2])
    alike = np.concatenate([np.roll(np.flatnonzero(men[::2] == sex), 1) for sex in (False, True)])
    order = np.concatenate([np.flatnonzero(men[::2] == sex) for sex in (False, True)])
    yield row("cosine of two speakers of one sex", metrics.cosine(own[order], other[alike]), speakers[::2][order])


def heard(
    pipe: Vox2FacePipeline, waves: list[Wave], write: Callable[[Wave, Path], Path]
) -> Float32[np.ndarray, "clips dim"]:
    """ẑ of each clip, from a file."""
    with tempfile.TemporaryDirectory() as folder:
        files = (write(wave, Path(folder) / "clip") for wave in waves)
        found = [pipe.identify(file)[0] for file in files]
    return torch.stack(found).numpy()


def save(wave: Wave, path: Path, rate: int = SAMPLE_RATE, **settings: Any) -> Path:
    """A file of 32-bit floats, or as the settings say."""
    path = path.with_suffix(f".{settings.get('format', 'wav').lower()}")
    soundfile.write(path, wave, rate, **(settings or {"subtype": "FLOAT"}))
    return path


def resampled(rate: int) -> Callable[[Wave, Path], Path]:
    """The clip at another rate; at 8 kHz all above 4 kHz is lost."""
    return lambda wave, path: save(soxr.resample(wave, SAMPLE_RATE, rate), path, rate)


def louder(decibels: float) -> Callable[[Wave, Path], Path]:
    """The clip at another level; what is beyond full scale is cut off, as a recorder does."""
    return lambda wave, path: save(np.clip(wave * 10 ** (decibels / 20), -1, 1), path)


def in_a_room(metres: float) -> Callable[[Wave, Path], Path]:
    """The clip as a microphone hears it that far from the mouth in a small room."""
    response = small_room(metres)
    return lambda wave, path: save(fftconvolve(wave, response)[: len(wave)], path)


def small_room(metres: float) -> Float32[np.ndarray, " samples"]:
    """The response of a room of 4 x 3 x 2.5 m, with a microphone that far from the mouth, parallel to the floor.

    It reverberates for 0.27 s by Sabine's formula.
    """
    return impulse_response(ROOM, TALKER, TALKER + metres * np.array([0.8, 0.6, 0.0]), ABSORBED)


CHANGES: dict[str, Callable[[Wave, Path], Path]] = {
    "8 kHz": resampled(8_000),
    "48 kHz": resampled(48_000),
    "MP3 of 64 kbit/s": lambda wave, path: save(wave, path, **MP3),
    "+20 dB": louder(20),
    "-30 dB": louder(-30),
    "small room, 0.5 m": in_a_room(0.5),
    "small room, 1 m": in_a_room(1.0),
}


def row(measure: str, values: Float[np.ndarray, " n"], speakers: np.ndarray) -> dict[str, Any]:
    """The mean over clips, with an interval over speakers, who have two clips each."""
    by_speaker = pd.Series(values).groupby(speakers).mean().to_numpy()
    return {"measure": measure, **metrics.bootstrap(by_speaker)._asdict(), "n": len(values)}


# --- MiniVox's persons


def minivox_table(pipe: Vox2FacePipeline, training: Pairs, persons: Pairs) -> pd.DataFrame:
    """Stage I within sex, ranked by cosine and by likelihood ratio."""
    table = stage1_table(pipe.aligner, training, persons, posterior=pipe.posterior)
    table = table[(table.gallery == "within sex") & (table.system == "full")]
    shown = ("cosine", "R@10", "1:2 matching", "R@10 by ratio", "1:2 matching by ratio")
    ends = {"value": "", "low": " low", "high": " high"}
    rows = [{"measure": name} | {end: table[name + tail].item() for end, tail in ends.items()} for name in shown]
    return pd.DataFrame(rows).assign(n=len(persons.persons))


if __name__ == "__main__":
    main()
