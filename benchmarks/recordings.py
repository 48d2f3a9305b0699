"""How little speech, and how much noise, still tells of a voice? That decides when people are warned.

    python benchmarks/recordings.py              # writes benchmarks/results/recordings.csv; 4 minutes of one core

Everyone of MiniVox's validation split speaks for about 6.5 s (three recordings, one after the other). That is made
worse in one way at a time: cut to a shorter stretch of a drawn place; put into noise, white or pink, whose level in the
telephone band lies a known ratio below that of the speech frames; put between stretches of faint background or parted
by one, which are heard too or trimmed. Then ẑ is compared with the ẑ of the whole clean recording, and with the face.
The first two rows are the ends of the scale: the whole recording, and that of another person of the same sex.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from tqdm import tqdm

from v2f_core.artefacts.files import atomic_write
from v2f_core.artefacts.profiles import load_profile
from v2f_core.data.voxceleb import open_dataset
from v2f_core.evaluation.metrics import bootstrap
from v2f_core.pipeline import Vox2FacePipeline
from v2f_core.speech.activity import SAMPLE_RATE, levels, measure
from v2f_core.speech.audio import clips, hear, read_audio
from v2f_core.training.embeddings import embed_dataset
from v2f_core.training.pairs import pair_up

SECONDS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0)
RATIOS = (40.0, 30.0, 20.0, 15.0, 10.0, 5.0, 0.0)
PAUSES, FAINT = (1.0, 3.0), 10 ** (-60 / 20)  # s before and as much after; amplitude of their background
DRAWS = 3
RANGE = 30.0  # dB below the loudest 0.3 s, in which clean speech lies
Wave = Float32[Tensor, " samples"]
Change = Callable[[Wave, torch.Generator], Float32[Tensor, "windows samples"]]


def shorter(seconds: float) -> Change:
    """A stretch of a drawn place."""

    def change(wave: Wave, generator: torch.Generator) -> Tensor:
        length = round(seconds * SAMPLE_RATE)
        start = int(torch.randint(max(1, len(wave) - length), (), generator=generator))
        return clips(wave[start : start + length])

    return change


def noisy(ratio: float, colour: float) -> Change:
    """Noise of power ∝ 1/f^colour, ``ratio`` dB below the speech frames' level in the telephone band."""

    def change(wave: Wave, generator: torch.Generator) -> Tensor:
        return clips(in_noise(wave, ratio, colour, generator))

    return change


def in_noise(wave: Wave, ratio: float, colour: float, generator: torch.Generator) -> Wave:
    """A sum beyond full scale is turned down as a whole, as a level control would."""
    spectrum = torch.fft.rfft(torch.randn(len(wave), generator=generator))
    noise = torch.fft.irfft(spectrum * torch.arange(len(spectrum)).clamp(min=1) ** (-colour / 2), len(wave))
    clean, own = levels(wave.numpy()), levels((noise / noise.std()).numpy())
    spoken = clean[clean > np.sort(clean)[-10] - RANGE]
    wanted = 10 * np.log10((10 ** (spoken / 10)).mean() / (10 ** (own / 10)).mean()) - ratio
    sum_ = wave + noise / noise.std() * float(10 ** (wanted / 20))
    return sum_ / sum_.abs().max().clamp(min=1)


def paused(seconds: float, inside: bool, trim: bool) -> Change:
    """Faint background before and after, or in the middle."""

    def change(wave: Wave, generator: torch.Generator) -> Tensor:
        pause = FAINT * torch.randn(2, round(seconds * SAMPLE_RATE), generator=generator)
        half = len(wave) // 2
        whole = torch.cat([wave[:half], *pause, wave[half:]] if inside else [pause[0], wave, pause[1]])
        return hear(whole)[0] if trim else clips(whole)

    return change


