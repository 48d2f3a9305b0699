"""A check before any training: do MiniVox's voices determine faces about as well as real voices do?

python -m minivox.gate          # the world alone, half a minute
python -m minivox.gate --audio  # and a ridge regression from MiniVox's recordings
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from minivox import ceilings, world
from minivox.dataset import unpack
from v2f_core.speech.audio import read_audio


class Check(NamedTuple):
    """One figure of the gate and the range it must lie in."""

    name: str
    value: float
    error: float
    low: float
    high: float

    @property
    def passed(self) -> bool:
        """Whether the figure lies in its range."""
        return self.low <= self.value <= self.high

    def __str__(self) -> str:
        verdict = "ok  " if self.passed else "FAIL"
        wanted = f"wanted {self.low:.2f} to {self.high:.2f}"
        return f"{verdict} {self.name:40} {self.value:.3f} ± {self.error:.3f}   {wanted}"


def world_checks(persons: int = 1600, pool: str = "gate") -> Iterator[Check]:
    """Posterior-ranked matching and retrieval from the true noisy voice parameters.

    The ranges are those of voice-to-face matching on VoxCeleb (best published: 0.879 over all pairs, 0.789 when both
    faces have the same sex), with room on both sides.

    Example:
        >>> [check.passed for check in world_checks(persons=800)]
        [True, True, True]
    """
    people = world.population(pool, persons)
    scores = ceilings.log_likelihood(people, people)
    man = np.array([p.sex == world.MALE for p in people])
    yield Check("1:2 matching, all pairs", *ceilings.matching(scores), 0.85, 0.90)
    yield Check("1:2 matching, within sex", *ceilings.matching(scores, man[:, None] == man), 0.72, 0.80)
    recall = ceilings.recall(scores, man.astype(int), k=10, gallery=100)
    yield Check("R@10 of 100, within sex (chance 0.10)", *recall, 0.20, 1.0)


def audio_summary(wave: Float[np.ndarray, " samples"], rate: int = 16_000) -> Float[np.ndarray, " features"]:
    """Means and spreads of a clip's log-mel bands and their changes, and of its pitch: inputs of a simple regressor.

    Example:
        >>> audio_summary(np.random.default_rng(0).normal(size=16_000).astype(np.float32)).shape
        (164,)
    """
    import torch
    from torchaudio.functional import detect_pitch_frequency
    from torchaudio.transforms import MelSpectrogram

    signal = torch.from_numpy(wave)
    mel = MelSpectrogram(rate, n_fft=512, hop_length=160, f_min=60, n_mels=40)(signal)
    log = torch.log(mel + 1e-6).numpy()
    level = log.mean(0)
    loud = log[:, level > np.quantile(level, 0.3)]
    change = np.abs(np.diff(log, axis=1))
    f0 = np.log(detect_pitch_frequency(signal, rate, freq_low=60, freq_high=450).numpy())
    extra = [np.median(f0), np.subtract(*np.quantile(f0, [0.75, 0.25])), np.abs(np.diff(f0)).mean(), np.log(len(wave))]
    return np.concatenate([loud.mean(1), loud.std(1), change.mean(1), change.std(1), extra])


def audio_checks(root: Path) -> Iterator[Check]:
    """Cross-validated R² within sex of age and vocal-tract length, by ridge regression on `audio_summary`."""
    import pandas as pd
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from tqdm import tqdm

    table = pd.read_csv(root / "factors.csv")
    table = table[table.split == "train"]
    paths = [sorted((root / "vox1" / "wav" / person).rglob("*.ogg")) for person in table.person]
    features = np.stack([np.mean([audio_summary(read_audio(p).numpy()) for p in clips], 0) for clips in tqdm(paths)])
    for name, low in (("age", 0.30), ("voice_vtl", 0.50)):
        target = (table[name] - table.groupby("sex")[name].transform("mean")).to_numpy()
        model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 4, 9)))
        both = np.empty(len(target))
        for sex in (world.FEMALE, world.MALE):
            of = (table.sex == sex).to_numpy()
            both[of] = cross_val_predict(model, features[of], target[of], cv=5)
        r2 = 1 - ((target - both) ** 2).sum() / (target**2).sum()
        error = 2 * np.sqrt(r2 * (1 - r2) ** 2 / len(target))  # large-sample standard error of R²
        yield Check(f"{name} from audio, R² within sex", r2, error, low, 1.0)


def main() -> None:
    """Print every check; exit with 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", action="store_true", help="also read MiniVox's recordings")
    parser.add_argument("--root", type=Path, help="an unpacked MiniVox (default: the cache)")
    arguments = parser.parse_args()
    checks = list(world_checks())
    if arguments.audio:
        checks += audio_checks(arguments.root or unpack())
    print(*checks, sep="\n")
    sys.exit(0 if all(check.passed for check in checks) else 1)


if __name__ == "__main__":
    main()
