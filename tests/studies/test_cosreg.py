"""CosReg, beside which L_id is read: trained as the aligner was, but for the loss, wherever that aligner comes from."""

from dataclasses import asdict, replace

import pytest
import torch
from fakes import people

from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner
from v2f_core.studies.ablation import stored_cosreg, train_cosreg
from v2f_core.training.stage1 import Stage1Settings, train_stage1
from v2f_core.training.waveforms import WaveformSettings

SETTINGS = Stage1Settings(steps=2, batch=4, hidden_width=8, evaluate_every=1)


def told(provenance):
    aligner = Aligner(16, 8)
    aligner.provenance = provenance
    return aligner


def equal(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_it_is_stage_i_with_the_cosine_alone(tmp_path):
    world = people(7, seed=1).pairs, people(5, seed=2).pairs
    alone = replace(SETTINGS, weight_am=0.0, weight_info=0.0, weight_cosine=1.0)
    expected = train_stage1(*world, alone, tmp_path, {})
    assert equal(train_cosreg(*world, told({"settings": asdict(SETTINGS)})), expected)
    of_version_0_1 = told({"settings": {**asdict(SETTINGS), "two_sided": False, "weight_relational": 0.0}})
    assert equal(train_cosreg(*world, of_version_0_1), expected)
    from_waveforms = told({"settings": asdict(WaveformSettings(identity=SETTINGS))})
    assert equal(train_cosreg(*world, from_waveforms), expected)


def test_an_aligner_that_does_not_tell_how_it_was_trained_is_refused():
    world = people(7, seed=1).pairs, people(5, seed=2).pairs
    with pytest.raises(InputError, match=r"does not tell how it was trained.*python -m v2f_core stage1"):
        stored_cosreg(*world, told({"seed": 0}))
