"""The report of an evaluation: tables as CSV, a picture of faces, and a notebook on them, executed and exported.

The notebook is made of ``report.md`` (each block of Python is a cell). It reads only the files beside it, so it can be
changed and run again in its folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import v2f_core
from v2f_core.app.generate import save_gallery
from v2f_core.artefacts.files import SYNTHETIC, folder_hash, versions, write_json
from v2f_core.artefacts.profiles import Profile
from v2f_core.data.manifest import Manifest
from v2f_core.errors import InputError
from v2f_core.evaluation import controls, metrics, protocols, tables
from v2f_core.evaluation.controls import Bench
from v2f_core.evaluation.systems import System
from v2f_core.identity.photos import read_image
from v2f_core.show.plots import GalleryRow
from v2f_core.speech.audio import read_audio

TEMPLATE = Path(__file__).with_name("report.md")
EXAMPLES, NEAREST = 3, 5  # persons of each kind in the picture, and faces of the gallery beside them
HEAD = '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>From voices to faces: an evaluation</title>\n'


@dataclass(frozen=True)
class Evaluation:
    """The content of a report."""

    bench: Bench  # persons, photographs, scorers
    manifest: Manifest
    profile: Profile
    systems: Sequence[System]  # the rows
    ceilings: Mapping[str, tables.Ceiling] = field(default_factory=dict)  # of a known world
    notes: Sequence[str] = ()  # lines for the section "Left out", beside its own counts
    ratio: tables.Ratio | None = None  # ranks faces by likelihood ratio, beside the cosine

    @property
    def main(self) -> System:
        """The system whose faces are shown: the last Stage II, else Stage I."""
        names = (controls.NO_DSC, controls.FULL)
        return [system for system in self.systems if system.name.startswith(names)][-1]


def write_report(e: Evaluation, out: Path) -> Path:
    """Write tables, picture, notebook and page; returns the page. docs/evaluation.md describes the files."""
    test, gallery = e.bench.test, e.bench.gallery
    galleries = protocols.galleries(test.sexes)
    tidy = tables.likeness(e.systems, gallery, test.persons, galleries, e.ceilings, e.ratio)
    likeness = tables.likeness_table(tidy, galleries, e.ceilings)
    tables.write(out, "persons.csv.gz", tidy)
    tables.write(out, "systems.csv", likeness)
    tables.write(out, "sets.csv", tables.set_table(e.systems, gallery))
    page = tables.by_gallery(likeness.fillna({"by": ""}), tables.MEASURES, ("system", "by"))
    tables.write(out, "report.md", page)
    write_json(out / "about.json", _about(e))
    if e.main.faces:
        made = {"weights_sha256": dict(e.bench.hashes), "seed": e.bench.drawing.seed}
        title = "Beside each drawn face the five photographs that are nearest to the prediction"
        save_gallery(_shown(e), out / "faces.png", made, title)
    return run_notebook(out)


def run_notebook(folder: Path) -> Path:
    """Execute the report's notebook on the files of a folder, and export it as one page without scripts."""
    import nbformat
    from nbclient import NotebookClient
    from nbconvert import HTMLExporter

    new_cell = (nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell)  # prose, and in turn a block of Python
    parts = re.split(r"^```python\n(.*?)^```$", TEMPLATE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    cells = [new_cell[i % 2](part.strip(), id=f"cell-{i}") for i, part in enumerate(parts) if part.strip()]
    notebook = nbformat.v4.new_notebook(cells=cells)
    client = NotebookClient(notebook, resources={"metadata": {"path": str(folder)}})
    client.extra_arguments = ["--log-level=ERROR"]  # a kernel warns of its TCP connection to this process
    source = str(Path(v2f_core.__file__).parents[1])  # for a package that runs from its source tree
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    client.execute(env={**os.environ, "PYTHONPATH": path})
    body, _ = HTMLExporter(template_name="basic", exclude_input=True).from_notebook_node(notebook)
    tables.write(folder, "report.ipynb", nbformat.writes(notebook))
    tables.write(folder, "report.html", HEAD + body)
    return folder / "report.html"


def _about(e: Evaluation) -> dict[str, Any]:
    weights = {name: folder_hash(e.profile.part(name)) for name in ("aligner", e.profile.encoder)}
    weights |= {name.removesuffix("_sha256"): digest for name, digest in e.bench.hashes.items()}
    test, drawing = e.bench.test, e.bench.drawing
    return {
        "notice": SYNTHETIC,
        "profile": e.profile.name,
        "dataset": "MiniVox" if e.profile.dataset_is_packed else e.manifest.root.name,
        "persons": len(test.persons),
        "women": test.sexes.count("f"),
        "men": test.sexes.count("m"),
        "main": e.main.name,
        "systems": {row.name: controls.WHAT.get(row.name, controls.WHAT[controls.FULL]) for row in e.systems},
        "draws": e.bench.draws,
        "steps": drawing.steps,
        "guidance": "chosen for each row on validation persons" if e.bench.guidance else drawing.guidance,
        "seed": drawing.seed,
        "weights_sha256": weights,
        "versions": versions("v2f-core", "torch", "diffusers", "transformers", "numpy"),
        "left out": _left_out(e),
    }


def _left_out(e: Evaluation) -> dict[str, Any]:
    """Counts of missing or unusable data, each a line, and the persons and items behind them."""
    test, gallery = e.bench.test, e.bench.gallery
    n, files = len(test.persons), e.manifest.left_out
    undetected = int((~gallery.identities.any(axis=1)).sum())
    notes = [
        *e.notes,
        f"{len(test.left_out)} persons of the test split have no usable voice or no usable face",
        f"{len(files)} items of the dataset were not used",
        f"{int((~e.bench.has_other).sum())} of {n} persons have one photograph only: left out where a second is needed",
        f"no face was found in {undetected} of {n} photographs of the gallery: their persons cannot be retrieved",
    ]
    for system in (system for system in e.systems if system.faces and system.shuffles is None):
        images = int(system.of(n).sum()) * len(system.faces)
        notes.append(f"{system.name}: no face found in {system.undetected} of {images} images (misses with cosine 0)")
    if not gallery.posteriors.shape[1]:
        notes.append("no judge in this profile: VFS is missing")
    if not gallery.features.shape[1]:
        notes.append("no second scorer in this profile")
    return {"notes": notes, "persons": list(test.left_out), "items": (files["item"] + ": " + files["why"]).tolist()}


def _shown(e: Evaluation) -> list[GalleryRow]:
    """Persons with the highest, middle and lowest cosine of the drawn face; beside it the nearest of the gallery."""
    test, gallery, drawn = e.bench.test, e.bench.gallery, e.main.faces[0]
    cosines = metrics.cosine(drawn.identities, gallery.identities)
    queries = drawn.identities if e.main.predicted is None else e.main.predicted
    scores = metrics.score_matrix(queries, gallery.identities)
    ranks, order = metrics.rank(scores), np.argsort(-cosines, kind="stable")
    count = max(1, min(EXAMPLES, len(order) // 3))
    middle = (len(order) - count) // 2
    chosen = [*order[:count], *order[middle : middle + count], *order[-count:]]
    voices = e.manifest.voices("test").groupby("person").path.first()
    rows = []
    for i in map(int, chosen):
        near = np.argsort(-scores[i], kind="stable")[:NEAREST]
        pictures = [read_image(path) for path in (drawn.paths[i], *(gallery.paths[j] for j in near)) if path]
        captions = [f"drawn, cosine {cosines[i]:.2f}", *(f"photograph{', true' * int(j == i)}" for j in near)]
        label, photo = f"{test.persons[i]}\n{int(ranks[i])} of {len(scores)}", gallery.paths[i]
        wave = np.zeros(1, np.float32)
        with suppress(InputError):
            wave = read_audio(e.manifest.root / voices[test.persons[i]]).numpy()
        rows.append(GalleryRow(label, wave, pictures, read_image(photo) if photo else None, captions))
    return rows
