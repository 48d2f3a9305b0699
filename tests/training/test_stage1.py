"""Stage I learns what can be learned, the same way each time, and keeps its best."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from fakes import asked_to_stop

from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.contrast import InfoNCE, relational_distillation
from v2f_core.identity.losses import AMSoftmax, IdentityLoss, cosine_regression
from v2f_core.identity.sphere import normalise
from v2f_core.training import stage1
from v2f_core.training.pairs import Pairs
from v2f_core.training.stage1 import Stage1Settings

QUICK = {"steps": 120, "hidden_width": 32, "learning_rate": 3e-3, "evaluate_every": 20, "batch": 64}


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


@pytest.fixture(scope="module")
def split():
    return world(200, seed=0), world(40, seed=1), world(60, seed=2)


def mean_cosine(aligner, pairs):
    with torch.no_grad():
        return (aligner(pairs.pooled_voices()) * pairs.gallery()).sum(-1).mean().item()


def median_rank(aligner, pairs):
    with torch.no_grad():
        scores = aligner(pairs.pooled_voices()) @ pairs.gallery().T
    return (scores >= scores.diagonal()[:, None]).sum(1).float().median().item()


# --- learning


def test_cosine_regression_beats_the_mean_face_on_new_persons(split, tmp_path):
    training, validation, test = split
    settings = Stage1Settings(**QUICK, weight_am=0.0, weight_info=0.0, weight_cosine=1.0)
    aligner = stage1.train_stage1(training, validation, settings, tmp_path, {})
    mean_face = normalise(training.face.mean(0))
    assert mean_cosine(aligner, test) > (test.gallery() @ mean_face).mean().item() + 0.1


def test_the_paper_s_loss_finds_new_persons_among_60(split, tmp_path):
    training, validation, test = split
    aligner = stage1.train_stage1(training, validation, Stage1Settings(**QUICK), tmp_path, {})
    assert median_rank(aligner, test) <= 4  # chance is 30


def test_shuffled_voices_teach_nothing(split, tmp_path):
    training, validation, test = split
    order = torch.randperm(len(training.voice), generator=torch.Generator().manual_seed(0))
    shuffled = Pairs(**{**training.__dict__, "voice": training.voice[order]})
    aligner = stage1.train_stage1(shuffled, validation, Stage1Settings(**QUICK), tmp_path, {})
    assert 15 <= median_rank(aligner, test) <= 45


def test_two_steps_by_hand(split, tmp_path):
    """L = λ·terms (Eq. 10), AdamW on φ and the class vectors, a rate that falls by a cosine; whose windows, by draw."""
    training, validation, _ = split
    weighed = {"weight_am": 0.3, "weight_info": 0.5, "weight_cosine": 2.0, "weight_relational": 4.0}
    asked = {"steps": 4, "batch": 8, "hidden_width": 16, "learning_rate": 1e-2, "weight_decay": 0.5, "windows": 3}
    settings = Stage1Settings(**asked, **weighed, evaluate_every=2, seed=5)
    with asked_to_stop(stage1._Run, at=2):
        found = stage1.train_stage1(training, validation, settings, tmp_path, {})
    torch.manual_seed(5)
    aligner, g = Aligner(12, 16, 24), torch.Generator().manual_seed(5)
    margin = AMSoftmax(200, 24, generator=torch.Generator().manual_seed(5))
    optimiser = torch.optim.AdamW([*aligner.parameters(), *margin.parameters()], lr=1e-2, weight_decay=0.5)
    for step in (0, 1):
        voice, face, label = training.draw(8, 3, g)
        identity = aligner(voice)
        total = 0.3 * margin(identity, label) + 0.5 * InfoNCE()(identity, face, label)
        total = total + 2 * cosine_regression(identity, face) + 4 * relational_distillation(identity, face)
        optimiser.param_groups[0]["lr"] = 1e-2 * (1 + np.cos(np.pi * step / 4)) / 2
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    for name, value in aligner.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, atol=1e-5, rtol=1e-4)
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]["loss"]["am_softmax.weight"]
    torch.testing.assert_close(kept, margin.weight.data, atol=1e-5, rtol=1e-4)


def test_validation_by_hand(split):
    """Without dropout; the persons' centroids for class vectors; matching among faces of the same sex alone."""
    _, validation, _ = split
    aligner = Aligner(12, 16, 24, dropout=0.5).train()
    found = stage1.validate(aligner, validation, stage1.identity_loss(validation, Stage1Settings(), free=False))
    assert aligner.training
    with torch.no_grad():
        z = aligner.eval()(validation.pooled_voices())
    persons, face = range(len(z)), validation.face.view(-1, 2, 24)
    won = [
        float(z[i] @ face[i, 0] > z[i] @ face[j, 0])
        for i in persons
        for j in persons
        if i != j and validation.sexes[i] == validation.sexes[j]
    ]
    assert found["val_matching_same_sex"] == pytest.approx(np.mean(won))
    assert found["val_cosine"] == pytest.approx(float(1 - (z * face[:, 0]).sum(1).mean()), abs=1e-6)
    margin = AMSoftmax(len(z), 24, centroids=normalise(face.mean(1)))
    assert found["val_am_softmax"] == pytest.approx(float(margin(z, torch.arange(len(z)))), rel=1e-5)


