"""Stage II takes the steps of Eq. 15, refuses numbers that are not finite, and continues after a kill unchanged."""

import json
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch
from fakes import Recogniser, people, seeded

from v2f_core.diffusion.consistency import SelfConsistency, denoise, paper
from v2f_core.diffusion.lora import add_lora, load_lora, lora_parameters
from v2f_core.diffusion.monitors import collapse_monitors
from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.losses import AMSoftmax, IdentityLoss, InfoNCE
from v2f_core.training.stage1 import Stage1Settings
from v2f_core.training.stage2 import Stage2Settings, train_stage2

QUICK = {
    "steps": 4, "batch": 3, "learning_rate": 1e-3, "learning_rate_lora": 1e-2, "rank": 2, "alpha": 3.0, "warmup": 2,
    "evaluate_every": 4, "checkpoint_every": 2, "monitored": 2, "monitor_bands": 1,
    "identity": Stage1Settings(windows=2, weight_cosine=1.0),
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tiny_profile):
    """Train from the same start each time; gives the aligner and the prior."""
    begun = Aligner.from_pretrained(tiny_profile.aligner), Prior.from_folder(tiny_profile.prior)

    def go(folder, validation=None, critic=denoise, **changes):
        (aligner, prior), settings = deepcopy(begun), Stage2Settings(**{**QUICK, **changes})
        world = people(7, seed=1), validation or people(5, seed=2)
        made = {"voices": "ab12"}
        return train_stage2(aligner, prior, Recogniser(), *world, settings, folder, made, critic=critic), prior

    return go


