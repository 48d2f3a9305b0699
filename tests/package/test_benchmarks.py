"""The programs that measure: that they run, and that what they compute is what their pages say."""

import importlib
import json
import os
import re
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fakes import seeded, unit, wake
from scipy.stats import linregress

from v2f_core.diffusion.consistency import SelfConsistency
from v2f_core.errors import InputError
from v2f_core.identity.arcface_torch import align_batch
from v2f_core.studies.critics import CRITICS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def programs(monkeypatch):
    """The folder of the benchmarks on the path, as it is for a program in it; no GPU."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    yield
    for path in BENCHMARKS.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_every_program_finds_what_it_imports():
    for path in BENCHMARKS.glob("*.py"):
        importlib.import_module(path.stem)


@pytest.mark.slow
def test_every_line_of_the_gpu_table_is_measured_at_miniature_size(tmp_path, capsys):
    import costs
    from gpu import main

    main(["--out", str(tmp_path)])  # without a GPU it is as with --tiny
    assert "No CUDA device: tried with tiny nets, and the figures mean nothing" in capsys.readouterr().err
    table = pd.read_csv(tmp_path / "gpu_tiny.csv", keep_default_na=False)
    assert (table.what == "Stage II").sum() == len(CRITICS) + 1
    assert (table.rate > 0).all()
    costs.main([str(tmp_path / "gpu_tiny.csv"), "--price", "2"])  # it finds all of its rates there
    assert "Measured without a GPU: these hours and sums mean nothing." in capsys.readouterr().out


def test_hours_are_counts_over_rates():
    from costs import Job, hours

    lines = [
        ("AST, clips of 1.25 s", "fp32", 10.0),
        ("VAE, latents", "fp32", 5.0),
        ("ArcFace, crops of 112 px", "fp32", 20.0),
        ("Stage I", "fp32", 2.0),
        ("Stage II", "bf16, paper", 0.5),
        ("Stage II", "bf16, paper", 0.1),  # of a larger batch
        ("Stage II", "bf16, cycle", None),
        ("Stage II, look", "fp32, paper", 0.002),
        ("generation", "fp32, 25 steps, guidance 3", 4.0),
    ]
    rates = pd.DataFrame(lines, columns=["what", "how", "rate"]).assign(note="out of memory")
    job = Job(clips=3600, seconds=5.0, faces=18_000, stage1_steps=7200, stage2_steps=1800, drawn=14_400)
    looks = (1 + 1800 / 500) / 0.002 / 3600  # one before the first step
    # five seconds: windows begin every 0.625 s until 3.75 s, 7 of them; over all lengths near it 6.5 on average
    assert list(hours(job, rates).values()) == pytest.approx([0.65, 0.25, 1.0, 1.0, 1.0, looks, 1.0, 4.9 + looks])
    with pytest.raises(InputError, match=r"no rate of Stage II \(bf16, cycle\): out of memory"):
        hours(replace(job, mode="cycle"), rates)


def test_the_page_of_costs_says_what_the_program_says():
    from costs import PAPER, Job, bill

    page = (BENCHMARKS.parent / "docs" / "costs.md").read_text(encoding="utf-8")
    for row, figures in bill(PAPER | {"all": sum(PAPER.values())}, price=2.5).round(2).iterrows():
        line = re.search(rf"^\| {row} \|(.*)\|$", page, flags=re.M)
        assert [float(cell) for cell in line[1].split("|")] == figures.tolist(), row
    size = Job().gigabytes
    for figure in (f"{Job().windows / 1e6:.1f} million", f"{size['windows']:.1f} GB for", f"{size['latents']:.1f} GB"):
        assert figure in page


# --- the study of draws


def test_a_critic_on_draws_asks_whom_of_all_a_face_shows(prior, arcface, faces):
    """Three women and a man: each is a rival of all others. Beside it stands the prior's own loss on photographs."""
    from stage2_draws import obey

    wake(prior)
    drawn, generator = unit(4, 3), seeded(4)
    with torch.no_grad():
        losses = SelfConsistency(prior, arcface, partial(obey, anchor=2.0))(drawn, faces, seeded(4)).each
        view = SelfConsistency(prior, arcface).look(faces, generator)
        start = torch.randn(faces.latents.shape, generator=generator)
        latents = prior.denoise(start, prior.condition(drawn), 5, guidance=1.0)
        z_t = prior.add_noise(latents, view.noise, view.t)
        x_0 = prior.one_step_x0(z_t, view.t, prior.predict(z_t, view.t, prior.condition(drawn)))
        seen = arcface(align_batch(prior.decode(x_0), faces.landmarks.mean(0).expand(4, 5, 2)))
        missed = prior.predict(view.z_t, view.t, prior.condition(faces.z_arc)) - view.noise
    for i in range(4):
        cosines = [float(seen[i] @ drawn[j]) / 0.2 for j in range(4)]
        told = np.log(np.exp(cosines).sum()) - cosines[i]
        assert float(losses[i]) == pytest.approx(told + 2 * float((missed[i] ** 2).mean()), abs=1e-4)


