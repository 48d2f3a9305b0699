"""Rows that stay on disk are the rows of the store, whatever is asked for; and their memory is small."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from v2f_core.artefacts import store
from v2f_core.artefacts.store import Rows, extract, load
from v2f_core.data.manifest import COLUMNS, Manifest
from v2f_core.training.pairs import pair_up


def embed(paths):
    """Three windows a recording, which tell its number."""
    return [torch.full((3, 4), 1 + float(path.stem[1:])) + torch.arange(3.0)[:, None] / 10 for path in paths]


@pytest.fixture
def folder(tmp_path):
    extract(tmp_path, [f"v{i}.wav" for i in range(10)], embed, tmp_path / "store", {}, shard=4)
    return tmp_path / "store"


def test_rows_on_disk_are_the_rows_in_memory(folder):
    whole, rows = load(folder).vectors, load(folder, in_memory=0).vectors
    assert isinstance(rows, Rows)
    assert rows.shape == whole.shape == (30, 4)
    for which in (torch.tensor([29, 0, 12, 12]), torch.tensor([[3, 4], [28, 11]]), slice(5, 20), slice(None)):
        assert torch.equal(rows[which], whole[which])
    order = torch.randperm(30)[:17]
    assert torch.equal(rows.pick(order).pick(torch.tensor([16, 2]))[:], whole[order][[16, 2]])
    assert torch.equal(rows.to("cpu")[torch.tensor([7])], whole[7:8])


def test_pairs_from_disk_are_the_pairs_from_memory(folder):
    import pandas as pd

    rows = [(f"P{i % 4}", "f", "train", "voice", "", f"v{i}.wav") for i in range(10)]
    rows += [(f"P{i}", "f", "train", "face", "", f"{i}.png") for i in range(3)]  # P3 has no face
    manifest = Manifest(folder, pd.DataFrame(rows, columns=list(COLUMNS)))
    faces = store.Embeddings(torch.eye(3), [f"{i}.png" for i in range(3)], [], {})
    here, there = (pair_up(manifest, load(folder, size), faces, "train") for size in (1 << 30, 0))
    assert isinstance(there.voice, Rows)
    there.check()
    assert torch.equal(here.pooled_voices(), there.pooled_voices())
    assert torch.equal(here.only([2, 0]).voice, there.only([2, 0]).voice[:])
    assert torch.equal(here.pooled().voice, there.pooled().voice)
    drawn = [pairs.draw(3, 2, torch.Generator().manual_seed(0)) for pairs in (here, there)]
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))


@pytest.mark.slow
def test_a_large_store_takes_little_memory(tmp_path, monkeypatch):
    """benchmarks/large_store.py trains on one of a lab's size."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    from large_store import write_store

    for name, recordings in (("small", 10), ("large", 20_000)):
        write_store(tmp_path / name, [f"{i}.wav" for i in range(recordings)], 256)
    size = sum(path.stat().st_size for path in (tmp_path / "large").iterdir())
    program = f"""
import resource, torch
from v2f_core.artefacts.store import load
def read(name):
    rows = load({str(tmp_path)!r} + "/" + name, in_memory=0).vectors
    rows[torch.randint(len(rows), (300,))]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(read("small"), read("large"))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, after = map(int, run.stdout.split())
    assert size > 100e6
    assert 1024 * (after - before) < size / 2
