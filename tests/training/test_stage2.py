"""Stage II trains what it says, stops at once when a number breaks, and goes on after a kill as if nothing had been."""

import json
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fakes import SHAPE, Recogniser, asked_to_stop, people
from two_processes import CONSISTENCIES

from v2f_core import cli
from v2f_core.artefacts.provenance import folder_hash
from v2f_core.data.manifest import COLUMNS, Manifest
from v2f_core.diffusion.consistency import SelfConsistency
from v2f_core.diffusion.consistency_settings import ConsistencySettings
from v2f_core.diffusion.lora import add_lora, lora_parameters
from v2f_core.diffusion.lora_files import load_lora
from v2f_core.diffusion.monitors import collapse_monitors
from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.faces import Face, FacePack
from v2f_core.identity.losses import AMSoftmax, IdentityLoss
from v2f_core.identity.sphere import normalise
from v2f_core.training import stage2
from v2f_core.training.checkpoints import load_checkpoint, save_checkpoint
from v2f_core.training.embeddings import Embeddings
from v2f_core.training.history import peak_memory
from v2f_core.training.latents import FacePairs, latent_embedder, pair_faces
from v2f_core.training.stage1 import Stage1Settings
from v2f_core.training.stage2_settings import Stage2Settings
from v2f_core.training.stopping import until_terminated

QUICK = {
    "steps": 4,
    "batch": 3,
    "learning_rate": 1e-3,
    "learning_rate_lora": 1e-2,
    "rank": 2,
    "alpha": 3.0,
    "warmup": 2,
    "evaluate_every": 3,
    "checkpoint_every": 2,
    "monitored": 2,
    "monitor_bands": 2,
    "identity": Stage1Settings(windows=2, weight_cosine=1.0),
    "consistency": ConsistencySettings("denoise"),
}


@pytest.fixture(scope="module")
def run(tiny_profile):
    """Train from the same start each time; gives the aligner and the prior."""
    begun = Aligner.from_pretrained(tiny_profile.aligner), Prior.from_folder(tiny_profile.prior)

    def go(folder, provenance=None, tensorboard=False, validation=None, **changes):
        settings = Stage2Settings(**{**QUICK, **changes})
        aligner, prior = deepcopy(begun)
        world = people(7, seed=1), validation or people(5, seed=2)
        made = provenance or {"voices": "ab12"}
        trained = stage2.train_stage2(
            aligner, prior, Recogniser(), *world, settings, folder, made, tensorboard=tensorboard
        )
        return trained, prior

    return go