def test_the_contrast_is_the_slope_of_what_is_seen_on_what_was_told():
    from stage2_draws import contrast

    g, sex = np.random.default_rng(0), np.array(list("fm") * 20)
    told = g.normal(size=40)
    less, more = -0.3 * told + 0.01 * g.normal(size=40), 0.2 * told + 0.01 * g.normal(size=40)
    less[5] = np.nan
    known = np.arange(40) != 5
    found = contrast(told, [less, more], sex)
    slopes = [linregress(told[known], (told + moved)[known]).slope for moved in (less, more)]
    assert found["value"] == pytest.approx(slopes[0], abs=2e-3)  # each sex counts alike, though one person is lost
    assert found["gain"] == pytest.approx(slopes[0] - slopes[1], abs=2e-3)
    assert found["low"] < 0.7 < found["high"]


# --- damaged inputs


@pytest.mark.parametrize(("kind", "count"), [("audio", 8), ("pictures", 12), ("weights", 8)])
def test_a_few_damaged_inputs_are_read_or_refused_in_one_line(tmp_path, capfd, kind, count):
    import fuzz

    given = [kind, "--seed", "7", "--count", str(count), "--log", str(tmp_path), "--out", str(tmp_path)]
    assert fuzz.main(given) == 0, capfd.readouterr().out
    found = json.loads((tmp_path / "fuzz.json").read_text())[kind]
    assert found["inputs"] == count
    assert found["printed by libraries"] == 0
    assert set(found["outcomes"]) <= {"refused", "silent", "warned"}  # "silent" is also what is read rightly


def test_the_fuzzer_sees_what_goes_wrong(tmp_path, monkeypatch):
    import fuzz

    def kind(folder):
        def refuse():
            raise InputError("no sound")

        def say():
            os.write(1, b"a library talks\n")  # past Python, as a library in C does
            return [], 0.1

        uses = [refuse, os.abort, lambda: time.sleep(60), say, lambda: 1 / 0, lambda: (["loud"], 0.9)]

        def trial(rng, place):
            tried = len(list(tmp_path.glob("*.tried")))  # on disk, since a worker that is lost is started anew
            (tmp_path / f"{tried}.tried").touch()
            return f"use {tried}", uses[tried]

        return trial

    monkeypatch.setitem(fuzz.KINDS, "mine", kind)
    monkeypatch.setattr(fuzz, "SECONDS", 1.0)
    for count in ("3", "6"):  # it goes on where it was
        assert fuzz.main(["mine", "--count", count, "--log", str(tmp_path), "--out", str(tmp_path)]) == 1
    rows = [json.loads(line) for line in (tmp_path / "fuzz_mine_0.jsonl").read_text().splitlines()]
    assert [row["outcome"] for row in rows] == ["refused", "crash", "hang", "silent", "exception", "warned"]
    assert rows[3]["printed"] == "a library talks\n"
    assert "ZeroDivisionError" in rows[4]["said"]
