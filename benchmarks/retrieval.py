"""How long is R@K of 10,000 voices against 100,000 faces, and how much memory does it take?

    OMP_NUM_THREADS=2 python benchmarks/retrieval.py     # writes benchmarks/results/retrieval.json; under 2 minutes
    OMP_NUM_THREADS=2 python benchmarks/retrieval.py --mapped --queries 1000 --faces 1000000

With --mapped the gallery lies in a file (the second command's has 2 GB) that is mapped into memory, not read into it;
the result goes to results/retrieval_mapped.json. Its pages count as the process's memory while they are there, and the
system takes them back when it needs them; so they are counted apart.

Identities are random unit vectors of 512 numbers; each query is its own face with noise, so that R@10 is neither 0 nor
1. Times are of the search alone; on a busy machine, CPU seconds over threads tell what a quiet one would take. The
memory is the peak of the whole process, interpreter and torch included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from v2f_core.artefacts.files import atomic_write
from v2f_core.evaluation.retrieval import search
from v2f_core.identity.sphere import normalise

NOISE = 5.0  # against a face of norm 1: a cosine of 0.2 with it, hardly more than the best of all rivals has


def main() -> None:
    """Draw, search, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--faces", type=int, default=100_000)
    parser.add_argument("--mapped", action="store_true")
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    size, (file, path) = chosen.faces * 512, tempfile.mkstemp()
    os.close(file)
    gallery = torch.from_file(path, True, size).view(-1, 512) if chosen.mapped else torch.empty(chosen.faces, 512)
    os.unlink(path)  # it is there as long as it is mapped
    for block in gallery.split(32_768):
        block.copy_(normalise(torch.randn(len(block), 512, generator=generator)))
    own = torch.randperm(chosen.faces, generator=generator)[: chosen.queries]
    noise = normalise(torch.randn(chosen.queries, 512, generator=generator))
    query = normalise(gallery[own] + NOISE * noise)

    begin, begin_cpu = time.perf_counter(), time.process_time()
    found = search(query, own.numpy(), gallery, np.arange(chosen.faces), chosen.device)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - begin_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, KiB elsewhere
    result = {
        "queries": chosen.queries,
        "faces": chosen.faces,
        "width": 512,
        "R@10": round(float(found.recall(10).mean()), 4),
        "chance of R@10": 10 / chosen.faces,
        "mAP": round(float(found.average_precision.mean()), 4),
        "median rank": found.median_rank,
        "seconds": round(seconds, 1),
        "CPU seconds": round(cpu_seconds, 1),
        "peak memory, GB": round(peak * (1 if sys.platform == "darwin" else 1024) / 1e9, 2),
        "of it the mapped file's, at most, GB": round(4 * size / 1e9, 2) if chosen.mapped else 0,
        "device": chosen.device,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
    }
    with atomic_write(chosen.out / ("retrieval_mapped.json" if chosen.mapped else "retrieval.json")) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
