"""Stage I from waveforms: it hears what it should, trains what it should, keeps its best, and survives a kill."""

import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from fakes import asked_to_stop

from v2f_core import cli
from v2f_core.artefacts.provenance import folder_hash
from v2f_core.data.manifest import COLUMNS, Manifest
from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.sphere import normalise
from v2f_core.speech.audio import clips
from v2f_core.speech.augment import Augmentation
from v2f_core.speech.encoders import load_encoder
from v2f_core.training import finetune as module
from v2f_core.training.embeddings import Embeddings, extract_voices
from v2f_core.training.finetune import finetune
from v2f_core.training.finetune_settings import FinetuneSettings, from_profile
from v2f_core.training.recordings import recordings
from v2f_core.training.stage1 import Stage1Settings

IDENTITY = Stage1Settings(
    steps=4, batch=4, learning_rate=1e-2, hidden_width=8, dropout=0.1, evaluate_every=2, weight_cosine=1.0
)
QUICK = FinetuneSettings(unfreeze=1, learning_rate_encoder=1e-2, checkpoint_every=2, identity=IDENTITY)


@pytest.fixture(scope="module")
def world(tiny_profile, tmp_path_factory):
    """Six training and four validation persons on disk, each with three recordings (one is broken) and two faces."""
    root, g = tmp_path_factory.mktemp("dataset"), np.random.default_rng(0)
    rows = []
    for i in range(10):
        who, split = (f"P{i}", "train" if i < 6 else "val")
        for r in range(3):
            path = f"{who}-{r}.wav"
            soundfile.write(root / path, g.uniform(-0.3, 0.3, 20_000 + 10_000 * r), 16_000)
            rows.append((who, "fm"[i % 2], split, "voice", f"v{r}", path))
        rows += [(who, "fm"[i % 2], split, "face", "", f"{who}-{r}.png") for r in range(2)]
    (root / "P0-1.wav").write_bytes(b"no sound")
    manifest = Manifest(root, pd.DataFrame(rows, columns=COLUMNS))
    encoder = load_encoder("ast", tiny_profile.ast)
    voices = extract_voices(manifest, encoder, tiny_profile.ast, root / "stored", 1.25)
    items = manifest.faces().path.tolist()
    z = normalise(torch.randn(len(items), 512, generator=torch.Generator().manual_seed(0)))
    faces = Embeddings(z, items, [], {})
    return manifest, voices, faces, tuple(recordings(manifest, voices, faces, split) for split in ("train", "val"))


@pytest.fixture(scope="module")
def run(tiny_profile, world):
    """Train from the same start each time; gives the encoder as it ended."""

    def go(folder, settings=QUICK, aligner=None):
        encoder = load_encoder("ast", tiny_profile.ast)
        finetune(encoder, tiny_profile.ast, aligner, *world[3], settings, folder, {"voices": "ab12"})
        return encoder

    return go


