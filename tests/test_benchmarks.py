"""The programs that measure: that they run, and that what they measure has the published size."""

import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from v2f_core.diffusion.consistency_settings import CHOICES
from v2f_core.errors import InputError
from v2f_core.origins import ORIGINS


@pytest.fixture
def programs(monkeypatch):
    """The folder of the benchmarks on the path, as it is for a program in it; no GPU."""
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    yield
    for name in ("gpu", "random_nets", "positions"):
        sys.modules.pop(name, None)


def test_every_line_of_the_gpu_table_is_measured_at_miniature_size(programs, tmp_path):
    from gpu import main

    main(["--tiny", "--out", str(tmp_path)])
    table = pd.read_csv(tmp_path / "gpu_tiny.csv", keep_default_na=False)
    assert table.groupby("what", sort=False).size().to_dict() == {
        "AST, clips of 1.25 s": 2,
        "VAE, latents": 2,
        "Stage I": 1,
        "Stage II": len(CHOICES["mode"]) + 1,
        "generation": 2,
    }
    assert table.how[table.what == "Stage II"].tolist()[-1] == "bf16, paper, gradient checkpointing"
    assert (table.rate > 0).all()
    assert (table.note == "").all()


def test_the_full_size_is_not_tried_without_a_gpu(programs, tmp_path):
    from gpu import main

    with pytest.raises(InputError, match="no CUDA device"):
        main(["--out", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_into_memory_is_a_line_of_the_table(programs):
    from gpu import row
    from random_nets import TINY

    def too_large():
        raise torch.OutOfMemoryError

    found = row("Stage II", "bf16", 64, "steps/s", TINY, "cpu", too_large)
    assert found["note"] == "out of memory"
    assert found["rate"] is None


def test_random_nets_weigh_what_the_published_files_weigh(programs):
    from random_nets import FULL, IResNet, random_prior

    def published(part, ending):
        return sum(f.megabytes for o in ORIGINS[part] for target, f in o.files.items() if target.endswith(ending))

    prior = random_prior(FULL, "meta")
    assert prior.latent_shape == (4, 64, 64)
    with torch.device("meta"):
        arcface = IResNet(FULL.arcface)
    for net, megabytes in {
        prior.unet: published("prior", "unet/diffusion_pytorch_model.safetensors"),
        prior.vae: published("prior", "vae/diffusion_pytorch_model.safetensors"),
        prior.text_encoder: published("prior", "text_encoder/model.safetensors"),
        arcface: published("faces", "arcface.onnx"),
    }.items():
        assert sum(p.numel() * 4 for p in net.state_dict().values()) / 1e6 == pytest.approx(megabytes, rel=0.01)


def test_a_random_arcface_gives_identities(programs):
    from random_nets import IResNet

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


def test_pairs_of_clips_come_from_two_recordings_of_each_test_person(programs):
    from positions import LENGTHS, clip_pairs

    first, second = clip_pairs(LENGTHS[32])
    assert first.shape == second.shape == (200, 5000)
    assert not (first == second).all(1).any()
