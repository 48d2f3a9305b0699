"""What the notebooks say does not hang on one seed, one aligner or the number of threads.

A cell before all others adds 1000 to every seed that is sown, gives the aligner of another training to whoever asks for
the shipped one, and leaves one thread. All that a notebook prints must stay the same, but for cells tagged "varies".
"""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SERIES = sorted(NOTEBOOKS.glob("*.ipynb"))

OTHER = """
def other_training():
    import os
    from pathlib import Path

    import numpy as np
    import torch
    from v2f_core.artefacts.profiles import Profile

    def shifted(seed):
        # large ones are made from names, not chosen
        return seed + 1000 if isinstance(seed, int) and seed < 2**31 else seed

    class Generator(torch.Generator):
        def manual_seed(self, seed):
            return super().manual_seed(shifted(seed))

    sow, begin, part = torch.manual_seed, np.random.default_rng, Profile.part
    torch.Generator = Generator
    torch.manual_seed = lambda seed: sow(shifted(seed))
    np.random.default_rng = lambda seed=None: begin(shifted(seed))
    trained = Path(os.environ["OTHER_TRAINING"])
    other = "aligner", "posterior"  # of the AST; 00 also opens GE2E's
    Profile.part = lambda self, name: trained / name if name in other and self.encoder == "ast" else part(self, name)
    torch.set_num_threads(1)


other_training()
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def training(tmp_path_factory):
    """Stage I with another seed, on the persons of the package, and the posterior of that aligner."""
    from v2f_core.artefacts.profiles import load_profile
    from v2f_core.data.voxceleb import open_dataset
    from v2f_core.identity.aligner import Aligner
    from v2f_core.pipeline import made_from
    from v2f_core.training.embeddings import embed_dataset
    from v2f_core.training.pairs import pair_up
    from v2f_core.training.posterior import train_posterior
    from v2f_core.training.stage1 import Stage1Settings, train_stage1

    profile, folder = load_profile("mini"), tmp_path_factory.mktemp("training")
    manifest = open_dataset(profile)
    voices, faces = embed_dataset(profile, manifest)
    training, validation = (pair_up(manifest, voices, faces, split) for split in ("train", "val"))
    train_stage1(training, validation, Stage1Settings(**{**profile.stage1, "seed": 1000}), folder / "aligner", {})
    aligner = Aligner.from_pretrained(folder / "aligner")
    train_posterior(training, validation, aligner, made_from(profile)).save_pretrained(folder / "posterior")
    return folder


def said(cell: nbformat.NotebookNode) -> str:
    """What a cell prints, and the words of a value or table that it shows; neither pictures nor sound."""
    found = []
    for output in cell.outputs:
        if output.output_type == "stream" and output.name == "stdout":
            found.append(output.text)
        elif "data" in output and "image/png" not in output.data:
            page = output.data.get("text/html", output.data.get("text/plain", ""))
            found.append(re.sub(r"data:(audio|image)/\w+;base64,[\w+/=]+", "embedded", page))
    return "".join(found)


@pytest.mark.parametrize("path", SERIES, ids=lambda path: path.stem)
def test_all_that_is_said_holds_for_another_seed(path, training, monkeypatch):
    from nbclient import NotebookClient

    chosen = {"OTHER_TRAINING": training, "V2F_PROFILE": "mini", "OMP_NUM_THREADS": 1}
    for name, value in {**chosen, "HF_HUB_DISABLE_PROGRESS_BARS": 1}.items():
        monkeypatch.setitem(os.environ, name, str(value))
    stored, book = (nbformat.read(path, as_version=4) for _ in range(2))
    book.cells.insert(0, v4.new_code_cell(OTHER))
    place = {"metadata": {"path": path.parent}}
    NotebookClient(book, timeout=900, kernel_name="python3", resources=place, store_widget_state=False).execute()
    different = []
    for before, after in zip(stored.cells, book.cells[1:], strict=True):
        kept = before.cell_type == "code" and not {"varies"} & set(before.metadata.get("tags", ()))
        if kept and "NBVAL_IGNORE_OUTPUT" not in before.source and said(before) != said(after):
            different.append(f"{before.source.splitlines()[0]}\n--- stored\n{said(before)}\n+++ now\n{said(after)}")
    assert not different, "\n\n".join(different)
