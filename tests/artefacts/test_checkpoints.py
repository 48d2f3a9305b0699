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


def test_a_checkpoint_of_other_settings_or_another_model_is_refused_by_name(tmp_path):
    save_checkpoint(tmp_path / "c.pt", {"step": 1}, {"settings": {"seed": 0, "rate": 0.1}, "voices": "ab"})
    with pytest.raises(InputError, match=r"c\.pt: of another training \(settings\.seed, voices differs\)"):
        load_checkpoint(tmp_path / "c.pt", {"settings": {"seed": 1, "rate": 0.1}, "voices": "cd"})

    generator = torch.Generator()
    save_training(tmp_path / "d.pt", 1, {"net": nn.Linear(4, 4)}, generator, {})
    with pytest.raises(InputError, match="cannot be read as a checkpoint of this model"):
        resume_training(tmp_path / "d.pt", {"net": nn.Linear(5, 5)}, generator, {})


def test_a_damaged_file_is_named(tmp_path):
    save_checkpoint(tmp_path / "cut.pt", {"weight": torch.ones(1000)}, {})
    whole = (tmp_path / "cut.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.pt: cannot be read as a checkpoint .*delete it to begin anew"):
        load_checkpoint(tmp_path / "cut.pt", {})


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