@pytest.fixture(scope="module")
def unbroken(run, tmp_path_factory):
    """The folder and the weights of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, weights(*run(folder))


def weights(aligner, prior):
    return {**aligner.state_dict(), **{name: p.detach().clone() for name, p in lora_parameters(prior).items()}}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- what is trained


def test_two_steps_by_hand(run, tiny_profile, tmp_path):
    """L = L_id + λ·L_self with λ rising over the warm-up, one clipped AdamW step each (Eq. 15)."""
    from v2f_core.identity.losses import InfoNCE

    found = weights(*run(tmp_path, steps=2, weight_self=3.0, warmup=4, clip=0.5))
    aligner, prior = Aligner.from_pretrained(tiny_profile.aligner), Prior.from_folder(tiny_profile.prior)
    world, g = people(7, seed=1), torch.Generator().manual_seed(0)
    add_lora(prior, 2, 3.0, g)
    critic = SelfConsistency(prior, Recogniser(), QUICK["consistency"])
    with torch.no_grad():
        classes = aligner(world.wide.pooled_voices())
    margin = AMSoftmax(7, 512)
    margin.weight.data.copy_(classes)
    loss = IdentityLoss(margin, InfoNCE(), weight_cosine=1.0)
    own, lora = [*aligner.parameters(), *loss.parameters()], list(lora_parameters(prior).values())
    optimiser = torch.optim.AdamW([{"params": own, "lr": 1e-3}, {"params": lora, "lr": 1e-2}], weight_decay=0.01)
    aligner.train()
    torch.manual_seed(0)
    for step in (1, 2):
        voice, label, faces = world.draw(3, 2, g)
        identity = aligner(voice)
        total = loss(identity, faces.z_arc, label).total + 3.0 * step / 4 * critic(identity, faces, g).loss
        optimiser.zero_grad()
        total.backward()
        norm = sum(p.grad.square().sum() for p in own + lora) ** 0.5
        for parameter in own + lora:
            parameter.grad *= min(1.0, 0.5 / (float(norm) + 1e-6))
        optimiser.step()
    for name, value in weights(aligner, prior).items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)


def test_the_bar_tells_losses_speed_and_the_gpu_s_memory(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: {"cuda:1": 3 * 2**30}[str(device)])
    assert peak_memory("cuda:1") == {"peak": "3.0 GiB"}
    monkeypatch.setattr(stage2, "peak_memory", lambda _: peak_memory("cuda:1"))
    run(tmp_path, steps=1)
    last = capsys.readouterr().err.splitlines()[-1]
    assert "peak=3.0 GiB" in last
    assert "val_self=" in last
    assert re.search(r"(step/s|s/step)", last)


def test_the_base_stays_bit_for_bit_and_the_rest_moves(run, tiny_profile, tmp_path):
    aligner, prior = run(tmp_path, steps=2, consistency=ConsistencySettings("paper"))
    base = dict(Prior.from_folder(tiny_profile.prior).named_parameters())
    for name, parameter in prior.named_parameters():
        assert "lora_" in name or torch.equal(parameter, base[name.replace(".base_layer", "")]), name
    before = Aligner.from_pretrained(tiny_profile.aligner).state_dict()
    assert not any(torch.equal(value, before[name]) for name, value in aligner.state_dict().items())
    assert any(p.abs().sum() > 0 for name, p in lora_parameters(prior).items() if "lora_B" in name)


def test_without_l_self_lora_stays_where_it_began(run, tmp_path):
    _, prior = run(tmp_path, steps=2, weight_self=0.0)
    begun = {name: p.detach().clone() for name, p in lora_parameters(prior).items()}
    assert all(not p.any() for name, p in begun.items() if "lora_B" in name)
    _, again = run(tmp_path / "more", steps=1, weight_self=0.0)
    assert equal(begun, dict(lora_parameters(again).items()))


@pytest.mark.parametrize("mode", ["paper", "teacher", "contrast", "cycle"])
def test_every_mode_runs(mode, run, tmp_path):
    run(tmp_path, steps=1, consistency=ConsistencySettings(mode))
    assert np.isfinite(pd.read_csv(tmp_path / "history.csv").val_self).all()


def test_checkpointing_the_gradient_changes_no_more_than_rounding(run, tmp_path):
    plain = weights(*run(tmp_path / "a", steps=2))
    saving = weights(*run(tmp_path / "b", steps=2, gradient_checkpointing=True))
    for name in plain:
        torch.testing.assert_close(plain[name], saving[name], atol=1e-5, rtol=1e-3)
    with pytest.raises(InputError, match="gradient_checkpointing"):
        Stage2Settings(gradient_checkpointing=True, consistency=ConsistencySettings("contrast"))


@pytest.mark.parametrize("name", CONSISTENCIES)
def test_a_batch_in_parts_gives_the_gradients_of_the_whole(name, run, tmp_path, monkeypatch):
    """Every term: InfoNCE and the negatives of ``contrast`` know the whole batch, though the UNet sees a part of it."""
    found, seen, largest, begin = [], [], [], stage2.add_lora

    def begun(prior, rank, alpha, generator):
        begin(prior, rank, alpha, generator)
        prior.unet.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
        for parameter_name, parameter in lora_parameters(prior).items():
            if "lora_B" in parameter_name:  # else no gradient reaches A
                parameter.data.normal_(generator=generator, std=0.1)

    monkeypatch.setattr(stage2, "add_lora", begun)
    monkeypatch.setattr(stage2, "average_gradients", lambda parameters: found.append([p.grad for p in parameters]))
    monkeypatch.setattr(stage2.Watch, "look", lambda self, step: {})
    rows = 6 // CONSISTENCIES[name].copies
    for parts in (1, rows):
        asked = {"batch": 6, "warmup": 0, "weight_self": 5.0, "consistency": CONSISTENCIES[name]}
        run(tmp_path / str(parts), steps=1, gradient_accumulation=parts, **asked)
        largest.append(max(seen))
        seen.clear()
    for whole, in_parts in zip(*found, strict=True):
        torch.testing.assert_close(in_parts, whole, atol=1e-5, rtol=1e-4)
    assert all(gradient.any() for gradient in found[0])
    assert largest[0] == rows * largest[1]


@pytest.mark.parametrize("asked", [{"mode": "paper"}, {"mode": "contrast"}, {"mode": "cycle", "copies": 2}])
def test_looks_take_no_more_memory_than_a_step(asked, run, tmp_path, monkeypatch):
    """Who trains in parts since the memory does not suffice must not fail at the monitors."""
    seen, predict, decode = [], Prior.predict, Prior.decode
    monkeypatch.setattr(Prior, "predict", lambda self, z, t, c: seen.append(len(z)) or predict(self, z, t, c))
    monkeypatch.setattr(Prior, "decode", lambda self, z: seen.append(len(z)) or decode(self, z))
    tables, negatives = {}, 2
    for parts in (1, 2):
        seen.clear()
        consistency = ConsistencySettings(**asked, negatives=negatives)
        settings = {"batch": 4, "monitored": 4, "steps": 1, "consistency": consistency}
        run(tmp_path / str(parts), **settings, gradient_accumulation=parts)
        most = 4 // parts * (negatives if asked["mode"] == "contrast" else 1)
        assert max(seen) == most
        tables[parts] = pd.read_csv(tmp_path / str(parts) / "monitors.csv")
    pd.testing.assert_frame_equal(tables[1], tables[2], rtol=1e-3, atol=1e-5)


def test_a_run_goes_on_in_other_parts_than_it_began_in(run, unbroken, tmp_path):
    run(tmp_path, steps=2, gradient_accumulation=3)
    for name, value in weights(*run(tmp_path)).items():
        torch.testing.assert_close(value, unbroken[1][name], atol=1e-4, rtol=1e-3)


def test_parts_that_do_not_come_out_even_are_refused(run, tmp_path):
    with pytest.raises(InputError, match="gradient_accumulation=2: expected a divisor of the batch's 3 persons"):
        Stage2Settings(**{**QUICK, "gradient_accumulation": 2})
    with pytest.raises(InputError, match=r"8 parts .*: a batch has fewer rows"):
        run(tmp_path, batch=8, gradient_accumulation=8)  # of seven persons


def test_half_precision_trains_too(run, tmp_path):
    aligner, prior = run(tmp_path, steps=2, mixed_precision="bf16")
    assert all(value.isfinite().all() and value.dtype == torch.float32 for value in weights(aligner, prior).values())


# --- files


def test_the_folder_tells_everything_and_loads_anywhere(unbroken, tiny_profile):
    folder, trained = unbroken
    made = json.loads((folder / "provenance.json").read_text())
    assert made["voices"] == "ab12"
    assert made["step"] == 4
    assert made["settings"]["consistency"]["mode"] == "denoise"
    history, monitors = pd.read_csv(folder / "history.csv"), pd.read_csv(folder / "monitors.csv")
    assert history.step.tolist() == [0, 3, 4]
    assert monitors.step.tolist() == [0, 0, 3, 3, 4, 4]
    assert monitors.t_min.tolist() == [20, 500] * 3
    first = monitors[monitors.step == 0]
    assert (first.s_net == 1).all()
    assert np.isfinite(monitors.to_numpy()).all()
    assert np.isfinite(history[1:].to_numpy()).all()
    np.testing.assert_allclose(history.val_self, monitors.groupby("step").self.mean(), rtol=1e-4)
    aligner, prior = Aligner.from_pretrained(folder / "aligner"), Prior.from_folder(tiny_profile.prior)
    load_lora(prior, folder / "lora")
    loaded = weights(aligner, prior)
    for name, value in trained.items():
        torch.testing.assert_close(loaded[name], value if "lora_" in name else value.half().float(), atol=0, rtol=0)


def test_the_folder_s_hash_is_that_of_its_weights(unbroken, tmp_path):
    """Curves hold the hour of the training, and whoever has the weights alone has the same weights."""
    shutil.copytree(unbroken[0], copy := tmp_path / "copy")
    (copy / "tensorboard").mkdir()
    (copy / "tensorboard" / "events.1763888400").write_text("curves")
    (copy / "checkpoint.pt").unlink()
    assert folder_hash(copy) == folder_hash(unbroken[0])
    (copy / "lora" / "pytorch_lora_weights.safetensors").write_bytes(b"others")
    assert folder_hash(copy) != folder_hash(unbroken[0])


def test_looking_changes_nothing_and_a_row_tells_the_mean_since_the_one_before(run, unbroken, tmp_path):
    assert equal(unbroken[1], weights(*run(tmp_path, evaluate_every=1)))
    tables = (pd.read_csv(folder / "history.csv").set_index("step") for folder in (tmp_path, unbroken[0]))
    often, seldom = (table.filter(like="train_") for table in tables)
    assert {"train_total", "train_self", "train_gradient"} <= set(often)
    np.testing.assert_allclose(seldom.loc[3], often.loc[1:3].mean(), rtol=1e-4)
    np.testing.assert_allclose(seldom.loc[4], often.loc[4], rtol=1e-4)


def test_monitors_see_the_first_persons_without_dropout_under_the_same_noise_each_time(run, tiny_profile, tmp_path):
    run(tmp_path, steps=1, weight_self=0.0)  # the adapters stay as they are, and so does what does not hang on ẑ
    first, last = (rows.reset_index(drop=True) for _, rows in pd.read_csv(tmp_path / "monitors.csv").groupby("step"))
    assert first.residual_true.tolist() == last.residual_true.tolist()
    assert first.residual.tolist() != last.residual.tolist()
    aligner, prior = Aligner.from_pretrained(tiny_profile.aligner), Prior.from_folder(tiny_profile.prior)
    add_lora(prior, 2, 3.0)
    world, g, bands = people(5, seed=2), torch.Generator().manual_seed(0), [(20, 499), (500, 979)]
    voice, faces = world.first(2)
    with torch.no_grad():
        identity = aligner(voice)
        for i, row in enumerate(collapse_monitors(prior, Recogniser(), identity, faces, bands, g)):
            assert {name: first[name][i] for name in row} == pytest.approx(row, rel=1e-4, abs=1e-5)
        for i, (t_min, t_max) in enumerate(bands):
            critic = SelfConsistency(prior, Recogniser(), ConsistencySettings("denoise", t_min=t_min, t_max=t_max))
            assert first["self"][i] == pytest.approx(float(critic(identity, faces, g).loss), rel=1e-4)


def test_monitors_tell_how_alike_the_bayes_identities_of_the_same_persons_are(run, tmp_path):
    """Of the monitored persons only, by a loop over their pairs; without a known world there is no such column."""
    bayes = normalise(torch.randn(5, 512, generator=torch.Generator().manual_seed(3)))
    run(tmp_path / "known", steps=1, monitored=3, validation=replace(people(5, seed=2), bayes=bayes))
    found = pd.read_csv(tmp_path / "known" / "monitors.csv").pairwise_bayes
    by_hand = np.mean([float(bayes[i] @ bayes[j]) for i in range(3) for j in range(3) if i != j])
    assert found.tolist() == pytest.approx([by_hand] * len(found), abs=1e-5)
    run(tmp_path / "unknown", steps=1)
    assert "pairwise_bayes" not in pd.read_csv(tmp_path / "unknown" / "monitors.csv")


def test_tensorboard_shows_what_the_tables_say(run, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    history, monitors = pd.read_csv(tmp_path / "history.csv"), pd.read_csv(tmp_path / "monitors.csv")
    loss = events.Scalars("val_total")
    assert [event.step for event in loss] == history.step.tolist() == [0, 3, 4]
    np.testing.assert_allclose([event.value for event in loss], history.val_total, rtol=1e-4)
    for (low, high), band in monitors.groupby(["t_min", "t_max"]):
        shown = events.Scalars(f"s_net/t_{low}_to_{high}")
        np.testing.assert_allclose([event.value for event in shown], band.s_net, rtol=1e-4)
    run(tmp_path / "quiet", steps=1)
    assert not (tmp_path / "quiet" / "tensorboard").exists()


def test_training_leaves_the_callers_generator_alone(run, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(tmp_path, steps=1)
    assert torch.equal(torch.rand(3), expected)


# --- kills


class Killed(BaseException):
    pass


@pytest.mark.parametrize("killed_in", [1, 4])
def test_a_killed_run_goes_on_to_the_same_bits(killed_in, run, unbroken, tmp_path, monkeypatch):
    step = stage2._Run.step

    def die(self, number):
        if number == killed_in:
            self.training.draw(3, 2, self.generator)  # whatever was drawn since the checkpoint must not matter
            raise Killed
        step(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(stage2._Run, "step", die)
        with pytest.raises(Killed):
            run(tmp_path)
    assert equal(unbroken[1], weights(*run(tmp_path)))
    for file in ("aligner/model.safetensors", "lora/pytorch_lora_weights.safetensors", "history.csv", "monitors.csv"):
        assert (unbroken[0] / file).read_bytes() == (tmp_path / file).read_bytes(), file


def test_sigterm_saves_after_the_step_under_way_and_is_passed_on(run, unbroken, tmp_path, capsys):
    with asked_to_stop(stage2._Run, at=3) as passed_on:  # a checkpoint is due after 2 and 4
        run(tmp_path)
    assert passed_on == [True]
    assert "saved after step 3, run it again" in capsys.readouterr().err
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]["step"] == 3
    assert equal(unbroken[1], weights(*run(tmp_path)))


TERMINATED = """
import os, signal
from v2f_core.training.stopping import until_terminated

