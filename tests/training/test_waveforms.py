"""Stage I from waveforms reads each person's own clips, trains the chosen layers, keeps its best, survives a kill."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from fakes import seeded, unit

from v2f_core.artefacts.files import folder_hash
from v2f_core.artefacts.profiles import MINI_ASSETS
from v2f_core.data.manifest import COLUMNS, Manifest
from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner
from v2f_core.speech.audio import read_clips
from v2f_core.speech.encoders import load_encoder, unfreeze
from v2f_core.training.embeddings import Embeddings, extract_voices
from v2f_core.training.stage1 import identity_loss, validate
from v2f_core.training.waveforms import Recordings, WaveformSettings, train_from_waveforms

QUICK = WaveformSettings(
    steps=4, batch=4, learning_rate=1e-2, hidden_width=8, dropout=0.1, evaluate_every=2, weight_cosine=1.0,
    checkpoint_every=2, unfreeze=1, learning_rate_encoder=1e-2,
)  # fmt: skip


@dataclass(frozen=True)
class Spoilt(Recordings):
    """Recordings of which the first few are read as they are, the next ones as NaN."""

    numbers: Iterator = field(default_factory=lambda: count(1))
    good: int = 13  # four steps read 16

    def read(self, path):
        return super().read(path) * (math.nan if next(self.numbers) > self.good else 1)


@pytest.fixture(scope="module")
def world(tiny_profile, tmp_path_factory):
    """Six training and four validation persons, each with three recordings (one is broken) and two faces."""
    root, g, rows = tmp_path_factory.mktemp("dataset"), np.random.default_rng(0), []
    for i in range(10):
        who, split = (f"P{i}", "train" if i < 6 else "val")
        for r in range(3):
            path = f"{who}-{r}.wav"
            soundfile.write(root / path, g.uniform(-0.3, 0.3, 20_000 + 10_000 * r), 16_000)
            rows.append((who, "fm"[i % 2], split, "voice", f"v{r}", path))
        rows += [(who, "fm"[i % 2], split, "face", "", f"{who}-{r}.png") for r in range(2)]
    (root / "P0-1.wav").write_bytes(b"no sound")
    manifest = Manifest(root, pd.DataFrame(rows, columns=COLUMNS))
    ears = partial(load_encoder, "ast", tiny_profile.ast)
    voices = extract_voices(manifest, ears, tiny_profile.ast, root / "stored", 1.25)
    items = manifest.faces().path.tolist()
    faces = Embeddings(unit(len(items), 0), items, [], {})
    return faces, *(Recordings.of(manifest, voices, faces, split) for split in ("train", "val"))


@pytest.fixture(scope="module")
def run(tiny_profile, world):
    """Train from the same start each time; returns the encoder after the last step."""

    def train(folder, settings=QUICK, training=world[1]):
        encoder = load_encoder("ast", tiny_profile.ast)
        train_from_waveforms(encoder, tiny_profile.ast, None, training, world[2], settings, folder, {"voices": "ab"})
        return encoder

    return train


@pytest.fixture(scope="module")
def unbroken(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    run(folder)
    return folder


def test_a_step_draws_persons_with_their_own_recordings_and_faces(world):
    faces, training, _ = world
    recordings = {path.name: read_clips(path, seconds=1.25) for paths in training.paths for path in paths}
    heard, seen, g = set(), set(), seeded()
    for _ in range(40):
        voice, face, label = training.draw(4, g)
        assert len(set(label.tolist())) == 4
        for i, clip, identity in zip(label.tolist(), voice, face, strict=True):
            name = next(name for name, clips in recordings.items() if (clips == clip).all(dim=1).any())
            photo = faces.items[int((faces.vectors @ identity).argmax())]
            assert name.startswith(f"P{i}-")
            assert photo.startswith(f"P{i}-")
            heard.add(name)
            seen.add(photo)
    assert heard == {f"P{i}-{r}.wav" for i in range(6) for r in range(3)} - {"P0-1.wav"}  # that one is broken
    assert len(seen) == 12


def test_two_steps_by_hand(tiny_profile, world, run, tmp_path):
    """L_id (Eq. 10) of single clips; AdamW with a rate of their own for the upper layers; both rates by a cosine."""
    settings = replace(QUICK, steps=2, dropout=0.0)
    trained, training = run(tmp_path, settings), world[1]
    torch.manual_seed(0)
    encoder, g = load_encoder("ast", tiny_profile.ast), seeded()
    upper = list(unfreeze(encoder, 1).parameters())
    aligner = Aligner(encoder.dim, 8, 512, 0.0)
    loss = identity_loss(training.pairs, settings, free=True)
    own = [*aligner.parameters(), *loss.parameters()]
    optimiser = torch.optim.AdamW([{"params": own}, {"params": upper}], weight_decay=0.01)
    for step in (1, 2):
        clips, face, label = training.draw(4, g)
        for group in optimiser.param_groups:
            group["lr"] = 1e-2 * (1 + math.cos(math.pi * (step - 1) / 2)) / 2
        optimiser.zero_grad()
        loss(aligner(encoder(clips)), face, label).total.backward()
        optimiser.step()
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[name], value, atol=1e-5, rtol=1e-3)


def test_the_best_pair_is_kept_and_goes_together(world, unbroken):
    history, aligner = pd.read_csv(unbroken / "history.csv"), Aligner.from_pretrained(unbroken / "aligner")
    assert history.step.tolist() == [0, 2, 4]
    best = history.loc[history.val_total.idxmin()]
    assert aligner.provenance["step"] == best.step
    assert aligner.provenance["ast_sha256"] == folder_hash(unbroken / "ast")
    heard = world[2].embedded_by(load_encoder("ast", unbroken / "ast"))
    scores = validate(aligner, heard, identity_loss(world[2].pairs, QUICK, free=False))
    assert scores["val_total"] == pytest.approx(best.val_total, rel=1e-3)  # the aligner is float16 on disk


def test_a_loss_that_is_not_finite_stops_the_run_which_continues_to_the_same_bytes(world, run, unbroken, tmp_path):
    with pytest.raises(InputError, match=r"step 4: .*; the batch was P\d, P\d"):
        run(tmp_path, training=Spoilt(**world[1].__dict__))
    run(tmp_path)
    for part in ("ast", "aligner"):
        assert folder_hash(tmp_path / part) == folder_hash(unbroken / part)
    assert (tmp_path / "history.csv").read_bytes() == (unbroken / "history.csv").read_bytes()
    with pytest.raises(InputError, match=r"of another training \(settings\.unfreeze differs\)"):
        run(tmp_path, replace(QUICK, unfreeze=0))


def test_it_runs_in_one_process(run, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="2 processes: Stage I from waveforms runs in one"):
        run(tmp_path)


def test_another_encoder_is_kept_under_its_own_name(world, tmp_path):
    source, settings = MINI_ASSETS / "ge2e", replace(QUICK, steps=1)
    encoder = load_encoder("ge2e", source)
    aligner = train_from_waveforms(encoder, source, None, world[1], world[2], settings, tmp_path, {})
    assert aligner.speaker_width == load_encoder("ge2e", tmp_path / "ge2e").dim == 256
    assert aligner.provenance["ge2e_sha256"] == folder_hash(tmp_path / "ge2e")