# --- repeatability, best checkpoint, history


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(split, tmp_path):
    training, validation, _ = split
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(hash(name) % 1000)  # the caller's generator must not matter
        settings = Stage1Settings(**{**QUICK, "steps": 30}, seed=seed)
        stage1.train_stage1(training, validation, settings, tmp_path / name, {})
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_training_leaves_the_callers_generator_alone(split, tmp_path):
    training, validation, _ = split
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    stage1.train_stage1(training, validation, Stage1Settings(**{**QUICK, "steps": 2}), tmp_path, {})
    assert torch.equal(torch.rand(3), expected)


def test_the_best_checkpoint_is_kept_not_the_last(split, tmp_path):
    training, validation, _ = split
    few = Pairs(
        **{
            **training.__dict__,
            "persons": training.persons[:12],
            "sexes": training.sexes[:12],
            "voice_start": training.voice_start[:13],
            "face_start": training.face_start[:13],
        }
    )
    settings = Stage1Settings(**{**QUICK, "steps": 400, "batch": 12}, weight_cosine=1.0, dropout=0.0)
    aligner = stage1.train_stage1(few, validation, settings, tmp_path, {})  # twelve persons are learned by heart
    history = pd.read_csv(tmp_path / "history.csv")
    best = history.loc[history.val_total.idxmin()]
    assert best.step < 400
    assert aligner.provenance["step"] == best.step
    assert aligner.provenance["validation"]["val_total"] == pytest.approx(best.val_total, rel=1e-5)
    fixed = stage1.identity_loss(validation, settings, free=False)
    for name, value in stage1.validate(aligner, validation, fixed).items():
        assert value == pytest.approx(best[name], abs=0.02), name  # float16 on disk


def test_the_history_has_a_row_an_evaluation_and_a_cosine_decay(split, tmp_path):
    training, validation, _ = split
    stage1.train_stage1(training, validation, Stage1Settings(**{**QUICK, "steps": 50}), tmp_path, {})
    history = pd.read_csv(tmp_path / "history.csv")
    assert history.step.tolist() == [20, 40, 50]
    expected = [3e-3 * (1 + np.cos(np.pi * step / 50)) / 2 for step in history.step]
    np.testing.assert_allclose(history.lr, expected, atol=1e-8)
    assert np.isfinite(history.to_numpy()).all()


def test_the_config_tells_settings_inputs_and_seed(split, tmp_path):
    training, validation, _ = split
    stage1.train_stage1(
        training, validation, Stage1Settings(**{**QUICK, "steps": 2}, seed=3), tmp_path, {"voices": "ab12"}
    )
    made = json.loads((tmp_path / "config.json").read_text())["provenance"]
    assert made["voices"] == "ab12"
    assert made["settings"]["seed"] == 3
    assert made["settings"]["batch"] == 64


def test_fixed_centroids_and_free_vectors_are_different_trainings(split, tmp_path):
    training, validation, _ = split
    weights = []
    for fixed in (True, False):
        settings = Stage1Settings(**{**QUICK, "steps": 10}, fixed_centroids=fixed)
        weights.append(stage1.train_stage1(training, validation, settings, tmp_path / str(fixed), {}).net[0].weight)
    assert not torch.equal(*weights)