@pytest.fixture(scope="module")
def unbroken(run, tmp_path_factory):
    """The folder and the weights of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, weights(*run(folder))


def weights(aligner, prior):
    return {**aligner.state_dict(), **{name: p.detach().clone() for name, p in lora_parameters(prior).items()}}


def equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in a.keys() | b.keys())


def at_step(number, act):
    """`denoise`, changed in one step; evaluations, which have no gradient, are not counted."""
    steps = []

    def critic(view, identity, faces):
        steps.append(identity.requires_grad)
        loss = denoise(view, identity, faces)
        return act(loss, identity) if identity.requires_grad and sum(steps) == number else loss

    critic.__name__ = "denoise"  # so that a checkpoint takes it for the same
    return critic


# --- what is trained


def test_two_steps_by_hand(run, tiny_profile, tmp_path):
    """Eq. 15 with λ_self rising over the warm-up, one clipped AdamW step each."""
    found = weights(*run(tmp_path, steps=2, weight_id=0.7, weight_self=3.0, warmup=4, clip=0.5))
    aligner, prior = Aligner.from_pretrained(tiny_profile.aligner), Prior.from_folder(tiny_profile.prior)
    world, g = people(7, seed=1), seeded()
    add_lora(prior, 2, 3.0, g)
    consistency = SelfConsistency(prior, Recogniser(), denoise)
    margin = AMSoftmax(7, 512)
    with torch.no_grad():
        margin.weight.copy_(aligner(world.wide.pooled_voices()))
    loss = IdentityLoss(margin, InfoNCE(), weight_cosine=1.0)
    own, lora = [*aligner.parameters(), *loss.parameters()], list(lora_parameters(prior).values())
    optimiser = torch.optim.AdamW([{"params": own, "lr": 1e-3}, {"params": lora, "lr": 1e-2}], weight_decay=0.01)
    aligner.train()
    torch.manual_seed(0)
    for step in (1, 2):
        voice, label, faces = world.draw(3, 2, g)
        identity = aligner(voice)
        l_id, l_self = loss(identity, faces.z_arc, label).total, consistency(identity, faces, g).loss
        optimiser.zero_grad()
        (0.7 * l_id + 3.0 * step / 4 * l_self).backward()
        norm = sum(p.grad.square().sum() for p in own + lora) ** 0.5
        for parameter in own + lora:
            parameter.grad *= min(1.0, 0.5 / (float(norm) + 1e-6))
        optimiser.step()
    for name, value in weights(aligner, prior).items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)


def test_the_base_stays_bit_for_bit_and_savings_of_memory_change_no_step(run, unbroken, tiny_profile, tmp_path):
    """Gradient checkpointing is exact, evaluating draws nothing; bf16 leaves the weights in float32."""
    aligner, prior = run(tmp_path / "saving", gradient_checkpointing=True, evaluate_every=2)
    base = dict(Prior.from_folder(tiny_profile.prior).named_parameters())
    for name, parameter in prior.named_parameters():
        assert "lora_" in name or torch.equal(parameter, base[name.replace(".base_layer", "")]), name
    for name, value in weights(aligner, prior).items():
        torch.testing.assert_close(unbroken[1][name], value, atol=1e-5, rtol=1e-3)
    half = weights(*run(tmp_path / "half", steps=1, mixed_precision="bf16", critic=paper))
    assert all(value.isfinite().all() and value.dtype == torch.float32 for value in half.values())


def test_l_self_trains_what_it_is_told_to(run, tiny_profile, tmp_path):
    """With λ_id = 0 and no weight decay, what L_self does not reach stays where it began."""
    begun, prior = Aligner.from_pretrained(tiny_profile.aligner), Prior.from_folder(tiny_profile.prior)
    add_lora(prior, 2, 3.0, seeded())
    settings = {"steps": 1, "weight_id": 0.0, "warmup": 0, "clip": 1e9, "weight_decay": 0.0}
    for trains, weight, moved in (
        ("aligner", 9.0, (True, False)),
        ("lora", 1.0, (False, True)),
        ("both", 0.0, (False, False)),
    ):
        aligner, adapted = run(tmp_path / f"{trains}{weight}", trains=trains, weight_self=weight, **settings)
        pairs = ((aligner.state_dict(), begun.state_dict()), (lora_parameters(adapted), lora_parameters(prior)))
        assert tuple(not equal(*pair) for pair in pairs) == moved, trains


# --- files


def test_the_folder_tells_everything_and_loads_anywhere(unbroken, tiny_profile):
    folder, trained = unbroken
    made = json.loads((folder / "provenance.json").read_text())
    assert (made["voices"], made["step"], made["critic"]) == ("ab12", 4, "denoise")
    history, monitors = pd.read_csv(folder / "history.csv"), pd.read_csv(folder / "monitors.csv")
    assert history.step.tolist() == monitors.step.tolist() == [0, 4]
    assert monitors.s_net[0] == 1
    assert np.isfinite(monitors.to_numpy()).all()
    assert np.isfinite(history[1:].to_numpy()).all()
    assert {"train_total", "train_self", "train_gradient", "val_total"} <= set(history)
    aligner, prior = Aligner.from_pretrained(folder / "aligner"), Prior.from_folder(tiny_profile.prior)
    load_lora(prior, folder / "lora")
    loaded = weights(aligner, prior)
    for name, value in trained.items():
        assert torch.equal(loaded[name], value if "lora_" in name else value.half().float()), name


def test_monitors_see_the_first_persons_without_dropout_under_the_same_noise_each_time(run, tiny_profile, tmp_path):
    """Without L_self the adapters stay, and so does what does not depend on ẑ."""
    run(tmp_path, steps=1, weight_self=0.0, monitor_bands=2)
    history = pd.read_csv(tmp_path / "history.csv")
    first, last = (rows.reset_index(drop=True) for _, rows in pd.read_csv(tmp_path / "monitors.csv").groupby("step"))
    assert first.residual_true.tolist() == last.residual_true.tolist()
    assert first.residual.tolist() != last.residual.tolist()
    aligner, prior = Aligner.from_pretrained(tiny_profile.aligner), Prior.from_folder(tiny_profile.prior)
    add_lora(prior, 2, 3.0)
    g, bands = seeded(), [(20, 499), (500, 979)]
    voice, faces = people(5, seed=2).first(2)
    with torch.no_grad():
        identity = aligner(voice)
        for i, row in enumerate(collapse_monitors(prior, Recogniser(), identity, faces, bands, g)):
            assert {name: first[name][i] for name in row} == pytest.approx(row, rel=1e-4, abs=1e-5)
        for i, (t_min, t_max) in enumerate(bands):
            banded = SelfConsistency(prior, Recogniser(), denoise, t_min=t_min, t_max=t_max)
            assert first["self"][i] == pytest.approx(float(banded(identity, faces, g).loss), rel=1e-4)
    assert history.val_self[0] == pytest.approx(first["self"].mean(), rel=1e-4)


# --- interruptions


def test_what_is_not_finite_stops_with_step_term_and_persons_and_the_run_continues_to_the_same_bits(
    run, unbroken, tmp_path
):
    """From the checkpoint of step 2: nothing of the broken step is kept."""

    def spoil(loss, identity):
        torch.rand(3)  # whatever was drawn since the checkpoint must not matter
        return loss * torch.nan

    with pytest.raises(InputError, match=r"step 4: the self is not finite; the batch was P\d, P\d, P\d"):
        run(tmp_path, critic=at_step(4, spoil))
    assert equal(unbroken[1], weights(*run(tmp_path)))
    for file in ("aligner/model.safetensors", "lora/pytorch_lora_weights.safetensors", "history.csv", "monitors.csv"):
        assert (unbroken[0] / file).read_bytes() == (tmp_path / file).read_bytes(), file
    cliff = at_step(1, lambda loss, identity: loss + (0 * identity.sum()).sqrt())  # 0, with an infinite slope
    with pytest.raises(InputError, match="step 1: the gradient is not finite"):
        run(tmp_path / "cliff", critic=cliff)


def test_a_finished_run_can_be_made_longer_by_the_same_training_alone(run, unbroken, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(tmp_path, steps=3)
    assert torch.equal(torch.rand(3), expected)
    assert equal(unbroken[1], weights(*run(tmp_path)))
    with pytest.raises(InputError, match="trained for 4 steps already"):
        run(tmp_path, steps=3)
    for changes, named in (({"seed": 1}, "settings.seed"), ({"critic": paper}, "critic")):
        with pytest.raises(InputError, match=rf"of another training \({named} differs\)"):
            run(tmp_path, **changes)


def test_a_face_that_no_loss_can_take_is_named_before_the_first_step(run, tmp_path):
    validation = people(5, seed=2)
    validation.wide.face[7] = torch.nan
    with pytest.raises(InputError, match="P3: an embedding of the face is zero, infinite or NaN"):
        run(tmp_path, validation=validation)
    assert list(tmp_path.iterdir()) == []


def test_settings_out_of_range_are_refused():
    for name, value in {"batch": 0, "weight_id": float("nan"), "clip": 0.0, "trains": "x"}.items():
        with pytest.raises(InputError, match=name):
            Stage2Settings(**{name: value})
