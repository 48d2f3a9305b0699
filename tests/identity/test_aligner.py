"""g_φ: its shape is the paper's, its output a unit identity, its folder whole and honest."""

import json

import pytest
import torch
from torch import nn

from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.sphere import check_unit


@pytest.fixture
def aligner():
    torch.manual_seed(0)
    return Aligner(speaker_width=24, hidden_width=32).eval()


def test_the_default_is_the_paper_s():
    paper = Aligner()
    linear = [layer for layer in paper.modules() if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(768, 1024), (1024, 1024), (1024, 512)]
    kinds = [type(layer) for layer in paper.net]
    assert kinds == 2 * [nn.Linear, nn.LayerNorm, nn.SiLU, nn.Dropout] + [nn.Linear]
    assert {layer.p for layer in paper.modules() if isinstance(layer, nn.Dropout)} == {0.1}


@pytest.mark.parametrize("shape", [(24,), (1, 24), (5, 24), (2, 3, 24)])
def test_identities_are_unit_float32_for_any_batch_and_any_size(aligner, shape):
    x = torch.randn(shape)
    for size in (1e-4, 1.0, 1e4):
        identity = aligner(size * x)
        assert identity.shape == (*shape[:-1], 512)
        assert identity.dtype == torch.float32
        check_unit(identity)
    with pytest.raises(InputError, match="width 192"):
        aligner(torch.randn(*shape[:-1], 192))


def test_rows_are_independent_and_dropout_acts_in_training_only(aligner):
    x = torch.randn(6, 24)
    torch.testing.assert_close(aligner(x)[4], aligner(x[4]))
    assert torch.equal(aligner(x), aligner(x))
    aligner.train()
    assert not torch.equal(aligner(x), aligner(x))
    aligner(x)[:, 0].sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in aligner.parameters())


def test_a_saved_aligner_comes_back_the_same(aligner, tmp_path):
    x = torch.randn(5, 24)
    aligner.save_pretrained(tmp_path, {"seed": 7, "inputs": {"manifest": "ab12"}})
    back = Aligner.from_pretrained(tmp_path)
    assert not back.training
    # weights are rounded to float16 on disk
    torch.testing.assert_close(back(x), aligner(x), atol=2e-3, rtol=0)
    config = json.loads((tmp_path / "config.json").read_text())["provenance"]
    assert (config["seed"], config["inputs"]) == (7, {"manifest": "ab12"})
    assert config["versions"]["torch"] == torch.__version__.split("+")[0]
    back.save_pretrained(tmp_path / "again")
    assert torch.equal(Aligner.from_pretrained(tmp_path / "again")(x), back(x))
    files = [folder / "model.safetensors" for folder in (tmp_path, tmp_path / "again")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["config.json", "model.safetensors"]
