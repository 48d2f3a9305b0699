"""What each of two real processes does: a module of its own, since a spawned process imports it by its name."""

from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch
import torch.distributed as dist
from torch import nn

from v2f_core.data.manifest import COLUMNS, Manifest
from v2f_core.identity.contrast import InfoNCE
from v2f_core.identity.losses import AMSoftmax, IdentityLoss
from v2f_core.identity.sphere import normalise
from v2f_core.profiles import MINI_ASSETS
from v2f_core.speech.encoders import load_encoder
from v2f_core.training import stage1
from v2f_core.training.embeddings import extract_voices
from v2f_core.training.processes import average_gradients, gather
from v2f_core.training.stage1 import Pairs, Stage1Settings

PERSONS, VOICE, FACE = 12, 6, 10
LABEL = torch.tensor([0, 1, 2, 3, 4, 4, 5, 6])  # a person of both processes' shares: no negative of herself
SETTINGS = Stage1Settings(
    steps=6, batch=8, learning_rate=1e-2, hidden_width=8, dropout=0.0, evaluate_every=3, weight_relational=1.0
)


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def parts():
    """A small map from voices to identities, and a loss with all its terms and class vectors of its own."""
    net = nn.Linear(VOICE, FACE)
    with torch.no_grad():
        net.weight.copy_(draw(FACE, VOICE, seed=1))
        net.bias.copy_(draw(FACE, seed=2))
    classes = AMSoftmax(PERSONS, FACE, scale=8.0, margin=0.2, generator=torch.Generator().manual_seed(3))
    contrast = InfoNCE(temperature=0.2, two_sided=True, duplicate_above=0.3, duplicate_weight=0.5)
    return net, IdentityLoss(classes, contrast, 1.0, 1.0, 1.0, 1.0)


def loss_and_gradients(rank, processes):
    """The loss of one batch of 8, of which this process maps its share, and the gradients of all parameters."""
    net, loss = parts()
    voice, face = draw(8, VOICE, seed=4), normalise(draw(8, FACE, seed=5))
    share = 8 // processes
    identity = gather(net(voice[rank * share : (rank + 1) * share]))
    total = loss(identity, face, LABEL).total
    total.backward()
    parameters = [*net.parameters(), *loss.parameters()]
    average_gradients(parameters)
    return [total.detach(), *(parameter.grad for parameter in parameters)]


def pairs(persons, seed):
    return Pairs(
        persons=[f"P{i}" for i in range(persons)],
        sexes=["f" if i % 2 else "m" for i in range(persons)],
        voice=draw(2 * persons, VOICE, seed=seed),
        voice_start=torch.arange(0, 2 * persons + 1, 2),
        face=normalise(draw(persons, FACE, seed=seed + 1)),
        face_start=torch.arange(persons + 1),
    )


def train(folder):
    return stage1.train(pairs(PERSONS, 10), pairs(5, 20), SETTINGS, folder, {})


def record(data):
    """Nine recordings of noise, of which one is empty."""
    data.mkdir()
    for i in range(9):
        wave = 0.1 * np.random.default_rng(i).uniform(-1, 1, 12_000 * (i + 2))
        soundfile.write(data / f"{i}.wav", wave, 16_000)
    (data / "4.wav").write_bytes(b"")


def hear(data, store):
    """Embeds them with the miniature AST: five shards of two files."""
    rows = [("Ada", "f", "train", "voice", "", f"{i}.wav") for i in range(9)]
    manifest, weights = Manifest(data, pd.DataFrame(rows, columns=list(COLUMNS))), MINI_ASSETS / "ast"
    return extract_voices(manifest, load_encoder("ast", weights), weights, store, 1.25, max_bad=0.5, batch=2, shard=2)


def one_of_two(rank: int, folder: str) -> None:
    """What each of the two processes does; the other is met through a file, no port is needed."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    heard = hear(Path(folder) / "data", Path(folder) / "voices")
    torch.save(heard.vectors, Path(folder) / f"heard-{rank}.pt")
    torch.save(loss_and_gradients(rank, 2), Path(folder) / f"{rank}.pt")
    trained = train(Path(folder) / "stage1")
    torch.save(trained.state_dict(), Path(folder) / f"trained-{rank}.pt")
    dist.destroy_process_group()
