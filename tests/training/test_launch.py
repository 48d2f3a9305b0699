"""The commands really started by ``accelerate launch``; that two processes compute what one does: test_processes.py."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from minivox.dataset import unpack
from v2f_core.data.voxceleb import read_layout

LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Ninety persons of MiniVox: more recordings than one shard holds."""
    root, folder = unpack(), tmp_path_factory.mktemp("dataset")
    whole = read_layout(root)
    counts = {"train": 70, "val": 10, "test": 10}
    chosen = [name for split, count in counts.items() for name in whole.persons(split).index[:count]]
    whole.table[whole.table.person.isin(chosen)].to_csv(folder / "manifest.csv", index=False)
    (folder / "vox1").symlink_to(root / "vox1")
    return folder


@pytest.mark.slow
def test_extract_and_both_stages_run_in_two_launched_processes(dataset, tmp_path):
    def run(name, *arguments):
        place = {"V2F_DATASET": str(dataset), "V2F_CACHE": str(tmp_path / name / "cache"), "OMP_NUM_THREADS": "1"}
        start = LAUNCH if name == "two" else ()
        command = [sys.executable, *start, "-m", "v2f_core", *arguments]
        done = subprocess.run(
            command, env=os.environ | place, cwd=Path(__file__).parents[2], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    for name in ("one", "two"):
        said = run(name, "extract")
        assert said.count("voices: ") == said.count("faces: ") == 1  # one process speaks
    stores = {path.relative_to(tmp_path / "one") for path in (tmp_path / "one" / "cache").rglob("*") if path.is_file()}
    assert len([path for path in stores if path.suffix == ".safetensors"]) == 4  # of voices 2, of faces 2
    for path in stores:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes(), path
    out = {stage: tmp_path / "two" / stage for stage in ("stage1", "stage2")}
    assert run("two", "stage1", "--steps", "2", "--out", str(out["stage1"])).count("\n") == 1
    told = run("two", "stage2", "--steps", "1", "--aligner", str(out["stage1"]), "--out", str(out["stage2"]))
    assert told.count("\n") == 1
    assert pd.read_csv(out["stage1"] / "history.csv").step.tolist() == [2]
    assert pd.read_csv(out["stage2"] / "history.csv").step.tolist() == [0, 1]
