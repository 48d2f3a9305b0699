"""Checkpoints: a killed training continues as if nothing had happened, and files that do not fit are refused."""

import pandas as pd
import pytest
import torch
from torch import nn

from v2f_core.artefacts.checkpoints import (
    History,
    load_checkpoint,
    resume_training,
    save_checkpoint,
    save_training,
)
from v2f_core.errors import InputError
from v2f_core.training.guards import at_step, check_finite, seeded


def a_training(seed):
    """A net with dropout, its optimiser, and a function that takes one step on drawn numbers."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    optimiser, generator = torch.optim.AdamW(net.parameters(), lr=0.1), torch.Generator().manual_seed(seed)

    def step():
        optimiser.zero_grad()
        net(torch.randn(3, 4, generator=generator)).square().sum().backward()
        optimiser.step()

    return {"net": net, "optimiser": optimiser}, generator, step


def test_a_resumed_training_takes_the_steps_of_an_unbroken_one(tmp_path):
    path, made_from = tmp_path / "checkpoint.pt", {"seed": 0, "settings": {"rate": 0.1}}
    with seeded(0, "cpu"):
        parts, generator, step = a_training(0)
        for _ in range(2):
            step()
        save_training(path, 2, parts, generator, made_from)
        for _ in range(2):
            step()
    other, generator, step = a_training(1)
    assert resume_training(tmp_path / "none.pt", other, generator, made_from) == 0
    with seeded(7, "cpu"):
        assert resume_training(path, other, generator, made_from) == 2
        for _ in range(2):
            step()
    assert all(torch.equal(p, q) for p, q in zip(parts["net"].parameters(), other["net"].parameters(), strict=True))


def test_a_checkpoint_of_other_settings_or_another_model_is_refused_by_name(tmp_path):
    save_checkpoint(tmp_path / "c.pt", {"step": 1}, {"settings": {"seed": 0, "rate": 0.1}, "voices": "ab"})
    with pytest.raises(InputError, match=r"c\.pt: of another training \(settings\.seed, voices differs\)"):
        load_checkpoint(tmp_path / "c.pt", {"settings": {"seed": 1, "rate": 0.1}, "voices": "cd"})

    parts, generator, _ = a_training(0)
    save_training(tmp_path / "d.pt", 1, parts, generator, {})
    with pytest.raises(InputError, match="cannot be read as a checkpoint of this model"):
        resume_training(tmp_path / "d.pt", {"net": nn.Linear(5, 5)}, generator, {})


def test_a_damaged_file_is_named(tmp_path):
    save_checkpoint(tmp_path / "cut.pt", {"weight": torch.ones(1000)}, {})
    whole = (tmp_path / "cut.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.pt: cannot be read as a checkpoint .*delete it to begin anew"):
        load_checkpoint(tmp_path / "cut.pt", {})


def test_seeds_are_local_to_their_block():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with seeded(0, "cpu"):
        first = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with seeded(0, "cpu"):
        assert torch.equal(torch.rand(2), first)


def test_a_history_has_the_mean_of_each_loss_between_rows_also_after_a_kill(tmp_path):
    history = History()
    history.count({"total": torch.tensor(1.0)})
    resumed = History()
    resumed.load_state_dict(history.state_dict())
    resumed.count({"total": torch.tensor(2.0)})
    resumed.append({"step": 2, **resumed.means()})
    resumed.count({"total": torch.tensor(5.0)})
    resumed.append({"step": 3, **resumed.means()})
    resumed.write(tmp_path / "history.csv")
    assert pd.read_csv(tmp_path / "history.csv").to_dict("list") == {"step": [2, 3], "train_total": [1.5, 5.0]}


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite_is_refused_with_step_and_persons(bad):
    refused = pytest.raises(InputError, match=r"step 3: the info_nce is not finite; the batch was Ada, Bea;")
    with refused, at_step(3, ["Ada", "Bea"]):
        check_finite({"total": torch.tensor(1.0), "info_nce": torch.tensor(bad)})
