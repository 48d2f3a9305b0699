"""How the miniature speech encoders are trained: the encoders' own features, honest labels, exact resumption."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from minivox.build import speech_features as sf
from minivox.build.checkpoint import Checkpoint
from minivox.build.speech_models import RECIPES, TRAITS, Pool, measure, targets, train
from minivox.world import VOICE_UNITS, population
from v2f_core.speech.encoders import ASTEncoder, ECAPAEncoder, SpeechEncoder

pytestmark = pytest.mark.slow


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise_pool(persons: int = 3, seconds: float = 1.5) -> Pool:
    g = np.random.default_rng(0)
    waves = [(3000 * g.standard_normal(int(16_000 * seconds))).astype(np.int16) for _ in range(2 * persons)]
    return Pool(waves, np.repeat(np.arange(persons), 2), population("voices", persons))


def test_training_hears_what_the_encoders_hear() -> None:
    """The nets are trained on spectrograms cut from whole recordings; used on clips. Both must be the same."""
    from transformers import ASTFeatureExtractor

    wave = 0.1 * torch.randn(1, 20_000, generator=generator())
    net = RECIPES["ast"].new()
    encoder = ASTEncoder(net, ASTFeatureExtractor(max_length=128))
    torch.testing.assert_close(sf.to_ast(sf.ast_filter_bank()(wave)), encoder.features(wave))

    net = RECIPES["ecapa"].new()
    encoder = ECAPAEncoder(net)
    with torch.no_grad():
        mine = RECIPES["ecapa"].embed(net, sf.ecapa_filter_bank()(wave))
    torch.testing.assert_close(mine, encoder.embed(wave), atol=1e-4, rtol=1e-4)


def test_targets_are_z_scores_within_sex() -> None:
    labels = targets(population("a test", 4_000)).numpy()
    women, men = labels[::2], labels[1::2]
    assert (women[:, -1] == 0).all()
    assert (men[:, -1] == 1).all()
    for half in (women, men):
        np.testing.assert_allclose(half[:, :-1].mean(0), 0, atol=0.1)
        np.testing.assert_allclose(half[:, :-1].std(0), 1, atol=0.1)


def test_a_faster_recording_is_higher_and_from_a_shorter_tract() -> None:
    persons = population("a test", 2)
    same, fast = targets(persons), targets(persons, 2.0)
    for p, a, b in zip(persons, same, fast, strict=True):
        assert (b[0] - a[0]).item() == pytest.approx(12 / VOICE_UNITS[p.sex]["f0"][1], rel=1e-4)  # an octave
        assert (b[1] - a[1]).item() == pytest.approx(-p.voice.vtl / 2 / VOICE_UNITS[p.sex]["vtl"][1], rel=1e-4)
        assert torch.equal(b[[2, 4, 5, 6]], a[[2, 4, 5, 6]])


@pytest.mark.parametrize("name", RECIPES)
def test_a_resumed_training_ends_where_an_unbroken_one_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, pool = RECIPES[name]._replace(steps=4, batch=4), noise_pool()
    unbroken = train(name, recipe, pool, tmp_path / "unbroken")

    class KilledError(Exception):
        pass

    steps = iter(range(2))

    def dies(*arguments: object) -> torch.Tensor:
        if next(steps, None) is None:
            raise KilledError
        return recipe.embed(*arguments)

    monkeypatch.setattr("minivox.build.speech_models.Checkpoint", partial(Checkpoint, seconds=0.0))
    with pytest.raises(KilledError):
        train(name, recipe._replace(embed=dies), pool, tmp_path / "killed")
    resumed = train(name, recipe, pool, tmp_path / "killed")
    for key, value in unbroken[0].state_dict().items():
        torch.testing.assert_close(resumed[0].state_dict()[key], value, msg=key)
    assert unbroken[1].weight.shape == (9, recipe.dim)  # three persons at three speeds
    assert len(TRAITS) == 7


# ---- measuring ----


class Oracle(SpeechEncoder):
    """Hears a person's number, which is written into the samples, and answers with the body behind it."""

    dim = 14

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        truth = targets(pool.persons)
        self.rows = torch.cat([truth, torch.randn(truth.shape, generator=generator())], 1)

    def forward(self, waves: torch.Tensor) -> torch.Tensor:
        return self.rows[(waves[:, 0] * 32_768).round().long()]


def numbered_pool(persons: int) -> Pool:
    person = np.repeat(np.arange(persons), 2)
    return Pool([np.full(20_000, i, np.int16) for i in person], person, population("a test", persons))


def test_what_is_in_the_embedding_is_found_and_nothing_else() -> None:
    pool = numbered_pool(60)
    found = measure(Oracle(pool), pool, pool)
    assert found["equal_error_rate"] == {"all": 0.0, "women": 0.0, "men": 0.0}
    assert found["sex_accuracy"] == 1.0
    assert min(found["r2_within_sex"].values()) > 0.95
    assert list(found["r2_within_sex"]) == list(TRAITS[:-1])

    deaf = Oracle(pool)
    deaf.rows = torch.randn(deaf.rows.shape, generator=generator(1))
    found = measure(deaf, pool, pool)
    assert max(found["r2_within_sex"].values()) < 0.2
