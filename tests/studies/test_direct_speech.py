"""Table 4's "w/o ArcFace": speech straight into the condition."""

import pytest
import torch

from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError
from v2f_core.studies.direct_speech import SpeechCondition, SpeechConditionSettings, train_speech_condition


@pytest.fixture(scope="module")
def prior(tiny_profile):
    return Prior.from_folder(tiny_profile.prior).requires_grad_(False)


class Latents:
    """Two kinds of voices whose faces' latents differ: all that FacePairs gives to a training."""

    def __init__(self, prior):
        shape = prior.latent_shape
        self.wide = type("Wide", (), {"voice": torch.zeros(2, 3)})
        self.codes = torch.stack([torch.full(shape, 1.5), torch.full(shape, -1.5)])

    def to(self, device):
        return self

    def draw(self, batch, windows, generator):
        kind = torch.randint(2, (batch,), generator=generator)
        voice = torch.nn.functional.one_hot(kind, 3).float()
        return voice, kind, type("Batch", (), {"latents": self.codes[kind]})


def test_speech_in_place_of_an_identity_starts_at_null_learns_and_is_kept(prior, tmp_path):
    net = SpeechCondition(3, prior.null(1), 8).eval()
    torch.testing.assert_close(net(torch.randn(2, 3)), prior.null(2))
    settings = SpeechConditionSettings(steps=8, batch=4, hidden_width=8)
    trained = train_speech_condition(prior, Latents(prior), settings, tmp_path / "net.pt", {"prior": "0"})
    with torch.no_grad():
        one, other = trained(torch.eye(3)[:2])
    assert not torch.allclose(one, other)
    assert not any(p.grad is not None for p in prior.parameters())
    again = train_speech_condition(prior, None_to(), settings, tmp_path / "net.pt", {"prior": "0"})
    with torch.no_grad():
        torch.testing.assert_close(again(torch.eye(3)[:1])[0], one)
    with pytest.raises(InputError, match="prior differs"):
        train_speech_condition(prior, None_to(), settings, tmp_path / "net.pt", {"prior": "1"})
    with pytest.raises(InputError):
        SpeechConditionSettings(steps=0)


class None_to:  # noqa: N801
    """Pairs that nobody may draw from: a stored net needs no training."""

    wide = type("Wide", (), {"voice": torch.zeros(2, 3)})

    def to(self, device):
        return self
