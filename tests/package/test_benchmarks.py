"""The programs that measure: that they run, and that what they measure has the published size."""

import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from v2f_core.errors import InputError
from v2f_core.evaluation.systems import Faces
from v2f_core.studies.critics import CRITICS


@pytest.fixture
def programs(monkeypatch):
    """The folder of the benchmarks on the path, as it is for a program in it; no GPU."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    yield
    for name in ("gpu", "random_nets", "positions", "distances", "worlds"):
        sys.modules.pop(name, None)


def test_every_line_of_the_gpu_table_is_measured_at_miniature_size(programs, tmp_path, capsys):
    import costs
    from gpu import main

    main(["--out", str(tmp_path)])  # without a GPU it is as with --tiny
    assert "No CUDA device: tried with tiny nets, and the figures mean nothing" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["gpu_tiny.csv"]
    table = pd.read_csv(tmp_path / "gpu_tiny.csv", keep_default_na=False)
    assert table.groupby("what", sort=False).size().to_dict() == {
        "AST, clips of 1.25 s": 2,
        "VAE, latents": 2,
        "ArcFace, crops of 112 px": 1,
        "Stage I": 1,
        "Stage II": len(CRITICS) + 1,
        "Stage II, look": 1,
        "generation": 2,
    }
    assert table.how[table.what == "Stage II"].tolist()[-1] == "bf16, paper, gradient checkpointing"
    assert (table.rate > 0).all()
    assert (table.note == "").all()
    costs.main([str(tmp_path / "gpu_tiny.csv"), "--price", "2"])  # it finds all of its rates there
    assert "Measured without a GPU: these hours and sums mean nothing." in capsys.readouterr().out


def test_what_does_not_fit_into_memory_is_a_line_of_the_table(programs):
    from gpu import row
    from random_nets import TINY

    def too_large():
        raise torch.OutOfMemoryError

    found = row("Stage II", "bf16", 64, "steps/s", TINY, "cpu", too_large)
    assert found["note"] == "out of memory"
    assert found["rate"] is None

    def too_large_for_cublas():
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    assert row("Stage II", "bf16", 64, "steps/s", TINY, "cpu", too_large_for_cublas)["note"] == "out of memory"


def test_one_failure_costs_no_other_figure(programs, tmp_path, monkeypatch, capsys):
    """Machines with a GPU are lent for minutes: what was measured before and after a failure must be in the table."""
    import gpu

    def part(*calls):
        return lambda size, device: (gpu.row(call.__name__, "", 1, "calls/s", size, device, call) for call in calls)

    def fine():
        pass

    def broken():
        raise ValueError("expected\nall tensors on one device")

    def taken_away(size, device):
        assert pd.read_csv(tmp_path / "gpu_tiny.csv").what.tolist() == ["fine", "broken", "fine"]
        raise RuntimeError("no nets for this part")

    parts = {"extraction": part(fine, broken), "first_stage": part(fine)}
    parts |= {"second_stage": taken_away, "generation": part(fine)}
    for name, made in parts.items():
        monkeypatch.setattr(gpu, name, made)
    with pytest.raises(SystemExit, match=r"gpu_tiny\.csv: something failed"):
        gpu.main(["--tiny", "--out", str(tmp_path), "--commit", "abc1234"])
    table = pd.read_csv(tmp_path / "gpu_tiny.csv", keep_default_na=False)
    assert table.what.tolist() == ["fine", "broken", "fine", "fine"]
    assert table.note.tolist() == ["", "ValueError: expected all tensors on one device", "", ""]
    assert set(table.commit) == {"abc1234"}
    assert "RuntimeError: no nets for this part" in capsys.readouterr().err


def test_random_nets_weigh_what_the_published_files_weigh(programs):
    from random_nets import FULL, IResNet, random_prior

    prior = random_prior(FULL, "meta")
    assert prior.latent_shape == (4, 64, 64)
    with torch.device("meta"):
        arcface = IResNet(FULL.arcface)
    for net, megabytes in {
        prior.unet: 3440,
        prior.vae: 335,
        prior.text_encoder: 492,
        arcface: 261,
    }.items():
        assert sum(p.numel() * 4 for p in net.state_dict().values()) / 1e6 == pytest.approx(megabytes, rel=0.01)
    with torch.no_grad():
        z = IResNet((1, 1, 1, 1))(torch.rand(2, 3, 112, 112))
    torch.testing.assert_close(z.norm(dim=1), torch.ones(2))


def test_the_speed_of_an_ast_is_measured_padded_and_shortened(programs):
    from positions import of_the_published_size

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    padded, shortened = of_the_published_size(0.0, **small)
    assert (padded["frames"], shortened["frames"]) == (1024, 128)
    assert padded["clips/s"] > 0
    assert shortened["clips/s"] > 0


def test_skill_is_0_for_the_mean_face_and_1_at_the_ceiling(programs):
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


# --- costs


@pytest.fixture
def rates():
    """One of each a second, but for the second mode, which did not fit."""
    lines = [
        ("AST, clips of 1.25 s", "bf16", 10.0),
        ("VAE, latents", "bf16", 5.0),
        ("ArcFace, crops of 112 px", "fp32", 20.0),
        ("Stage I", "fp32", 2.0),
        ("Stage II", "bf16, paper", 0.5),
        ("Stage II", "bf16, paper", 0.1),  # of a larger batch
        ("Stage II", "bf16, cycle", None),
        ("Stage II, look", "fp32, paper", 0.002),
        ("generation", "fp32, 25 steps, guidance 3", 4.0),
    ]
    table = pd.DataFrame(lines, columns=["what", "how", "rate"])
    return table.assign(note=table.rate.map(lambda rate: "" if rate > 0 else "out of memory"), GPU="H200")


def test_hours_are_counts_over_rates(programs, rates):
    from costs import Job, hours

    job = Job(clips=3600, seconds=5.0, faces=18_000, stage1_steps=7200, stage2_steps=1800, drawn=14_400)
    # five seconds: windows begin every 0.625 s until 3.75 s, 7 of them; over all lengths near it 6.5 on average
    assert job.windows == pytest.approx(3600 * 6.5)
    assert hours(job, rates) == pytest.approx(
        {
            "voices: AST": 3600 * 6.5 / 10 / 3600,
            "photos: ArcFace": 0.25,
            "photos: latents": 1.0,
            "Stage I": 1.0,
            "Stage II": 1.0,
            "Stage II: looks": (1 + 1800 / 500) / 0.002 / 3600,  # one before the first step
            "evaluation: faces": 1.0,
            "all": 4.9 + 4.6 / 7.2,
        }
    )
    with pytest.raises(InputError, match=r"no rate of Stage II \(bf16, cycle\): out of memory"):
        hours(replace(job, mode="cycle"), rates)
    with pytest.raises(InputError, match=r"no rate of Stage II \(bf16, unheard\); measure"):
        hours(replace(job, mode="unheard"), rates)


def test_windows_of_recordings_are_counted_right_on_average(programs):
    """Many recordings of all lengths, really cut, beside the formula for their mean length."""
    from costs import Job

    from v2f_core.speech.audio import clips

    samples = range(60_000, 160_000, 97)
    cut = sum(len(clips(torch.ones(n))) for n in samples)
    mean = sum(samples) / len(samples) / 16_000
    assert Job(clips=len(samples), seconds=mean).windows == pytest.approx(cut, rel=1e-3)
    assert Job(clips=10, seconds=0.5).windows == 10  # a short one is repeated until it fills one


def test_costs_grow_as_the_page_says(programs, rates):
    from costs import Job, bill, hours

    one, two = Job(), Job(clips=2 * Job.clips, faces=2 * Job.faces)
    line, doubled = hours(one, rates), hours(two, rates)
    assert doubled["voices: AST"] == pytest.approx(2 * line["voices: AST"])
    assert doubled["photos: latents"] == pytest.approx(2 * line["photos: latents"])
    assert (doubled["Stage I"], doubled["Stage II"]) == (line["Stage I"], line["Stage II"])  # steps, not persons
    table = bill(line, price=3.0, gpus=(1, 8), efficiency=0.8)
    for row, took in line.items():
        assert table.loc[row].tolist() == pytest.approx([took, 3 * took, took / 6.4, 3 * took / 0.8])
    assert one.gigabytes["windows"] == pytest.approx(one.windows * 768 * 4 / 1e9)


def test_wrong_prices_and_missing_rates_are_refused(programs, tmp_path, capsys):
    from costs import main

    for wrong in (["--price", "-1"], ["--price", "1", "--efficiency", "0"], ["--price", "1", "--gpus", "0"]):
        with pytest.raises(InputError, match="expected a price"):
            main(wrong)
    with pytest.raises(InputError, match=r"gpu\.csv: no such file; benchmarks/gpu\.py measures it"):
        main([str(tmp_path / "gpu.csv"), "--price", "2.5"])
    main(["--price", "2"])
    assert re.search(r"Stage II, 20,000 steps +34.2 +68.4 +4.28 +68.4", capsys.readouterr().out)


def test_the_page_of_costs_says_what_the_program_says(programs):
    from costs import PAPER, Job, bill

    page = (Path(__file__).parents[2] / "docs" / "costs.md").read_text(encoding="utf-8")
    for row, figures in bill(PAPER | {"all": sum(PAPER.values())}, price=2.5).round(2).iterrows():
        line = re.search(rf"^\| {row} \|(.*)\|$", page, flags=re.M)
        assert [float(cell) for cell in line[1].split("|")] == figures.tolist(), row
    assert f"{Job().windows / 1e6:.1f} million windows" in page
    size = Job().gigabytes
    assert f"{size['windows']:.1f} GB for HQ-VoxCeleb" in page
    assert f"a photo, {size['latents']:.1f} GB" in page


def test_a_dose_of_truth_is_measured_as_the_study_measures(programs):
    """Cosine, second scorer, and by a loop how many rivals of one's sex the own face beats."""
    from dose import measured

    g, sexes = np.random.default_rng(0), ["f", "m", "f", "m", "f"]
    unit = [
        rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in g.normal(size=(4, 5, 512)).astype(np.float32)
    ]
    drawn, taken = (Faces(z, np.zeros((5, 0), np.float32), seen, [None] * 5) for z, seen in (unit[:2], unit[2:]))
    found = measured(drawn, taken, taken.identities, SimpleNamespace(test=SimpleNamespace(sexes=sexes)))
    for i in range(5):
        scores = taken.identities @ drawn.identities[i]
        rivals = [j for j in range(5) if sexes[j] == sexes[i] and j != i]
        expected = scores[i], drawn.features[i] @ taken.features[i], np.mean([scores[i] > scores[j] for j in rivals])
        np.testing.assert_allclose(found[i], expected, atol=1e-5)


