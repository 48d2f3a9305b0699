"""A notebook that passes proves something only if it fails when the package is broken: faults, and who must notice.

A fault is a few lines that a kernel runs before the notebook's first cell (IPython's own start-up folder), so that
neither the package nor the notebook has to be touched.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

BGR = """
import numpy as np
from v2f_core.identity.faces import FacePack

right = FacePack.embed_aligned
FacePack.embed_aligned = lambda self, crops: right(self, np.asarray(crops)[..., ::-1])
"""

SHUFFLED_SPLIT = """
import numpy as np
from v2f_core.data import voxceleb
from v2f_core.data.manifest import Manifest

right = voxceleb.read_layout


def shuffled(*arguments, **settings):
    manifest = right(*arguments, **settings)
    splits = manifest.persons().split
    other = dict(zip(splits.index, np.random.default_rng(0).permutation(splits.to_numpy())))
    return Manifest(manifest.root, manifest.table.assign(split=manifest.table.person.map(other)), manifest.left_out)


voxceleb.read_layout = shuffled
"""

SIGN = """
from v2f_core.identity.losses import AMSoftmax

right = AMSoftmax.forward
AMSoftmax.forward = lambda self, identity, label: -right(self, identity, label)
"""

SOMEBODY_ELSE = """
from v2f_core.diffusion.consistency import View

right = View.recognise
View.recognise = lambda self, prediction: right(self, prediction).roll(1, dims=0)
"""

CASES = [
    # fault, notebook, what stands in the cell that must fail
    pytest.param(SHUFFLED_SPLIT, "01_paired_data", "manifest", id="shuffled split, 01"),
    pytest.param(SHUFFLED_SPLIT, "04_two_spaces", "training.intersection", id="shuffled split, 04"),
    pytest.param(BGR, "03_seeing_identity", "z_few = embed", id="BGR, 03"),
    pytest.param(SIGN, "03_seeing_identity", "margin_loss(features", id="a loss of the wrong sign, 03"),
    pytest.param(SIGN, "05_stage1_aligner", "def am_softmax", id="a loss of the wrong sign, 05"),
    pytest.param(SOMEBODY_ELSE, "09_stage2_self_consistency", "tested = critic(", id="z_self of another row, 09"),
]


@pytest.mark.parametrize(("fault", "notebook", "cell"), CASES)
def test_a_fault_makes_the_notebook_fail_where_it_should(fault, notebook, cell, tmp_path):
    startup = tmp_path / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00-fault.py").write_text(fault, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--nbval"]
    run = subprocess.run(
        [*command, f"notebooks/{notebook}.ipynb"],
        cwd=ROOT,
        env={**os.environ, "IPYTHONDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert run.returncode == 1, run.stdout[-2000:]
    assert cell in run.stdout, run.stdout[-2000:]
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is not None, "the first cells fail, too: not this fault's work"
    assert int(passed[1]) >= 2