with until_terminated() as asked:
    os.kill(os.getpid(), signal.SIGTERM)
    print("still here", asked(), flush=True)
print("never here")
"""


def test_sigterm_ends_a_process_as_ever():
    ended = subprocess.run([sys.executable, "-c", TERMINATED], capture_output=True, text=True)
    assert ended.stdout == "still here True\n"
    assert ended.returncode == -signal.SIGTERM


def test_outside_the_main_thread_a_signal_is_left_alone():
    def within():
        with until_terminated() as asked:
            return asked()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(within).result() is False


def test_a_finished_run_can_be_made_longer(run, unbroken, tmp_path):
    run(tmp_path, steps=3)
    assert equal(unbroken[1], weights(*run(tmp_path)))
    assert equal(unbroken[1], weights(*run(tmp_path)))  # and once more: there is nothing left to do
    with pytest.raises(InputError, match="trained for 4 steps already"):
        run(tmp_path, steps=3)


def test_another_training_in_the_same_folder_is_refused(run, tmp_path):
    run(tmp_path, steps=1)
    with pytest.raises(InputError, match=r"of another training \(settings.seed differs\)"):
        run(tmp_path, steps=2, seed=1)
    with pytest.raises(InputError, match=r"of another training \(voices differs\)"):
        run(tmp_path, {"voices": "cd34"}, steps=2)


def test_a_loss_that_is_not_finite_stops_with_step_term_and_persons_after_saving(run, unbroken, tmp_path, monkeypatch):
    call = SelfConsistency.__call__

    def burst(self, identity, faces, generator, share=(0, 1)):
        terms = call(self, identity, faces, generator, share)
        return terms._replace(loss=terms.loss * torch.nan) if identity.requires_grad and len(drawn) == 4 else terms

    draw, drawn = FacePairs.draw, []

    def keep(self, batch, windows, generator):
        drawn.append(draw(self, batch, windows, generator))
        return drawn[-1]

    with monkeypatch.context() as patch:
        patch.setattr(SelfConsistency, "__call__", burst)
        patch.setattr(FacePairs, "draw", keep)
        with pytest.raises(InputError, match=r"step 4: the loss term 'self' is not finite; saved") as stopped:
            run(tmp_path)
    assert ", ".join(f"P{i}" for i in drawn[3][1].tolist()) in str(stopped.value)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]["step"] == 3
    assert equal(unbroken[1], weights(*run(tmp_path)))


def test_a_gradient_that_is_not_finite_stops_before_it_is_used(run, tmp_path, monkeypatch):
    call = SelfConsistency.__call__

    def cliff(self, identity, faces, generator, share=(0, 1)):
        terms = call(self, identity, faces, generator, share)
        return terms._replace(loss=terms.loss + (0 * identity.sum()).sqrt())  # 0, with an infinite slope

    monkeypatch.setattr(SelfConsistency, "__call__", cliff)
    with pytest.raises(InputError, match="step 1: the gradient is not finite"):
        run(tmp_path)


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"weights": torch.ones(2)}, {})
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"checkpoint.pt: damaged"):
        load_checkpoint(path, {})


@pytest.mark.parametrize("other", ["a list", "an object", "another training's state"])
def test_what_is_no_checkpoint_of_this_training_is_refused_in_one_line(other, run, tmp_path):
    """Also where settings and inputs are told alike, or not at all, and persons are others."""
    run(tmp_path, steps=1)
    path = tmp_path / "checkpoint.pt"
    saved = torch.load(path, weights_only=True)
    if other == "another training's state":
        saved["state"]["loss"]["am_softmax.weight"] = torch.zeros(9, 512)
        expected = r"checkpoint.pt: of another model, or of other persons \(loss does not fit\); choose another folder"
    else:
        saved = [1, 2] if other == "a list" else torch.nn.Linear(2, 2)
        expected = "checkpoint.pt: no checkpoint of a training; choose another folder"
    torch.save(saved, path)
    with pytest.raises(InputError, match=expected) as refused:
        run(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("part", ["z_arc", "latents"])
@pytest.mark.parametrize("which", [0, 1], ids=["training", "validation"])
def test_what_no_loss_can_take_is_named_before_the_first_step(which, part, tiny_profile, tmp_path):
    pairs = [people(7, seed=1), people(5, seed=2)]
    rows = pairs[which].wide.face.clone()
    rows[7] = rows[7].index_fill(0, torch.arange(512), 0.0) if part == "z_arc" else torch.nan
    pairs[which] = FacePairs(replace(pairs[which].wide, face=rows), SHAPE)
    aligner, prior = Aligner.from_pretrained(tiny_profile.aligner), Prior.from_folder(tiny_profile.prior)
    with pytest.raises(InputError, match="P3: an embedding of the face is zero, infinite or NaN"):
        stage2.train_stage2(aligner, prior, Recogniser(), *pairs, Stage2Settings(**QUICK), tmp_path, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch": 0},
        {"batch": 1, "consistency": ConsistencySettings(z_t_from="other")},
        {"weight_self": -1.0},
        {"weight_self": float("nan")},
        {"clip": 0.0},
        {"clip": float("nan")},
        {"learning_rate": -1e-6},
        {"learning_rate_lora": float("nan")},
        {"weight_decay": -0.1},
        {"mixed_precision": "fp8"},
        {"monitor_bands": 3, "consistency": ConsistencySettings(t_min=8, t_max=9)},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        replace(Stage2Settings(), **wrong)


# --- latents


class OneFace(FacePack):
    """Finds a face in every picture that is not black, a quarter of the way from the corner."""

    def __init__(self):
        pass

    def detect(self, image):
        height, width = image.shape[:2]
        points = np.array([[width / 4, height / 2]] * 5, np.float32) + np.arange(5, dtype=np.float32)[:, None]
        return [Face(np.zeros(4, np.float32), points, 1.0)] if image.any() else []


def test_latents_are_the_encoded_picture_and_landmarks_scale_with_it(tiny_profile, tmp_path):
    from PIL import Image

    prior = Prior.from_folder(tiny_profile.prior)
    pixels = np.random.default_rng(0).integers(1, 255, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "same.png")
    Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    wide = np.zeros((32, 40, 3), np.uint8)
    wide[:, 4:36] = pixels
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(np.zeros_like(pixels)).save(tmp_path / "black.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    names = ("same", "broken", "large", "black", "wide")
    same, broken, large, black, wide = latent_embedder(prior, OneFace())([tmp_path / f"{name}.png" for name in names])
    expected = prior.encode(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1)
    torch.testing.assert_close(same[0, :64].view(SHAPE), expected[0].detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(wide, same)  # what is not square is cut at both sides
    assert same[0, 64:66].tolist() == [8, 16]
    assert large[0, 64:66].tolist() == [8, 16]
    assert large[0, 66:68].tolist() == [8.5, 16.5]
    assert "broken.png: cannot be read" in str(broken)
    assert "black.png: no face found" in str(black)


def test_every_drawn_face_has_its_own_latents_landmarks_and_sex():
    rows = []
    for i, person in enumerate(("Ada", "Ben", "Cy")):
        sex = "f" if person == "Ada" else "m"
        rows += [(person, sex, "train", "voice", "", f"{i}.wav")]
        rows += [(person, sex, "train", "face", "", f"{i}{k}.png") for k in range(2)]
    manifest = Manifest(Path("data"), pd.DataFrame(rows, columns=list(COLUMNS)))
    voices = Embeddings(torch.eye(3), [f"{i}.wav" for i in range(3)], [], {})
    items = [f"{i}{k}.png" for i in range(3) for k in range(2)]
    z = torch.eye(512)[:6]
    faces = Embeddings(z.flip(0), items[::-1], [], {})
    code = torch.arange(1.0, 7)[:, None].expand(-1, 74)
    latents = Embeddings(code[[2, 0, 1, 3, 5]], [items[i] for i in (2, 0, 1, 3, 5)], [("20.png", "no face")], {})
    pairs = pair_faces(manifest, voices, faces, latents, "train", SHAPE)
    assert len(pairs.pairs.face) == 5
    seen = set()
    for seed in range(20):
        voice, label, batch = pairs.draw(3, 1, torch.Generator().manual_seed(seed))
        assert torch.equal(voice.argmax(1), label)
        photo = batch.z_arc.argmax(1)
        assert torch.equal(photo // 2, label)
        assert torch.equal(batch.latents, (photo + 1.0).view(-1, 1, 1, 1).expand(-1, *SHAPE))
        assert torch.equal(batch.landmarks, (photo + 1.0).view(-1, 1, 1).expand(-1, 5, 2))
        assert torch.equal(batch.women, label == 0)
        seen |= set(photo.tolist())
    assert seen == {0, 1, 2, 3, 5}
    voice, batch = pairs.first(2)
    assert batch.z_arc.argmax(1).tolist() == [0, 2]
    assert voice.argmax(1).tolist() == [0, 1]


# --- the command


@pytest.mark.parametrize(
    ("options", "message"), [(["--profile", "huge"], "huge: no such profile"), (["--mode", "x"], "x")]
)
def test_the_command_refuses_what_it_does_not_know(options, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        cli.main(["stage2", *options])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
