"""Stage I on a store of embeddings that does not fit into memory.

    python benchmarks/large_store.py  # 5 million windows of 768 numbers
    torchrun --nproc-per-node 2 benchmarks/large_store.py  # the same, in two processes

Each adds its row to benchmarks/results/large_store.csv, in place of the last one of so many processes. The store holds
random numbers in half precision, 7.7 GB, in a scratch folder that is deleted afterwards. Stage I is trained on it as on
any other. What is told: the memory that a process holds (of several, the one that holds most), at most and before the
store was opened (the libraries alone), rows read in a second while training, and the same for reading random rows and
nothing else.

Expected, written before the run: at most 1.5 GB of resident memory, most of it the libraries' and the list of the rows'
items; training reads more slowly than reading alone, by what a step computes. Two processes: as much in each, since
each holds the list.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist

from v2f_core.artefacts.store import PROVENANCE_NAME, Embeddings, load
from v2f_core.data.manifest import COLUMNS, Manifest
from v2f_core.identity.sphere import normalise
from v2f_core.training.pairs import pair_up
from v2f_core.training.processes import first_process_first, join
from v2f_core.training.stage1 import Stage1Settings, train_stage1

EACH, SHARD = 10, 256  # windows of a recording, recordings of a shard
MB = 1e3  # ru_maxrss counts kilobytes


def main() -> None:
    """Make the store, train, print and write the row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=5_000_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--persons", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--scratch", type=Path, default=None, help="where the store is made (default: a temporary one)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/large_store.csv"))
    chosen = parser.parse_args()
    number, count = join()
    scratch = chosen.scratch or Path(tempfile.gettempdir()) / "v2f_large_store"
    try:
        row = measured(scratch, chosen.windows, chosen.dim, chosen.persons, chosen.steps)
    finally:
        if number == 0:
            shutil.rmtree(scratch, ignore_errors=True)
    rows = [row] * count
    if count > 1:
        dist.all_gather_object(rows, row)
    if number == 0:
        most = max(rows, key=lambda one: one["MB at most"])
        table = pd.DataFrame([{"processes": count, **most}])
        print(table.T.to_string(header=False))
        if chosen.out.exists():
            before = pd.read_csv(chosen.out)
            table = pd.concat([before[before.processes != count], table]).sort_values("processes")
        table.to_csv(chosen.out, index=False, float_format="%.4g")


def measured(scratch: str | Path, windows: int, dim: int, persons: int, steps: int) -> dict[str, float]:
    """Memory and speed of Stage I on a store of random numbers, which is made first if it is not there."""
    folder = Path(scratch) / "voices"
    items = [f"{i:07d}.wav" for i in range(windows // EACH)]
    with first_process_first():
        if not (folder / PROVENANCE_NAME).exists():
            write_store(folder, items, dim)
    names = [f"P{i * persons // len(items):05d}" for i in range(len(items))]
    split = {f"P{i:05d}": "val" if i % 10 == 9 else "train" for i in range(persons)}
    table = pd.DataFrame({"person": names, "path": items}).assign(sex="f", kind="voice", session="")
    photos = pd.DataFrame({"person": list(split)}).assign(sex="f", kind="face", session="")
    photos["path"] = photos.person + ".png"
    table = pd.concat([table, photos])
    table["split"] = table.person.map(split)
    manifest = Manifest(folder, table[list(COLUMNS)])
    faces = Embeddings(normalise(torch.randn(persons, 512)), photos.path.tolist(), [], {})
    before = peak()
    started = time.perf_counter()
    voices = load(folder, in_memory=0)
    training, validation = (pair_up(manifest, voices, faces, part) for part in ("train", "val"))
    opened = time.perf_counter() - started
    started, settings = (
        time.perf_counter(),
        Stage1Settings(steps=steps, windows=4, evaluate_every=steps, hidden_width=256),
    )
    train_stage1(training, validation, settings, Path(scratch) / "aligner", {})
    trained = time.perf_counter() - started
    started, which = time.perf_counter(), torch.randint(len(training.voice), (20, 512))
    for rows in which:
        training.voice[rows]
    read = 20 * 512 / (time.perf_counter() - started)
    return {
        "windows": windows,
        "numbers a window": dim,
        "persons": persons,
        "GB on disk": sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e9,
        "MB before": before,
        "MB at most": peak(),
        "grown MB": peak() - before,
        "s to open": opened,
        "s to check, train and validate": trained,
        "steps": steps,
        "rows/s, reading alone": read,
    }


def write_store(folder: Path, items: list[str], dim: int) -> None:
    """A store as `extract` writes it, of random numbers: one block, shifted for each shard."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    block = np.random.default_rng(0).standard_normal((SHARD * EACH, dim), np.float32).astype(np.float16).ravel()
    for start in range(0, len(items), SHARD):
        part = items[start : start + SHARD]
        header = {"rows": [item for item in part for _ in range(EACH)], "skipped": [], "files": len(part)}
        numbers = np.roll(block, 7 * start)[: len(part) * EACH * dim].reshape(-1, dim)
        path = folder / f"{start // SHARD:05d}.safetensors"
        save_file({"embeddings": numbers}, path, metadata={"header": json.dumps(header)})
    (folder / PROVENANCE_NAME).write_text(json.dumps({"items": len(items)}))


def peak() -> float:
    """The most memory that this process has held, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MB


if __name__ == "__main__":
    main()