@pytest.fixture(scope="module")
def unbroken(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, run(folder)


def parts(folder):
    return {name: folder_hash(Path(folder) / name) for name in ("ast", "aligner")}


# --- what is heard


def test_a_step_draws_persons_with_their_own_recordings_and_faces(world):
    _, _, faces, (training, _) = world
    heard, seen = set(), set()
    for step in range(60):
        batch = training.draw(4, 0, step)
        assert len(set(batch.label.tolist())) == 4
        for i, path, face in zip(batch.label.tolist(), batch.paths, batch.face, strict=True):
            assert path.name.startswith(f"P{i}-")
            photo = faces.items[int((faces.vectors @ face).argmax())]
            assert photo.startswith(f"P{i}-")
            heard.add(path.name)
            seen.add(photo)
        assert ((batch.place >= 0) & (batch.place < 1)).all()
    everything = {f"P{i}-{r}.wav" for i in range(6) for r in range(3)}
    assert heard == everything - {"P0-1.wav"}  # what could not be embedded is not read again
    assert len(seen) == 12


def test_a_step_draws_the_same_whatever_was_before(world):
    training = world[3][0]
    first = training.draw(4, 0, 7)
    training.draw(4, 0, 8)
    again = training.draw(4, 0, 7)
    assert first.paths == again.paths
    assert torch.equal(first.place, again.place)
    assert torch.equal(torch.rand(3, generator=first.generator), torch.rand(3, generator=again.generator))
    other = [training.draw(4, seed, 7) for seed in (1, 2)]
    assert not any(torch.equal(first.place, batch.place) for batch in other)


def test_recordings_are_heard_as_they_were_when_stored(world, tiny_profile):
    _, _, _, (training, _) = world
    encoder = load_encoder("ast", tiny_profile.ast)
    torch.testing.assert_close(training.heard_by(encoder).voice, training.pairs.voice, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        encoder.model.layernorm.bias += 1.0
    torch.testing.assert_close(training.heard_by(encoder).voice, training.pairs.voice + 1.0, atol=1e-5, rtol=1e-4)


def test_a_step_hears_the_clips_that_were_drawn(world, run, tmp_path, monkeypatch):
    """At each step the drawn clips of the drawn recordings, the persons in their order, get their noise."""
    heard = []
    monkeypatch.setattr(Augmentation, "of_waves", lambda self, waves, generator: heard.append(waves) or waves)
    run(tmp_path, replace(QUICK, unfreeze=0, identity=replace(IDENTITY, steps=2)))
    assert len(heard) == 2
    for step, found in enumerate(heard, start=1):
        batch = world[3][0].draw(4, 0, step)
        for clip, path, place in zip(found, batch.paths, batch.place, strict=True):
            every = clips(torch.from_numpy(soundfile.read(path, dtype="float32")[0]))
            assert torch.equal(clip, every[math.floor(place * len(every))])


# --- what is trained


@pytest.mark.parametrize("count", [0, 1])
def test_only_the_upper_layers_change(run, unbroken, tiny_profile, tmp_path, count):
    encoder = unbroken[1] if count else run(tmp_path, replace(QUICK, unfreeze=0))
    before = load_encoder("ast", tiny_profile.ast).state_dict()
    changed = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
    if count == 0:
        assert not changed
    assert all(name.startswith(("model.layers.0.", "model.layernorm.")) for name in changed)  # it has one layer
    assert bool(changed) == bool(count)


def test_the_frozen_part_is_left_as_it_is_at_inference(run, unbroken, tmp_path, monkeypatch):
    modes = []
    before = module._Run.step
    monkeypatch.setattr(
        module._Run,
        "step",
        lambda self, *rest: (
            modes.append({n: m.training for n, m in self.encoder.named_modules()}) or before(self, *rest)
        ),
    )
    run(tmp_path)
    assert modes
    for mode in modes:
        assert {name for name, training in mode.items() if training} == {
            name for name in mode if name.startswith(("model.layers.0", "model.layernorm"))
        }


def test_rates_are_the_encoder_s_own(run, tiny_profile, tmp_path):
    still = run(tmp_path, replace(QUICK, learning_rate_encoder=0.0)).state_dict()
    before = load_encoder("ast", tiny_profile.ast).state_dict()
    assert all(torch.equal(value, before[name]) for name, value in still.items())


# --- what is kept


def test_the_folder_is_one_that_a_profile_can_point_at(unbroken, tiny_profile):
    from v2f_core.pipeline import Vox2FacePipeline

    folder, _ = unbroken
    tuned = replace(tiny_profile, ast=folder / "ast", aligner=folder / "aligner")
    pipe = Vox2FacePipeline.from_profile(tuned)
    made = Aligner.from_pretrained(folder / "aligner").provenance
    assert made["ast_sha256"] == folder_hash(folder / "ast")
    assert made["voices"] == "ab12"
    wave = 0.1 * torch.randn(1, 20_000, generator=torch.Generator().manual_seed(0))
    old = Vox2FacePipeline.from_profile(replace(tiny_profile, aligner=folder / "aligner"))
    assert not torch.equal(pipe.identify(wave)[0], old.identify(wave)[0])


def test_the_best_is_kept_even_if_it_is_the_start(run, tiny_profile, tmp_path, monkeypatch):
    losses = iter([1.0, 2.0, 3.0])
    monkeypatch.setattr("v2f_core.training.finetune_watch.validate", lambda *rest: {"val_total": next(losses)})
    start = Aligner(16, 8)
    start.load_state_dict({name: value.half() for name, value in start.state_dict().items()})  # as a folder has it
    given = deepcopy(start.state_dict())
    trained = run(tmp_path, aligner=start).state_dict()
    assert pd.read_csv(tmp_path / "history.csv").step.tolist() == [0, 2, 4]
    kept = Aligner.from_pretrained(tmp_path / "aligner")
    assert kept.provenance["step"] == 0
    assert all(torch.equal(value, given[name]) for name, value in kept.state_dict().items())
    before, on_disk = (load_encoder("ast", f).state_dict() for f in (tiny_profile.ast, tmp_path / "ast"))
    assert all(torch.equal(value, before[name]) for name, value in on_disk.items())
    assert any(not torch.equal(value, before[name]) for name, value in trained.items())


def test_history_is_of_what_was_kept(unbroken, world):
    """The best row's validation loss is that of the encoder and aligner on disk."""
    from v2f_core.training.stage1 import identity_loss, validate

    folder, _ = unbroken
    validation = world[3][1]
    history = pd.read_csv(folder / "history.csv")
    heard = validation.heard_by(load_encoder("ast", folder / "ast"))
    score = validate(Aligner.from_pretrained(folder / "aligner"), heard, identity_loss(heard, IDENTITY, free=False))
    assert score["val_total"] == pytest.approx(history.val_total.min(), rel=1e-3)  # the aligner is float16 on disk


# --- kills and bad numbers


def test_a_killed_run_goes_on_to_the_same_bytes(run, unbroken, tmp_path, monkeypatch):
    before = module._Run.step

    def killed(self, step, *rest):
        if step == 4:
            raise KeyboardInterrupt
        before(self, step, *rest)

    monkeypatch.setattr(module._Run, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert (tmp_path / "checkpoint.pt").exists()
    monkeypatch.setattr(module._Run, "step", before)
    run(tmp_path)
    assert parts(tmp_path) == parts(unbroken[0])
    assert (tmp_path / "history.csv").read_bytes() == (unbroken[0] / "history.csv").read_bytes()


def test_sigterm_saves_after_the_step_under_way_and_is_passed_on(run, unbroken, tmp_path, capsys):
    with asked_to_stop(module._Run, at=3) as passed_on:  # a checkpoint is due after 2 and 4
        run(tmp_path)
    assert passed_on == [True]
    assert "saved after step 3, run it again" in capsys.readouterr().err
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]["step"] == 3
    run(tmp_path)
    assert parts(tmp_path) == parts(unbroken[0])
    assert (tmp_path / "history.csv").read_bytes() == (unbroken[0] / "history.csv").read_bytes()


def test_another_training_is_not_gone_on_with(run, unbroken):
    with pytest.raises(InputError, match=r"of another training \(settings\.unfreeze differs\)"):
        run(unbroken[0], replace(QUICK, unfreeze=0))


def test_a_loss_that_is_not_finite_stops_with_step_term_and_persons(run, tmp_path, monkeypatch):
    monkeypatch.setattr(Augmentation, "of_waves", lambda self, waves, g: waves * math.nan)
    with pytest.raises(InputError, match=r"step 1: .*saved as it was before that step\. The batch was P\d, P\d"):
        run(tmp_path)
    assert (tmp_path / "checkpoint.pt").exists()


def test_a_recording_that_vanished_is_named(run, world, tmp_path, monkeypatch):
    monkeypatch.setattr(
        module.Recordings, "read", lambda self, paths, workers=0: iter([InputError(f"{paths[0]}: gone")] * len(paths))
    )
    with pytest.raises(InputError, match=r"\.wav: gone"):
        run(tmp_path)


# --- settings and the command line


def test_a_batch_of_one_is_refused():
    with pytest.raises(InputError, match="batch=1: expected at least 2"):
        FinetuneSettings(identity=Stage1Settings(batch=1))


def test_a_profile_s_settings(tiny_profile):
    profile = replace(
        tiny_profile,
        stage1={"learning_rate": 0.5, "margin": 0.2},
        finetune={"learning_rate_encoder": 0.25, "identity": {"margin": 0.3}},
    )
    found = from_profile(profile, unfreeze=3, seed=5, steps=7, noise=(1.0, 2.0))
    assert (found.unfreeze, found.learning_rate_encoder, found.augmentation.noise) == (3, 0.25, (1.0, 2.0))
    assert (found.identity.learning_rate, found.identity.margin) == (0.5, 0.3)
    assert (found.identity.seed, found.identity.steps) == (5, 7)


def test_the_command(world, tiny_profile, tmp_path, monkeypatch, capsys):
    manifest, voices, faces, _ = world
    (tmp_path / "faces").mkdir()
    profile = replace(tiny_profile, faces=tmp_path / "faces", finetune={"identity": {"steps": 1, "batch": 2}})
    (profile.faces / "pack").touch()
    monkeypatch.setattr("v2f_core.cli_training.load_profile", lambda name: profile)
    monkeypatch.setattr("v2f_core.data.layouts.open_dataset", lambda profile: manifest)
    monkeypatch.setattr(module, "stored", lambda *rest: (voices, faces))
    with pytest.raises(SystemExit, match="0"):
        cli.main(["stage1", "--unfreeze", "1", "--noise", "inf", "inf", "--out", str(tmp_path / "run")])
    assert "speech encoder, aligner and history" in capsys.readouterr().out
    made = Aligner.from_pretrained(tmp_path / "run" / "aligner").provenance
    assert made["settings"]["augmentation"]["noise"] == [math.inf, math.inf]
    assert made["encoder_sha256"] == folder_hash(tiny_profile.ast)


def test_options_of_waveforms_without_waveforms(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["stage1", "--noise", "10", "20"])
    assert "belong to --unfreeze" in capsys.readouterr().err