def changes() -> Iterator[tuple[dict[str, object], Change]]:
    """Every condition with its name."""
    for seconds in SECONDS:
        yield {"condition": "cut", "seconds": seconds}, shorter(seconds)
    for name, colour in {"white noise": 0.0, "pink noise": 1.0}.items():
        for ratio in RATIOS:
            yield {"condition": name, "dB": ratio}, noisy(ratio, colour)
    for inside in (False, True):
        for seconds in PAUSES:
            for trim in (False, True):
                name = ("pauses", "a pause inside")[inside] + ", trimmed" * trim
                yield {"condition": name, "seconds": seconds}, paused(seconds, inside, trim)


def found(waves: list[Wave], condition: dict[str, object]) -> dict[str, float]:
    """What the module says of those noisy recordings: its ratio, and how much speech it finds."""
    generator = torch.Generator().manual_seed(0)
    ratio, colour = float(str(condition["dB"])), float(condition["condition"] == "pink noise")
    heard = [measure(in_noise(wave, ratio, colour, generator).numpy()) for wave in waves]
    told = np.array([activity.snr for activity in heard if activity.speech])
    share = np.mean([activity.speech / activity.seconds for activity in heard])
    return {
        "dB found": float(told.mean()) if len(told) else float("nan"),
        "dB found, sd": float(told.std()) if len(told) else float("nan"),
        "share found as speech": float(share),
    }


def compare(identity: Float[Tensor, "draws n 512"], whole: Tensor, face: Tensor, sexes: np.ndarray) -> dict[str, float]:
    """Against the whole recordings' ẑ and the faces; persons are resampled, draws averaged first."""
    again, likeness = ((identity * other).sum(-1).mean(0).numpy() for other in (whole, face))
    own = ((identity @ whole.T).argmax(-1) == torch.arange(len(whole))).float().mean(0).numpy()
    row = {"cosine to the whole": float(again.mean()), "nearest of all to the whole": float(own.mean())}
    told = bootstrap(likeness, groups=sexes)
    return row | {"cosine to the face": told.value, "cosine low": told.low, "cosine high": told.high}


def main() -> None:
    """Hear, compare, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    chosen = parser.parse_args()
    profile = load_profile("mini")
    manifest, pipe = open_dataset(profile), Vox2FacePipeline.from_profile(profile, stage=1)
    pairs = pair_up(manifest, *embed_dataset(profile, manifest), "val")
    rows = manifest.voices("val")
    waves = [torch.cat([read_audio(p) for p in manifest.absolute(rows[rows.person == n])]) for n in pairs.persons]
    face, sexes = pairs.gallery(), np.array(pairs.sexes)

    def identities(change: Change, draws: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.stack(
            [torch.stack([pipe.identify(change(wave, generator))[0] for wave in waves]) for _ in range(draws)]
        )

    whole = identities(lambda wave, _: clips(wave), 1)
    others = [np.roll(np.flatnonzero(sexes == sex), shift) for shift in (1, 2, 3) for sex in ("f", "m")]
    order = np.concatenate([np.flatnonzero(sexes == sex) for sex in ("f", "m")])
    another = torch.empty(3, *whole.shape[1:])
    for i in range(3):
        another[i, order] = whole[0, np.concatenate(others[2 * i : 2 * i + 2])]
    mean = float(np.mean([len(wave) for wave in waves]) / SAMPLE_RATE)
    table = [
        {"condition": "whole", "seconds": round(mean, 2)} | compare(whole, whole[0], face, sexes),
        {"condition": "another of the same sex"} | compare(another, whole[0], face, sexes),
    ]
    for condition, change in tqdm(list(changes()), desc="conditions"):
        row = condition | compare(
            identities(change, DRAWS if condition["condition"] == "cut" else 1), whole[0], face, sexes
        )
        table.append(row | (found(waves, condition) if "dB" in condition else {}))
    frame = pd.DataFrame(table)
    frame.insert(2, "dB", frame.pop("dB"))
    with atomic_write(chosen.out / "recordings.csv") as part:
        frame.to_csv(part, index=False, float_format="%.4f")
    print(frame.round(3).to_string())


if __name__ == "__main__":
    main()
