"""Stage I learns what can be learned, the same way each time, and keeps its best."""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pytest
import torch

from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.losses import AMSoftmax, InfoNCE, cosine_regression
from v2f_core.identity.ridge import fit_ridge
from v2f_core.identity.sphere import normalise
from v2f_core.training.pairs import Pairs
from v2f_core.training.stage1 import Stage1Settings, identity_loss, train_stage1, validate

QUICK = Stage1Settings(steps=60, hidden_width=32, learning_rate=5e-3, evaluate_every=10, batch=64, checkpoint_every=15)


@dataclass(frozen=True)
class Spoilt(Pairs):
    """Pairs whose voices are NaN in the draw of one number."""

    number: int = 0
    draws: list = field(default_factory=list)  # the persons of each

    def draw(self, batch, windows, generator):
        voice, face, label = super().draw(batch, windows, generator)
        self.draws.append([self.persons[i] for i in label.tolist()])
        return voice * torch.nan if len(self.draws) == self.number else voice, face, label


def world(persons, seed, noise=0.3):
    """Voices and faces that share six hidden factors; the faces lie around a common mean. One map for all."""
    shared = np.random.default_rng(99)
    to_voice, to_face, mean = shared.normal(size=(6, 12)), shared.normal(size=(6, 24)), 2 * shared.normal(size=24)
    g = np.random.default_rng(seed)
    factors = g.normal(size=(persons, 6))
    voice = np.repeat(factors @ to_voice, 4, axis=0) + noise * g.normal(size=(4 * persons, 12))
    face = np.repeat(mean + factors @ to_face, 2, axis=0) + noise * g.normal(size=(2 * persons, 24))
    return Pairs(
        persons=[f"P{i}" for i in range(persons)],
        sexes=["f" if i % 2 else "m" for i in range(persons)],
        voice=torch.from_numpy(voice).float(),
        voice_start=torch.arange(0, 4 * persons + 1, 4),
        face=normalise(torch.from_numpy(face).float()),
        face_start=torch.arange(0, 2 * persons + 1, 2),
    )


TRAINING, VALIDATION, TEST = world(200, seed=0), world(40, seed=1), world(60, seed=2)


def train(folder, settings=QUICK, training=TRAINING, validation=VALIDATION):
    return train_stage1(training, validation, settings, folder, {})


# --- learning


def test_cosine_regression_beats_the_mean_face_on_new_persons_and_shuffled_voices_teach_nothing(tmp_path):
    settings, truth = replace(QUICK, weight_am=0.0, weight_info=0.0, weight_cosine=1.0), TEST.gallery()
    order = torch.randperm(len(TRAINING.voice), generator=torch.Generator().manual_seed(0))
    aligner = train(tmp_path / "right", settings)
    shuffled = train(tmp_path / "shuffled", settings, replace(TRAINING, voice=TRAINING.voice[order]))
    mean_face = float((truth @ normalise(TRAINING.face.mean(0))).mean())
    with torch.no_grad():
        found, chance = (float((one(TEST.pooled_voices()) * truth).sum(1).mean()) for one in (aligner, shuffled))
    assert chance < mean_face + 0.02
    assert found > mean_face + 0.1


def test_two_steps_by_hand(tmp_path):
    """L = λ·terms (Eq. 10), AdamW on φ and the class vectors, a rate that falls by a cosine; whose windows, by draw."""
    settings = Stage1Settings(
        steps=2, batch=8, hidden_width=16, learning_rate=1e-2, weight_decay=0.5, windows=3, evaluate_every=2, seed=5,
        weight_am=0.3, weight_info=0.5, weight_cosine=2.0,
    )  # fmt: skip
    trained = train(tmp_path, settings)
    torch.manual_seed(5)
    aligner, g = Aligner(12, 16, 24), torch.Generator().manual_seed(5)
    margin = AMSoftmax(200, 24, generator=torch.Generator().manual_seed(5))
    optimiser = torch.optim.AdamW([*aligner.parameters(), *margin.parameters()], lr=1e-2, weight_decay=0.5)
    for step in (0, 1):
        voice, face, label = TRAINING.draw(8, 3, g)
        identity = aligner(voice)
        total = 0.3 * margin(identity, label) + 0.5 * InfoNCE()(identity, face, label)
        total = total + 2 * cosine_regression(identity, face)
        optimiser.param_groups[0]["lr"] = 1e-2 * (1 + np.cos(np.pi * step / 2)) / 2
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    for name, value in aligner.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[name], value, atol=1e-4, rtol=1e-3)  # float16 on disk
    row = pd.read_csv(tmp_path / "history.csv").iloc[0]
    assert row.train_total == pytest.approx(total.item(), rel=1e-5)
    assert row.train_info_nce == pytest.approx(InfoNCE()(identity, face, label).item(), rel=1e-5)


def test_validation_by_hand():
    """Without dropout; the persons' centroids as class vectors; matching among faces of the same sex alone."""
    aligner = Aligner(12, 16, 24, dropout=0.5).train()
    scores = validate(aligner, VALIDATION, identity_loss(VALIDATION, Stage1Settings(), free=False))
    with torch.no_grad():
        z = aligner.eval()(VALIDATION.pooled_voices())
    persons, face = range(len(z)), VALIDATION.face.view(-1, 2, 24)
    won = [
        float(z[i] @ face[i, 0] > z[i] @ face[j, 0])
        for i in persons
        for j in persons
        if i != j and VALIDATION.sexes[i] == VALIDATION.sexes[j]
    ]
    assert scores["val_matching_same_sex"] == pytest.approx(np.mean(won))
    assert scores["val_cosine"] == pytest.approx(float(1 - (z * face[:, 0]).sum(1).mean()), abs=1e-6)
    margin = AMSoftmax(len(z), 24, centroids=normalise(face.mean(1)))
    assert scores["val_am_softmax"] == pytest.approx(float(margin(z, torch.arange(len(z)))), rel=1e-5)