def test_the_worlds_that_settings_travel_through_are_what_their_page_says(programs):
    import worlds

    for name, space in worlds.SPACES.items():
        training, _, test = worlds.world_of("random", space, 300, seed=0)
        assert training.voice.shape == (300 * worlds.WINDOWS, space.voice)
        assert training.face.shape == (300 * worlds.PHOTOS, space.face)
        assert not set(training.persons) & set(test.persons)
        assert float(training.face.mean(dim=0).norm()) == pytest.approx(space.mean, abs=0.08), name
        assert bool((training.voice >= 0).all()) is space.positive
        again = worlds.world_of("random", space, 100, seed=0)[2]
        assert torch.equal(again.face, test.face)  # more training persons, the same world and the same test
    g = np.random.default_rng(0)
    ours, theirs = (worlds.links_of("voice", kind, g) for kind in worlds.LINKS)
    assert np.allclose((ours**2).sum(axis=1), (theirs**2).sum(axis=1))
    assert not np.allclose(ours, theirs)


def test_a_row_of_worlds_is_scored_within_galleries_of_one_sex(programs):
    import worlds

    test = worlds.world_of("random", worlds.SPACES["open"], 10, seed=0)[2]
    perfect = worlds.scored(test.gallery(), test, 0)
    assert (perfect[perfect.metric != "cosine"].value == 1).all()
    sexes = dict(zip(test.persons, test.sexes, strict=True))
    for _, part in perfect.groupby("stratum"):
        assert part.person.nunique() == 100
        assert len({sexes[person] for person in part.person}) == 1
