"""Table 4's "w/o ArcFace": speech straight into the condition."""

import pytest
import torch

from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError
from v2f_core.studies.direct_speech import SpeechCondition, train_speech_condition
from v2f_core.training.latents import FacePairs
from v2f_core.training.pairs import Pairs


@pytest.fixture(scope="module")
def prior(tiny_profile):
    return Prior.from_folder(tiny_profile.prior).requires_grad_(False)


def two_persons(shape):
    """Two persons whose voices are orthogonal and whose faces' latents are opposite."""
    latents = torch.stack([torch.full(shape, 1.5), torch.full(shape, -1.5)]).flatten(1)
    face = torch.cat([torch.eye(512)[:2], latents, torch.zeros(2, 10)], dim=1)
    start = torch.arange(3)
    return FacePairs(Pairs(["A", "B"], ["f", "m"], torch.eye(3)[:2], start, face, start), shape)


def test_speech_in_place_of_an_identity_starts_at_null_learns_and_is_kept(prior, tmp_path):
    net = SpeechCondition(3, prior.null(1), 8).eval()
    torch.testing.assert_close(net(torch.randn(2, 3)), prior.null(2))
    persons, path = two_persons(prior.latent_shape), tmp_path / "net.pt"
    trained = train_speech_condition(prior, persons, path, steps=8, batch=4)
    with torch.no_grad():
        one, other = trained(torch.eye(3)[:2])
    assert not torch.allclose(one, other)
    assert not any(p.grad is not None for p in prior.parameters())
    written = path.stat().st_mtime_ns
    again = train_speech_condition(prior, persons, path, steps=8, batch=4)
    with torch.no_grad():
        torch.testing.assert_close(again(torch.eye(3)[:1])[0], one)
    assert path.stat().st_mtime_ns == written, "the stored net was trained anew"
    with pytest.raises(InputError, match="seed differs"):
        train_speech_condition(prior, persons, path, steps=8, batch=4, seed=1)