def test_the_best_aligner_is_kept_not_the_last(tmp_path):
    settings = replace(QUICK, steps=200, batch=12, weight_cosine=1.0, dropout=0.0)
    aligner = train(tmp_path, settings, TRAINING.only(list(range(12))))  # twelve persons are learned by heart
    history = pd.read_csv(tmp_path / "history.csv")
    best = history.loc[history.val_total.idxmin()]
    assert best.step < 200
    assert aligner.provenance["step"] == best.step
    for name, value in validate(aligner, VALIDATION, identity_loss(VALIDATION, settings, free=False)).items():
        assert value == pytest.approx(best[name], abs=0.02), name  # float16 on disk


def test_few_validation_persons_leave_the_ridge_regression_that_training_starts_from(tmp_path, capsys):
    settings = replace(QUICK, linear_start=True, weight_am=0.0)
    ridge = fit_ridge(TRAINING.pooled_voices(), TRAINING.centroids())
    few = train(tmp_path, settings, validation=VALIDATION.only(list(range(19))))
    assert torch.allclose(few(TEST.pooled_voices()), normalise(ridge.ratio(TEST.pooled_voices())), atol=1e-6)
    assert pd.read_csv(tmp_path / "history.csv").step.tolist() == [0]
    assert capsys.readouterr().err == ""  # no bar of no steps


def test_where_a_line_is_not_enough_the_mlp_is_kept_and_patience_ends_the_training(tmp_path):
    """Faces follow the sign of products of what is heard: no line tells them."""

    def bent(pairs):
        v = pairs.pooled_voices()
        face = normalise(torch.stack([v[:, 0] * v[:, 1], v[:, 2] * v[:, 3], v[:, 4] * v[:, 5]], dim=1).sign() + 0.01)
        start = torch.arange(len(v) + 1)
        return replace(pairs, voice=v, voice_start=start, face=face, face_start=start)

    settings = Stage1Settings(
        steps=200, hidden_width=64, learning_rate=1e-2, linear_start=True, weight_am=0.0, temperature=0.5,
        evaluate_every=10, patience=3, dropout=0.0,
    )  # fmt: skip
    aligner = train(tmp_path, settings, bent(world(1000, seed=5)), bent(world(200, seed=6)))
    rows = pd.read_csv(tmp_path / "history.csv")
    best = rows.step[rows.val_total.argmin()]
    assert aligner.provenance["step"] == best > 0
    assert rows.val_total.min() < rows.val_total[0] - 0.05
    assert rows.step.iloc[-1] == min(200, best + 30)


# --- repeated, stopped and continued


def test_the_same_seed_gives_the_same_bytes_though_a_loss_that_is_not_finite_stopped_the_run(tmp_path):
    """In step 23, after a checkpoint (15) and an evaluation (20); the caller's generator is left alone."""
    torch.manual_seed(17)
    expected = torch.rand(3)
    torch.manual_seed(17)
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    train(unbroken)
    assert torch.equal(torch.rand(3), expected)
    spoilt, again = Spoilt(**TRAINING.__dict__, number=23), Spoilt(**TRAINING.__dict__)
    with pytest.raises(InputError, match=r"step 23: .*NaN.* the batch was P\d+, .*lower the learning rates") as error:
        train(broken, training=spoilt)
    assert ", ".join(spoilt.draws[-1]) in str(error.value)
    train(broken, training=again)
    assert len(again.draws) == 60 - 15
    for name in ("config.json", "history.csv", "model.safetensors"):
        assert (unbroken / name).read_bytes() == (broken / name).read_bytes(), name
    assert {path.name for path in broken.iterdir()} == {"config.json", "history.csv", "model.safetensors"}
    train(broken, replace(QUICK, seed=1, steps=1))  # a finished run may be followed by one of other settings
    assert (unbroken / "model.safetensors").read_bytes() != (broken / "model.safetensors").read_bytes()


# --- refusals


@pytest.mark.parametrize("which", ["training", "validation"])
@pytest.mark.parametrize(("part", "row", "value"), [("voice", 15, 0.0), ("face", 7, torch.inf)])
def test_an_embedding_without_direction_is_named_before_the_first_step(which, part, row, value, tmp_path):
    pairs = {"training": TRAINING, "validation": VALIDATION}
    rows = getattr(pairs[which], part).clone()
    rows[row] = value
    with pytest.raises(InputError, match=rf"P3: an embedding of the {part} is zero, infinite or NaN"):
        train(tmp_path, **{**pairs, which: replace(pairs[which], **{part: rows})})
    with pytest.raises(InputError, match="1 person with voice and face: expected at least 2"):
        train(tmp_path, **{**pairs, which: pairs[which].only([5])})
    assert list(tmp_path.iterdir()) == []


def test_settings_out_of_range_are_refused():
    for name, value in (
        ("steps", 0), ("weight_cosine", -1.0), ("learning_rate", float("nan")), ("margin", float("nan")),
        ("scale", float("inf")), ("temperature", 0.0), ("dropout", 1.0),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"{name}={value}"):
            Stage1Settings(**{name: value})
    with pytest.raises(InputError, match="all weights of the loss are 0"):
        Stage1Settings(weight_am=0.0, weight_info=0.0)
