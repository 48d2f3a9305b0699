"""The whole method on one page: short, on its own feet, told word for word by chapter 13, and equal to the package."""

import ast
import importlib.util
import re
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
import torch

from v2f_core import Aligner, FaceBatch, IdentityPosterior, Pairs, Prior, SelfConsistency, load_profile, open_dataset
from v2f_core.diffusion.monitors import collapse_monitors
from v2f_core.identity.arcface_torch import align_batch
from v2f_core.training.embeddings import embed_dataset
from v2f_core.training.latents import FacePairs
from v2f_core.training.pairs import pair_up
from v2f_core.training.stage1 import Stage1Settings, train_stage1
from v2f_core.training.stage2 import Stage2Settings, train_stage2

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
FILE = NOTEBOOKS / "whole_method.py"
GIVEN = {"FacePack", "differentiable_arcface", "embed_dataset", "load_profile", "open_dataset", "pair_up", "read_image"}
STEPS = 12


@pytest.fixture(scope="module")
def page():
    """The file, as a module."""
    spec = importlib.util.spec_from_file_location("whole_method", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def m(page):
    """What the page makes of data and weights, with its g_φ and prior in the package's classes too."""
    profile = load_profile("mini")
    prior, manifest = profile.part("prior"), open_dataset(profile)
    data = manifest, embed_dataset(profile, manifest)
    settings = {"batch": 64, "windows": 2, **profile.stage1, "steps": STEPS, "evaluate_every": 4}
    persons = [page.read_persons(*data, split) for split in ("train", "val")]
    trained = page.train_stage1(*persons, settings)
    aligner = Aligner(persons[0].v.shape[1], settings["hidden_width"], 512, settings["dropout"]).eval()
    aligner.net.load_state_dict(trained.state_dict())
    pack, model = page.FacePack.from_folder(profile.part("faces")), page.load_image_model(prior)
    some = [page.read_persons(*data, split, count) for split, count in (("train", 8), ("val", 6))]
    return SimpleNamespace(
        data=data,
        settings=settings,
        persons=persons,
        trained=trained,
        aligner=aligner,
        f_arc=page.differentiable_arcface(pack.arcface_path).requires_grad_(False),
        load_model=partial(page.load_image_model, prior),
        load_prior=partial(Prior.from_folder, prior),
        faces=[page.add_latents(model, pack, few) for few in some],  # with latents and landmarks
    )


def definitions(source: str) -> dict[str, str]:
    """Functions and classes by name, without layout."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    body = ast.parse(re.sub(r"(?m)^%.*", "", source)).body
    return {node.name: ast.dump(node) for node in body if isinstance(node, kinds) and node.name != "main"}


def test_it_is_one_page_and_takes_data_and_weights_only():
    text = FILE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 350
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imports if node.module.split(".")[0] in ("v2f_core", "minivox")]
    assert {alias.name for node in ours for alias in node.names} <= GIVEN
    assert "peft" not in text


def test_chapter_13_tells_it_word_for_word():
    (chapter,) = NOTEBOOKS.glob("13_*.ipynb")
    cells = nbformat.read(chapter, as_version=4).cells
    told = definitions("\n".join(cell.source for cell in cells if cell.cell_type == "code"))
    written = definitions(FILE.read_text(encoding="utf-8"))
    assert {name: told.get(name) for name in written} == written


def test_it_runs_alone(page, monkeypatch, capsys):
    small = "--persons 130 --steps 2 --steps2 1 --faces 1"
    monkeypatch.setattr(sys, "argv", [str(FILE), *small.split()])
    page.main()
    said = capsys.readouterr().out
    for part in ("Stage I: cosine", "posterior: κ", "faces: (1, 3, 128, 128)", "Stage II: L_self", "S_net"):
        assert part in said


def test_stage_one_is_the_packages(page, m, tmp_path):
    pairs, v = [pair_up(m.data[0], *m.data[1], split) for split in ("train", "val")], m.persons[1].v_mean
    theirs = train_stage1(*pairs, Stage1Settings(**m.settings), tmp_path, {})
    with torch.no_grad():
        torch.testing.assert_close(page.guess(m.trained, v), theirs(v), rtol=0, atol=1e-3)


def test_the_posterior_is_the_packages(page, m):
    (training, validation), trained = m.persons, m.trained
    p = page.fit_posterior(training, validation, trained)
    theirs = IdentityPosterior(
        m.aligner,
        basis=p.axes.float(),
        face_mean=p.face[:, None].float(),
        part=torch.zeros(2, 1),
        heard_mean=p.heard.float(),
        between=p.root.float().expand(2, -1, -1),
        within=torch.zeros(len(p.sigma), 1),
        gate=torch.cat([p.gate, -(p.heard.mean(0) @ p.gate)[None]]).float(),
        floor=1e-9,
        kappa=float(p.kappa),
    )
    z_hat = page.guess(trained, validation.v_mean)
    ratio = page.log_ratio(p, z_hat, validation.z_first)
    torch.testing.assert_close(
        ratio.float(), theirs.log_ratio(validation.z_first, validation.v_mean), rtol=0, atol=1e-2
    )
    for truncation in (0.0, 0.5, 1.0):
        drawn = page.sample(p, z_hat, 3, page.seeded(1), truncation)
        same = theirs.sample(validation.v_mean, 3, truncation, page.seeded(1))
        torch.testing.assert_close(drawn, same, rtol=0, atol=1e-4)
    nats = [page.own_ratio(p, kappa, validation, trained) for kappa in (0.0, float(p.kappa), 12.0)]
    assert nats[1] == max(nats)


@torch.no_grad()
def test_the_image_model_is_the_packages(page, m):
    model, prior, shown = m.load_model(), m.load_prior().requires_grad_(False), m.faces[1]
    z_hat = page.guess(m.trained, shown.v_mean)
    torch.testing.assert_close(page.condition(model, shown.z_first), prior.condition(shown.z_first))
    pictures = page.decode(model, shown.latents)
    torch.testing.assert_close(pictures, prior.decode(shown.latents))
    cropped = align_batch(pictures, shown.landmarks)
    torch.testing.assert_close(page.crop(pictures, shown.landmarks), cropped, rtol=0, atol=1e-4)
    noise = torch.randn(1, 4, 16, 16, generator=page.seeded(2))
    drawn = prior.sample(z_hat[:1], 2, 2.0, noise=noise)
    torch.testing.assert_close(page.draw_faces(model, z_hat[:1], noise, 2.0, 2), drawn)
    noisy, t, _ = page.look(model, shown.latents, page.seeded(3))
    batch = FaceBatch(shown.latents, shown.landmarks, shown.z_first, shown.women)
    loss = SelfConsistency(prior, m.f_arc)(z_hat, batch, page.seeded(3)).loss
    torch.testing.assert_close(
        page.l_self(model, m.f_arc, z_hat, noisy, t, shown.landmarks), loss, rtol=1e-4, atol=1e-7
    )


def test_stage_two_is_the_packages(page, m, tmp_path):
    s2 = {"steps": 2, "batch": 6, "rank": 16, "weight_self": 1000.0, "rate": 1e-4, "rate_lora": 3e-3}
    few, shown = m.faces
    mine, g = m.load_model(), page.copy.deepcopy(m.trained)
    losses = page.train_stage2(mine, g, m.f_arc, few, m.settings, s2)

    def wide(split, some):
        pairs = pair_up(m.data[0], *m.data[1], split).only([*range(len(some.z_first))])
        rows = torch.cat([some.z_first, some.latents.flatten(1), some.landmarks.flatten(1)], dim=1)
        return FacePairs(Pairs(**{**pairs.__dict__, "face": rows, "face_start": some.z_start}), (4, 16, 16))

    rates = {"learning_rate": 1e-4, "learning_rate_lora": 3e-3, "weight_self": 1000.0, "warmup": 0}
    watch = {"evaluate_every": 1, "monitored": 2, "monitor_bands": 1, "identity": Stage1Settings(**m.settings)}
    chosen = Stage2Settings(steps=2, batch=6, **rates, **watch)
    theirs = m.load_prior()
    split = wide("train", few), wide("val", shown)
    pupil = train_stage2(page.copy.deepcopy(m.aligner), theirs, m.f_arc, *split, chosen, tmp_path, {})
    assert losses == pytest.approx(pd.read_csv(tmp_path / "history.csv").train_self.dropna().tolist(), rel=0.01)
    with torch.no_grad():
        z_hat = pupil(shown.v_mean)
        torch.testing.assert_close(page.guess(g, shown.v_mean), z_hat, rtol=0, atol=2e-3)
    batch = FaceBatch(shown.latents, shown.landmarks, shown.z_first, shown.women)
    (row,) = collapse_monitors(theirs, m.f_arc, z_hat, batch, [(20, 979)], page.seeded(7))
    found = page.monitors(mine, g, shown, page.seeded(7))
    assert found == pytest.approx({"S_net": row["s_net"], "S_id": row["s_id"], "residual": row["residual"]}, rel=1e-3)
    assert abs(row["s_net"] - 1) > 3e-3  # the training has changed something, by more than the tolerance above
