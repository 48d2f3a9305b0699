"""Hours and money for a dataset, from the rates that gpu.py measured on one GPU. Prices are yours to state.

    python benchmarks/costs.py benchmarks/results/gpu.csv --price 2.5  # HQ-VoxCeleb, on one GPU and on eight
    python benchmarks/costs.py benchmarks/results/gpu.csv --price 2.5 --clips 20000 --faces 3000 --stage2-steps 5000
    python benchmarks/costs.py --price 2.5                           # no rates: the paper's own hours instead

Each line is (how many) / (rate), see ``work``. Several GPUs share a line's work; ``--efficiency`` says how much of each
is then of use. The defaults are HQ-VoxCeleb's counts (data_cards/hq_voxceleb.md) and the paper's steps; a recording's
mean length is that of VoxCeleb's hours over its utterances (data_cards/voxceleb1.md, voxceleb2.md).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from v2f_core.errors import InputError
from v2f_core.speech.audio import CLIP_SECONDS
from v2f_core.training.stage2 import Stage2Settings

PAPER = {"Stage I": 8.4, "Stage II, 20,000 steps": 34.2}  # hours on one A800 with 80 GB
AST_WIDTH, LATENT = 768, 4 * 64 * 64 + 10  # numbers a window, and a photo: latents and five landmarks


@dataclass(frozen=True)
class Job:
    """What is to be done.

    Attributes:
        clips: recordings.
        seconds: mean length of one.
        faces: photos, of which latents are made.
        stage1_steps, stage2_steps: of the batches that were measured, 128 and 16.
        mode: Stage II's reading of L_self.
        drawn: faces generated for an evaluation, 25 steps with guidance each.
    """

    clips: int = 609_700
    seconds: float = 7.84
    faces: int = 8_028
    stage1_steps: int = 10_000
    stage2_steps: int = 20_000
    mode: str = "paper"
    drawn: int = 378

    @property
    def windows(self) -> float:
        """Windows of 1.25 s, each beginning where the one before is half over: what AST embeds.

        A recording of T s has 1 + ⌊(T − 1.25)/0.625⌋; over many lengths the rounding takes half a window on average.

        Example:
            >>> Job(clips=2, seconds=5.0).windows
            13.0
        """
        hop = CLIP_SECONDS / 2  # clips overlap by half
        return self.clips * max(1.0, (self.seconds - CLIP_SECONDS) / hop + 0.5)

    @property
    def gigabytes(self) -> dict[str, float]:
        """Size of the stores, in float32; Stage I holds the windows in memory."""
        return {"windows": 4e-9 * AST_WIDTH * self.windows, "latents": 4e-9 * LATENT * self.faces}


def work(job: Job) -> dict[str, tuple[float, str, str]]:
    """Each line of the bill: how many, and the row of gpu.csv that says how many a second (what, how)."""
    return {
        "voices: AST": (job.windows, "AST, clips of 1.25 s", "fp32"),
        "photos: ArcFace": (job.faces, "ArcFace, crops of 112 px", "fp32"),
        "photos: latents": (job.faces, "VAE, latents", "fp32"),
        "Stage I": (job.stage1_steps, "Stage I", "fp32"),
        "Stage II": (job.stage2_steps, "Stage II", f"bf16, {job.mode}"),
        "Stage II: looks": (1 + job.stage2_steps / Stage2Settings.evaluate_every, "Stage II, look", "fp32, paper"),
        "evaluation: faces": (job.drawn, "generation", "fp32, 25 steps, guidance 3"),
    }


def hours(job: Job, rates: pd.DataFrame) -> dict[str, float]:
    """Hours of one GPU for each line, and their sum.

    Raises:
        InputError: a rate is not in the table, or that line did not fit into the GPU's memory.
    """
    found = {}
    for line, (count, what, how) in work(job).items():
        row = rates[(rates.what == what) & (rates.how == how)]
        if row.empty or not row.rate.iloc[0] > 0:
            why = "" if row.empty else f": {row.note.iloc[0]}"
            raise InputError(
                f"no rate of {what} ({how}){why}; measure it with benchmarks/gpu.py, or choose another --mode"
            )
        found[line] = count / float(row.rate.iloc[0]) / 3600  # the first row of a mode is that of the paper's batch
    return found | {"all": sum(found.values())}


def bill(alone: dict[str, float], price: float, gpus: Sequence[int] = (1, 8), efficiency: float = 1.0) -> pd.DataFrame:
    """Hours and money of each line for several numbers of GPUs.

    Args:
        alone: hours of one GPU.
        price: of a GPU for an hour, in any currency.
        gpus: numbers of GPUs.
        efficiency: of each, where there are several: 1 shares the work without loss.

    Example:
        >>> bill({"all": 8.0}, price=2.5, gpus=(1, 4), efficiency=0.5)
             1 GPU: hours  money  4 GPUs: hours  money
        all           8.0   20.0            4.0   40.0
    """
    columns, data = [], []
    for number in gpus:
        columns += [f"{number} GPU{'s' if number > 1 else ''}: hours", "money"]
        took = pd.Series(alone) / (number * efficiency if number > 1 else 1.0)
        data += [took, took * number * price]
    table = pd.concat(data, axis=1)
    table.columns = columns
    return table


def main(arguments: list[str] | None = None) -> None:
    """Print the bill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rates", type=Path, nargs="?", help="gpu.csv; without it the paper's own hours")
    parser.add_argument("--price", type=float, required=True, help="of one GPU for an hour: yours to state")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--efficiency", type=float, default=1.0, help="of each of several GPUs, 0 to 1: an assumption")
    for name in ("clips", "faces", "stage1-steps", "stage2-steps", "drawn"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Job, name.replace("-", "_")))
    parser.add_argument("--seconds", type=float, default=Job.seconds, help="mean length of a recording")
    parser.add_argument("--mode", default=Job.mode)
    chosen = vars(parser.parse_args(arguments))
    path, shown = chosen.pop("rates"), {name: chosen.pop(name) for name in ("price", "gpus", "efficiency")}
    if shown["price"] < 0 or not 0 < shown["efficiency"] <= 1 or min(shown["gpus"]) < 1:
        raise InputError("expected a price of at least 0, an efficiency above 0 up to 1, and at least 1 GPU")
    job = Job(**chosen)
    if path is None:
        print("The paper's own hours on one A800; nothing here was measured by this program.")
        print(bill(PAPER | {"all": sum(PAPER.values())}, **shown).round(2).to_string())
        return
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; benchmarks/gpu.py measures it on a GPU, and without it the paper is told"
        )
    rates = pd.read_csv(path, keep_default_na=False, na_values={"rate": [""]})
    told = rates.GPU.iloc[0]
    print(f"Measured on {told}." if told != "none" else "Measured without a GPU: these hours and sums mean nothing.")
    print(f"{job.windows:,.0f} windows; " + ", ".join(f"{what} {size:.1f} GB" for what, size in job.gigabytes.items()))
    print(bill(hours(job, rates), **shown).round(2).to_string())


if __name__ == "__main__":
    main()
