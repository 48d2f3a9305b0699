"""The programs that measure: that they run, and that what they compute is what their pages say."""

import faulthandler
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
from v2f_core.evaluation import metrics
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

        def crash():
            faulthandler.disable()  # pytest's would print the stack of a death that is wanted
            os.abort()

        uses = [refuse, crash, lambda: time.sleep(60), say, lambda: 1 / 0, lambda: (["loud"], 0.9)]

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


# --- measures of single pages


def test_skill_is_0_for_the_mean_face_and_1_at_the_ceiling():
    from distances import distances

    edges = {"mean": 0.05, "chance": 0.1, "ceiling": 0.25, "ceiling R@10": 0.5, "ceiling R@10 within sex": 0.6}
    edges |= {"oracle": 0.8, "oracle, second scorer": 0.9}
    kinds = ("cosine", "cosine of ẑ", "R@10", "R@10 within sex", "second scorer")
    systems = {"mean": (0.05, 0.15, 0.1, 0.2, 0.4), "best": (0.25, 0.25, 0.5, 0.6, 0.8)}
    table = pd.DataFrame(
        {"system": system, "metric": kind, "value": value, "low": value - 0.1, "high": value + 0.02}
        for system, values in systems.items()
        for kind, value in zip(kinds, values, strict=True)
    )
    found = distances(table, edges).set_index("system").loc[list(systems)]
    skills = ["skill", "skill R@10", "skill R@10 within sex", "skill of ẑ"]
    assert found.loc["mean", skills].tolist() == pytest.approx([0, 0, 0, 0.5], abs=1e-9)
    assert found.loc["best", skills].tolist() == pytest.approx([1, 1, 1, 1])
    assert found["to the ceiling"].tolist() == pytest.approx([0.2, 0])
    assert found["to the oracle"].tolist() == pytest.approx([0.75, 0.55])
    assert found.loc["best", ["skill low", "skill high"]].tolist() == pytest.approx([0.5, 1.1])


def test_pseudo_values_average_to_the_distance_and_miss_who_moves_it():
    from stage2_draws import kernel_distances

    g = np.random.default_rng(0)
    seen, real = ({s: g.normal(size=(count, 2, 4)) for s in "fm"} for count in (6, 9))
    seen, real = ({s: x / np.linalg.norm(x, axis=-1, keepdims=True) for s, x in part.items()} for part in (seen, real))
    real = {s: x.reshape(-1, 4) for s, x in real.items()}
    sex, draws = np.repeat(list("fm"), 6), np.concatenate([seen["f"], seen["m"]])
    values = kernel_distances(draws, sex, real)
    whole = {s: metrics.kernel_distance(seen[s].reshape(-1, 4), real[s]) for s in "fm"}
    assert values.mean() == pytest.approx(np.mean(list(whole.values())))
    without = [metrics.kernel_distance(np.delete(seen["f"], i, axis=0).reshape(-1, 4), real["f"]) for i in range(6)]
    np.testing.assert_allclose(values[:6] - values[0], -11 * (np.array(without) - without[0]) / 2, atol=1e-9)


def test_a_small_room_answers_with_the_direct_sound_the_ceiling_and_a_decay():
    """One reflection by hand, and the time in which the energy that is still to come falls by 60 dB."""
    from real_voices import ABSORBED, ROOM, TALKER, small_room

    response = small_room(1.0).astype(float)
    height = 2 * (ROOM[2] - TALKER[2])  # up to the talker's image above the ceiling, as the microphone sees it
    path = np.hypot(1.0, height)
    first = round((path - 1.0) / 343 * 16_000)  # m/s
    assert response[0] == 1
    assert (response[1:first] == 0).all()
    assert response[first] == pytest.approx(np.sqrt(1 - ABSORBED) / path, abs=1e-6)
    left = 10 * np.log10(np.cumsum(response[::-1] ** 2)[::-1] / (response**2).sum())
    fall = (np.argmax(left < -20) - np.argmax(left < -5)) / 16_000 * 60 / 15
    volume, surface = ROOM.prod(), 2 * (ROOM[0] * ROOM[1] + ROOM[1] * ROOM[2] + ROOM[2] * ROOM[0])
    assert 0.7 < fall / (0.161 * volume / (surface * ABSORBED)) < 1.5
    assert abs(small_room(0.5)).sum() < abs(response).sum()  # nearer, the room matters less


def test_of_all_worlds_together_a_person_counts_once_whatever_the_number_that_trains():
    import worlds

    g, parts = np.random.default_rng(0), []
    for space in worlds.SPACES:
        for persons, seed in ((100, 0), (100, 1), (800, 0)):
            for system in worlds.ROWS[:2]:
                frame = pd.DataFrame({"person": [f"{seed}/{i}" for i in range(6)], "value": g.random(6)})
                frame = frame.assign(gallery=f"{space}, {persons}", links="random", space=space, persons=persons)
                frame = frame.assign(by="within sex", stratum="0", metric="1:2 matching", system=system, seed=seed)
                parts.append(frame)
    tidy = pd.concat(parts)
    table = worlds.worlds_table(tidy)
    assert table.groupby("gallery", sort=False).worlds.first().tolist() == [6, 4, 2, 2, 1, 2, 1]
    means = tidy.groupby(["system", "space", "person"]).value.mean().groupby("system").mean()
    ratio, cosine = table[table.gallery == "all"].to_dict("records")
    assert (cosine["system"], cosine["n"]) == (worlds.COSINE, 24)
    assert cosine["1:2 matching gain"] == pytest.approx(means[worlds.COSINE] - means[worlds.RATIO])
    assert ratio["1:2 matching"] == pytest.approx(means[worlds.RATIO])
