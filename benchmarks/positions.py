"""An AST hears a clip shorter than it was trained on: pad the clip, or shorten the position embeddings, and how?

    python benchmarks/positions.py               # writes benchmarks/results/positions.csv; two minutes of one core

Three ways: "pad" gives the clip the trained length, in silence; "cut" keeps the first positions, so that a frame has
the one it had; "interpolate" squeezes all of them into the clip. Accuracy: the miniature was trained on 128 frames
(1.28 s), so clips of a half and of a quarter of that stand in for the 1.25 s of the published model's 10.24 s; one clip
from the middle of two recordings of each test person of MiniVox, equal error rate over all pairs of persons. Speed: in
processor time on one thread, of the miniature and of an AST of the published size with random weights, which says
nothing of its accuracy.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from v2f_core.artefacts.files import atomic_write
from v2f_core.artefacts.profiles import load_profile
from v2f_core.data.voxceleb import open_dataset
from v2f_core.evaluation.metrics import Interval, equal_error_rate
from v2f_core.identity.sphere import normalise
from v2f_core.speech.audio import clips, read_audio
from v2f_core.speech.encoders import ASTEncoder

LENGTHS = {128: 1.25, 64: 0.625, 32: 0.3125}  # frames, and the seconds of a clip that fill them but for the last five
WAYS = ("pad", "cut", "interpolate")
BUDGET = 5.0  # seconds of processor time that a speed is measured over


def clip_pairs(seconds: float) -> Float[Tensor, "two persons samples"]:
    """The middle clip of two recordings of each test person."""
    manifest = open_dataset(load_profile("mini"))
    voices = manifest.voices("test").groupby("person").path
    chosen = [paths.iloc[:2].tolist() for _, paths in voices]
    heard = [[clips(read_audio(manifest.root / path), seconds) for path in two] for two in chosen]
    return torch.stack([torch.stack([windows[len(windows) // 2] for windows in two]) for two in heard], dim=1)


def squeezed(folder: Path, frames: int) -> ASTEncoder:
    """The AST with all of its positions squeezed into fewer frames, in place of those that are cut off."""
    whole, encoder = ASTEncoder.from_folder(folder), ASTEncoder.from_folder(folder, frames)
    table, short = (net.model.embeddings.position_embeddings for net in (whole, encoder))
    rows, columns = whole.model.embeddings.get_shape(whole.model.config)
    kept = (short.shape[1] - 2) // rows
    grid = table[:, 2:].unflatten(1, (rows, columns)).movedim(3, 1)  # without [CLS]'s and the distillation token's
    grid = torch.nn.functional.interpolate(grid, (rows, kept), mode="bilinear").movedim(1, 3)
    short.data[:, 2:] = grid.flatten(1, 2)
    return encoder


def speed(encoder: ASTEncoder, waves: Float[Tensor, "batch samples"], budget: float) -> float:
    """Clips that one thread embeds in a second."""
    encoder.embed(waves)  # the first call is slower
    count, start = 0, time.process_time()
    while count == 0 or time.process_time() - start < budget:
        encoder.embed(waves)
        count += len(waves)
    return count / (time.process_time() - start)


def over_persons(scores: Float[np.ndarray, "n n"], resamples: int = 1000) -> Interval:
    """The equal error rate over all pairs of first (rows) and second clips (columns), with an interval over *persons*.

    n persons make n² pairs, which are no n² independent trials: persons are resampled, with all their pairs. A person
    who is drawn twice makes no pair of two persons with themselves.
    """

    def rate(rows: np.ndarray) -> float:
        return equal_error_rate(scores[rows, rows], scores[np.ix_(rows, rows)][rows[:, None] != rows])

    n, generator = len(scores), np.random.default_rng(0)
    draws = (generator.integers(0, n, n) for _ in range(resamples))
    low, high = np.quantile([rate(rows) for rows in draws if np.ptp(rows)], [0.025, 0.975])
    return Interval(rate(np.arange(n)), float(low), float(high))


def of_the_miniature(budget: float) -> list[dict[str, Any]]:
    """Error rates and speeds of every way and length."""
    folder, rows = load_profile("mini").part("ast"), []
    for frames, seconds in tqdm(LENGTHS.items(), desc="lengths"):
        first, second = clip_pairs(seconds)
        for way in WAYS if frames < max(LENGTHS) else WAYS[:1]:
            cut = None if way == "pad" else frames
            encoder = squeezed(folder, frames) if way == "interpolate" else ASTEncoder.from_folder(folder, cut)
            scores = normalise(encoder.embed(first)) @ normalise(encoder.embed(second)).T
            found = over_persons(scores.double().numpy())
            rows.append(
                {"model": "miniature", "seconds": seconds, "way": way, "frames": encoder.frames}
                | {"equal error rate": found.value, "low": found.low, "high": found.high}
                | {"clips/s": speed(encoder, first[:16], budget)}
            )
    return rows


def of_the_published_size(budget: float, **smaller: int) -> list[dict[str, Any]]:
    """Speeds of an AST with random weights; cut or interpolated, positions cost the same."""
    from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

    model = ASTModel(ASTConfig(**smaller))
    rows = []
    for way, frames in (("pad", None), ("cut or interpolate", 128)):  # shortened last: positions are not put back
        encoder = ASTEncoder(model, ASTFeatureExtractor(), frames)
        waves = 0.1 * torch.randn(8 if frames else 1, 20_000, generator=torch.Generator().manual_seed(0))
        measured = {"frames": encoder.frames, "clips/s": speed(encoder, waves, budget)}
        rows.append({"model": "AST-base, random", "seconds": 1.25, "way": way, **measured})
    return rows


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    table = pd.DataFrame(of_the_miniature(BUDGET) + of_the_published_size(BUDGET))
    with atomic_write(chosen.out / "positions.csv") as part:
        table.to_csv(part, index=False, float_format="%.4g")
    print(table.round(4).to_string(index=False, na_rep=""))


if __name__ == "__main__":
    main()
