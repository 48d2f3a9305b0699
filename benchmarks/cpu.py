"""CPU seconds of the miniature on one core: imports, four faces, and the demo, the first time and again.

    python benchmarks/cpu.py                      # writes benchmarks/results/cpu.csv
    python benchmarks/cpu.py --repetitions 1      # a look

Each command is a process of its own, with the threads that it chooses itself. The first demo has an empty cache.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

import minivox
from v2f_core.artefacts.files import atomic_write

VOICE = Path(minivox.__file__).parent / "other_voice.ogg"
IMPORTS = """
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from transformers import ASTFeatureExtractor, ASTModel, CLIPTextModel, CLIPTokenizer
"""


def commands(place: Path) -> dict[str, tuple[str, ...]]:
    """What is timed, in this order."""
    v2f = ("-m", "v2f_core")
    return {
        "imports alone": ("-c", IMPORTS),
        "generate -n 4": (*v2f, "generate", str(VOICE), "-n", "4", "--out", str(place / "faces")),
        "demo, the first time": (*v2f, "demo", "--out", str(place / "demo")),
        "demo, again": (*v2f, "demo", "--out", str(place / "demo")),
    }


def cpu_seconds(arguments: tuple[str, ...], cache: Path) -> float:
    """CPU seconds, of the user and of the system, that a Python process takes."""
    # where Python may not keep what it compiles, every start would compile torch anew
    unset = ("OMP_", "V2F_", "PYTHONDONTWRITEBYTECODE")
    left = {name: value for name, value in os.environ.items() if not name.startswith(unset)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**left, "V2F_CACHE": str(cache)}
    subprocess.run([sys.executable, *arguments], env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(repetitions: int) -> pd.DataFrame:
    """CPU seconds of each command in each repetition, with a cache that is empty at first."""
    rows = []
    for number in range(repetitions):
        with tempfile.TemporaryDirectory() as folder:
            for name, arguments in commands(Path(folder)).items():
                # generate unpacks nothing, so that the demo finds the cache empty
                rows.append((number, name, cpu_seconds(arguments, Path(folder) / "cache")))
                print(*rows[-1], file=sys.stderr, flush=True)
    return pd.DataFrame(rows, columns=["repetition", "command", "seconds"])


def main() -> None:
    """Measure, write the table, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    chosen = parser.parse_args()
    seconds = measure(chosen.repetitions).groupby("command", sort=False).seconds
    table = seconds.agg(["median", "min", "max"]).round(1).reset_index()
    with atomic_write(chosen.out / "cpu.csv") as part:
        table.to_csv(part, index=False, lineterminator="\n")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