@pytest.mark.parametrize(
    "change",
    [
        {"angular_margin": True},
        {"two_sided": True},
        {"duplicate_above": 0.5, "duplicate_weight": 0.0},
        {"weight_relational": 1.0},
    ],
)
def test_every_setting_of_the_loss_reaches_the_training(split, tmp_path, change):
    training, validation, _ = split
    weights = []
    for name, settings in (("paper", {}), ("other", change)):
        settings = Stage1Settings(**{**QUICK, "steps": 3}, **settings)
        weights.append(stage1.train_stage1(training, validation, settings, tmp_path / name, {}).net[0].weight)
    assert not torch.equal(*weights)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch": -1},
        {"weight_am": 0.0, "weight_info": 0.0},
        {"weight_cosine": -1.0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"weight_decay": float("inf")},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError):
        Stage1Settings(**wrong)


def test_an_aligner_of_stage_1_can_be_loaded_anywhere(split, tmp_path):
    training, validation, _ = split
    trained = stage1.train_stage1(training, validation, Stage1Settings(**{**QUICK, "steps": 2}), tmp_path, {})
    assert torch.equal(Aligner.from_pretrained(tmp_path)(torch.ones(12)), trained(torch.ones(12)))


# --- stopped and taken up again


@pytest.fixture(scope="module")
def unbroken(split, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    stage1.train_stage1(split[0], split[1], Stage1Settings(**QUICK), folder, {})
    return folder


def assert_same_files(one, other):
    names = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) for folder in (one, other)]
    assert names[0] == names[1] == ["config.json", "history.csv", "model.safetensors"]
    for name in names[0]:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize("killed_at", [10, 45, 120])
def test_a_killed_run_goes_on_to_the_same_bytes(killed_at, split, unbroken, tmp_path, monkeypatch):
    """Before the first checkpoint, after a checkpoint and an evaluation, and in the last step."""
    step = stage1._Run.step

    def killed(self, number):
        if number == killed_at:
            raise KeyboardInterrupt
        step(self, number)

    monkeypatch.setattr(stage1, "CHECKPOINT_EVERY", 30)
    with monkeypatch.context() as patch:
        patch.setattr(stage1._Run, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            stage1.train_stage1(split[0], split[1], Stage1Settings(**QUICK), tmp_path, {})
    assert (tmp_path / "checkpoint.pt").exists() == (killed_at > 30)
    taken = []
    monkeypatch.setattr(stage1._Run, "step", lambda self, number: taken.append(number) or step(self, number))
    stage1.train_stage1(split[0], split[1], Stage1Settings(**QUICK), tmp_path, {})
    assert taken[0] == killed_at - (killed_at - 1) % 30
    assert_same_files(unbroken, tmp_path)


def test_sigterm_saves_after_the_step_under_way_and_is_passed_on(split, unbroken, tmp_path, capsys):
    """Also before there is any best aligner: what comes back then is that of the last step."""
    with asked_to_stop(stage1._Run, at=3) as passed_on:
        stopped = stage1.train_stage1(split[0], split[1], Stage1Settings(**QUICK), tmp_path, {})
    assert passed_on == [True]
    assert "saved after step 3, run it again" in capsys.readouterr().err
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]["step"] == 3
    assert not stopped.training
    with pytest.raises(InputError, match=r"checkpoint\.pt: of another training \(settings\.seed differs\)"):
        stage1.train_stage1(split[0], split[1], Stage1Settings(**QUICK, seed=1), tmp_path, {})
    stage1.train_stage1(split[0], split[1], Stage1Settings(**QUICK), tmp_path, {})
    assert_same_files(unbroken, tmp_path)


def test_a_gradient_that_is_not_finite_stops_before_the_weights_are_changed(split, unbroken, tmp_path, monkeypatch):
    """What is saved is the state before that step, from which the run goes on to the same bytes."""
    average, calls = stage1.average_gradients, []

    def spoilt(parameters):
        average(parameters)
        calls.append(0)
        if len(calls) == 5:
            parameters[0].grad[0] = torch.nan

    with monkeypatch.context() as patch:
        patch.setattr(stage1, "average_gradients", spoilt)
        with pytest.raises(InputError, match=r"step 5.*the gradient is not finite"):
            stage1.train_stage1(split[0], split[1], Stage1Settings(**QUICK), tmp_path, {})
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]
    assert saved["step"] == 4
    assert all(bool(weight.isfinite().all()) for weight in saved["aligner"].values())
    stage1.train_stage1(split[0], split[1], Stage1Settings(**QUICK), tmp_path, {})
    assert_same_files(unbroken, tmp_path)


