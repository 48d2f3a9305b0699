"""From voices to the page, on a handful of persons and a tiny prior: every row, every file, nothing hidden."""

import html
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from fakes import Pack, small_judge
from PIL import Image

from v2f_core.app.report import Evaluation, write_report
from v2f_core.data.manifest import COLUMNS, Manifest
from v2f_core.diffusion.lora import add_lora, save_lora
from v2f_core.diffusion.prior import Prior
from v2f_core.evaluation import controls
from v2f_core.evaluation.systems import Drawing, Scorer
from v2f_core.evaluation.tables import Ceiling
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.sphere import normalise
from v2f_core.training.pairs import Pairs

N = 12
NAMES = [f"Ada <{i}> & Co" for i in range(N)]  # names that a page must not swallow
SEXES = ["f", "m"] * (N // 2)


def people(names, photos, seed):
    g, n = torch.Generator().manual_seed(seed), len(names)
    faces = normalise(torch.randn(n * photos, 512, generator=g))
    return Pairs(
        names,
        SEXES[:n],
        torch.randn(n, 16, generator=g),
        torch.arange(n + 1),
        faces,
        torch.arange(0, n * photos + 1, photos),
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_profile):
    """Twelve persons with two photographs (the last has one, and a dark one is among them) and a recording each."""
    root, g = tmp_path_factory.mktemp("world"), np.random.default_rng(0)
    rows, photos = [], []
    for i, (name, sex) in enumerate(zip(NAMES, SEXES, strict=True)):
        photos.append([])
        quarters = g.integers(30, 255, (2, 2, 3))
        for k in range(1 if i == N - 1 else 2):
            picture = np.kron(quarters, np.ones((16, 16, 1))) * ((i, k) != (3, 1)) + g.integers(0, 3, (32, 32, 3))
            path = f"{i}_{k}.png"
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(root / path)
            rows.append((name, sex, "test", "face", "", path))
            photos[-1].append(root / path)
        if i:  # the first recording is damaged
            soundfile.write(root / f"{i}.wav", 0.1 * g.normal(size=16_000), 16_000)
        else:
            (root / "0.wav").write_text("no sound")
        rows.append((name, sex, "test", "voice", "v", f"{i}.wav"))
    left_out = pd.DataFrame([("Zoe", "no face")], columns=["item", "why"])
    manifest = Manifest(root, pd.DataFrame(rows, columns=COLUMNS), left_out)
    scorer = Scorer(Pack(), small_judge())
    test = people(NAMES, 1, 1)
    gallery = scorer.photographs([paths[0] for paths in photos])
    test = Pairs(**{**test.__dict__, "face": torch.from_numpy(gallery.identities), "left_out": ["Yan"]})
    prior = Prior.from_folder(tiny_profile.prior).requires_grad_(False)
    training = people([f"T{i}" for i in range(N)], 3, 2)
    bench = controls.Bench(
        training, test, photos, prior, scorer, root / "drawn", {"prior_sha256": "0" * 64}, Drawing(2, 2.0)
    )
    return manifest, bench


@pytest.fixture(scope="module")
def stage2(world, tiny_profile, tmp_path_factory):
    """A Stage II is named by the critic in its record."""
    folder = tmp_path_factory.mktemp("stage2")
    adapted = Prior.from_folder(tiny_profile.prior)
    add_lora(adapted, 2, 2.0, torch.Generator().manual_seed(0))
    save_lora(adapted, folder / "lora")
    Aligner(16, 8).save_pretrained(folder / "aligner")
    records = [
        {"settings": {"weight_self": 0.0}, "critic": "paper"},
        {"settings": {"consistency": {"mode": "paper"}}},  # of version 0.1
        {"settings": {"weight_self": 1.0}, "critic": "teacher"},
    ]
    read = []
    for record in records:
        (folder / "provenance.json").write_text(json.dumps(record))
        read.append(controls.Stage2.from_folder(folder, tiny_profile.prior))
    assert [each.critic for each in read] == ["no L_self", "paper", "teacher"]
    return read[-1]


@pytest.fixture(scope="module")
def systems(world, stage2, tiny_profile):
    _, bench = world
    aligner = Aligner.from_pretrained(tiny_profile.aligner)
    return list(controls.rows(bench, aligner, set(controls.DRAWABLE), [stage2]))


@pytest.fixture(scope="module")
def report(world, systems, tiny_profile, tmp_path_factory):
    """The folder of a whole report."""
    manifest, bench = world
    ceilings = {"all": Ceiling(0.9, 0.95, 0.9)}
    evaluation = Evaluation(bench, manifest, tiny_profile, systems, ceilings, ["a note"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("v2f_core.app.report.EXAMPLES", 1)
        return write_report(evaluation, tmp_path_factory.mktemp("report")).parent


def test_every_row_is_there_in_order_and_is_what_it_is_called(systems, world):
    _, bench = world
    found = {system.name: system for system in systems}
    assert list(found) == [
        *("mean face", "same-sex mean face", "random real face", "no identity", "shuffled voice"),
        *("w/o DSC (Stage I)", "full (teacher)", "best of 4 by ẑ", "oracle", "VAE reconstruction"),
        "another real photo",
    ]
    photo = found["another real photo"]
    np.testing.assert_array_equal(photo.answered, np.arange(N) != N - 1)  # the last has one photograph
    assert photo.undetected == 1  # the dark one, a miss
    assert not found["oracle"].answered[[3, N - 1]].any()  # no identity to ask for
    assert found["oracle"].answered.sum() == N - 2
    assert len(np.unique(found["mean face"].predicted, axis=0)) == 1
    stage1, shuffled = found["w/o DSC (Stage I)"], found["shuffled voice"]
    assert shuffled.faces is stage1.faces
    assert len(shuffled.shuffles) == len(found["random real face"].shuffles) == 200
    assert not (shuffled.shuffles == np.arange(N)).any()
    np.testing.assert_array_equal(found["random real face"].faces[0].identities, bench.gallery.identities)
    best, full = found["best of 4 by ẑ"], found["full (teacher)"]
    first = (full.faces[0].identities * full.predicted).sum(axis=1)
    assert ((best.faces[0].identities * full.predicted).sum(axis=1) >= first - 1e-6).all()
    assert found["no identity"].predicted is None
    shown = {name for name, system in found.items() if system.shown}
    assert shown == {"oracle", "VAE reconstruction", "another real photo"}


def test_every_row_gets_the_guidance_that_suits_the_validation_persons(world, stage2, tiny_profile, monkeypatch):
    """Recomputed row by row: the mean cosine of what is asked, under each scale."""
    _, bench = world
    monkeypatch.setattr(controls, "GUIDANCES", (0.0, 5.0))
    aligner = Aligner.from_pretrained(tiny_profile.aligner)
    drawn = ("mean face", "w/o DSC (Stage I)", "oracle")

    def rows(of):
        return controls.rows(of, aligner, drawn, [stage2])

    likeness = controls.tuned(bench, rows)
    assert set(likeness) == {*drawn, "full (teacher)"}
    for scale in (0.0, 5.0):
        for row in rows(replace(bench, drawing=replace(bench.drawing, guidance=scale))):
            if row.name in likeness and row.shuffles is None:
                asked = range(N) if row.answered is None else np.flatnonzero(row.answered)
                each = [float(row.faces[0].identities[i] @ bench.gallery.identities[i]) for i in asked]
                assert likeness[row.name][scale] == pytest.approx(np.mean(each), abs=1e-6)

    mixed = {"mean face": 0.0, "oracle": 5.0}
    scales = {row.name: row.guidance for row in rows(replace(bench, guidance=mixed))}
    assert (scales["mean face"], scales["oracle"]) == (0.0, 5.0)
    assert scales["w/o DSC (Stage I)"] == scales["full (teacher)"] == bench.drawing.guidance
    assert scales["another real photo"] is scales["same-sex mean face"] is None


# --- the report


def test_the_report_counts_what_is_missing(report):
    about = json.loads((report / "about.json").read_text())
    notes = "\n".join(about["left out"]["notes"])
    assert "1 of 12 persons have one photograph only" in notes
    assert "another real photo: no face found in 1 of 11 images" in notes
    assert "1 persons of the test split have no usable voice" in notes
    assert "a note" in notes
    assert about["left out"]["persons"] == ["Yan"]
    assert about["left out"]["items"] == ["Zoe: no face"]


def test_the_tables_hold_every_system(report, systems):
    table = pd.read_csv(report / "systems.csv")
    assert {"oracle", "full (teacher)", "no identity"} <= set(table[table.by == "face"].system)
    assert {"chance", "ceiling"} <= set(table.system)
    persons = pd.read_csv(report / "persons.csv.gz", keep_default_na=False)
    assert set(persons.system) == {system.name for system in systems}
    oracle = persons[(persons.system == "oracle") & (persons.by == "face") & (persons.gallery == "all")]
    mean = oracle[oracle.metric == "cosine"].value.mean()
    assert table[(table.system == "oracle") & (table.by == "face")].cosine.iloc[0] == pytest.approx(mean, abs=1e-5)
    assert "| oracle | face |" in (report / "report.md").read_text()


def test_the_page_is_whole_and_needs_neither_network_nor_scripts(report):
    with Image.open(report / "faces.png") as picture:
        assert "Synthetic" in picture.text["Description"]
    page = (report / "report.html").read_text()
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)"', page))
    assert not re.search(r"<script|https?://|url\(", page)
    alts = re.findall(r'<img[^>]*alt="([^"]*)"', page)
    assert len(alts) == page.count("<img") == 3  # two figures, whatever MPLBACKEND is, and the faces
    assert all(alts)
    assert "<0>" not in page
    text = " ".join(html.unescape(re.sub(r"<[^>]*>", "", page)).split())
    assert all(words in text for words in ("no likeness of any person", "95 % intervals", "a note", "Zoe: no face"))
    assert len(page) < 6_000_000
