"""Checkpoints: a killed training continues as if nothing had happened, and files that do not fit are refused."""

import pandas as pd
import pytest
import torch
from torch import nn

from v2f_core.artefacts.checkpoints import History, resume_training, save_training
from v2f_core.errors import InputError


def test_a_checkpoint_of_other_settings_or_another_model_or_cut_off_is_refused_by_name(tmp_path):
    path, net, generator = tmp_path / "c.pt", nn.Linear(40, 40), torch.Generator()
    made_from = {"settings": {"seed": 0, "rate": 0.1}, "voices": "ab"}
    save_training(path, 1, {"net": net}, generator, made_from)
    with pytest.raises(InputError, match=r"c\.pt: of another training \(settings\.seed, voices differs\)"):
        resume_training(path, {"net": net}, generator, {"settings": {"seed": 1, "rate": 0.1}, "voices": "cd"})
    with pytest.raises(InputError, match="cannot be read as a checkpoint of this model"):
        resume_training(path, {"net": nn.Linear(5, 5)}, generator, made_from)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"c\.pt: cannot be read as a checkpoint .*delete it to begin anew"):
        resume_training(path, {"net": net}, generator, made_from)


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