def test_a_finished_run_may_be_run_again_with_other_settings(split, unbroken, tmp_path):
    for seed in (1, 0):
        stage1.train_stage1(split[0], split[1], Stage1Settings(**QUICK, seed=seed), tmp_path, {})
    assert_same_files(unbroken, tmp_path)


@pytest.mark.parametrize(
    ("spoilt", "named"), [("voice", "infinite or NaN"), ("loss", "loss term 'total' is not finite")]
)
def test_what_is_not_finite_stops_with_step_cause_and_persons(spoilt, named, split, unbroken, tmp_path, monkeypatch):
    """Saved as it was before the step: with the cause gone the run goes on to the same bytes."""
    training, validation, _ = split
    draw, forward, drawn = Pairs.draw, IdentityLoss.forward, []

    def spoil(what):
        return torch.nan if len(drawn) == 7 and what == spoilt else 1.0

    def drawn_badly(self, *settings):
        voice, face, label = draw(self, *settings)
        drawn.append(label)
        return voice * spoil("voice"), face, label

    def lost(self, *inputs):
        terms = forward(self, *inputs)
        return terms._replace(total=terms.total * spoil("loss"))

    with monkeypatch.context() as patch:
        patch.setattr(Pairs, "draw", drawn_badly)
        patch.setattr(IdentityLoss, "forward", lost)
        with pytest.raises(InputError, match=rf"checkpoint\.pt: step 7: .*{named}.*; saved as it was") as error:
            stage1.train_stage1(training, validation, Stage1Settings(**QUICK), tmp_path, {})
    assert all(training.persons[i] in str(error.value) for i in drawn[-1].tolist())
    stage1.train_stage1(training, validation, Stage1Settings(**QUICK), tmp_path, {})
    assert_same_files(unbroken, tmp_path)


@pytest.mark.parametrize("which", [0, 1], ids=["training", "validation"])
@pytest.mark.parametrize(("part", "value"), [("voice", torch.nan), ("voice", 0.0), ("face", 0.0), ("face", torch.inf)])
def test_an_embedding_without_direction_is_named_before_the_first_step(which, part, value, split, tmp_path):
    """Whoever it is of might be drawn late, or met at the first evaluation only."""
    pairs = list(split[:2])
    rows = getattr(pairs[which], part).clone()
    rows[{"voice": 15, "face": 7}[part]] = value
    pairs[which] = replace(pairs[which], **{part: rows})
    with pytest.raises(InputError, match=rf"P3: an embedding of the {part} is zero, infinite or NaN \(1 of "):
        stage1.train_stage1(*pairs, Stage1Settings(**QUICK), tmp_path, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("which", [0, 1], ids=["training", "validation"])
def test_one_person_alone_is_refused(which, split, tmp_path):
    pairs = list(split[:2])
    pairs[which] = pairs[which].only([5])
    with pytest.raises(InputError, match="1 person with voice and face: expected at least 2"):
        stage1.train_stage1(*pairs, Stage1Settings(**QUICK), tmp_path, {})


def test_what_was_broken_by_the_last_step_is_told_by_the_evaluation(split, tmp_path):
    settings = Stage1Settings(**{**QUICK, "evaluate_every": 1, "learning_rate": 1e30})
    with pytest.raises(InputError, match=r"evaluation after step 1: a vector is .*; lower the learning rates"):
        stage1.train_stage1(split[0], split[1], settings, tmp_path, {})
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_shows_the_history(split, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stage1.train_stage1(split[0], split[1], Stage1Settings(**QUICK), tmp_path, {}, tensorboard=True)
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    history = pd.read_csv(tmp_path / "history.csv")
    for name in ("lr", "train_total", "val_total", "val_matching_same_sex"):
        events = shown.Scalars(name)
        assert [event.step for event in events] == history["step"].tolist()
        np.testing.assert_allclose([event.value for event in events], history[name], rtol=1e-5)
