"""The work of two real processes, in a module of its own, because a spawned process imports it by name."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from fakes import Recogniser, people
from torch import nn

from v2f_core.diffusion.consistency import SelfConsistency, denoise, paper, teacher
from v2f_core.diffusion.lora import add_lora, lora_parameters
from v2f_core.diffusion.prior import Prior
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.losses import AMSoftmax, IdentityLoss, InfoNCE
from v2f_core.identity.sphere import normalise
from v2f_core.training import stage2
from v2f_core.training.processes import average_gradients, gather, join
from v2f_core.training.stage1 import Stage1Settings
from v2f_core.training.stage2 import Stage2Settings

PERSONS, VOICE, FACE = 12, 6, 10
CRITICS = (paper, denoise, teacher)
LABEL = torch.tensor([0, 1, 2, 3, 4, 4, 5, 6])  # a person of both processes' shares: no negative of herself


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def parts():
    """A small map from voices to identities, and a loss with all its terms and class vectors of its own."""
    net = nn.Linear(VOICE, FACE)
    with torch.no_grad():
        net.weight.copy_(draw(FACE, VOICE, seed=1))
        net.bias.copy_(draw(FACE, seed=2))
    classes = AMSoftmax(PERSONS, FACE, scale=8.0, margin=0.2, generator=torch.Generator().manual_seed(3))
    contrast = InfoNCE(temperature=0.2)
    return net, IdentityLoss(classes, contrast, 1.0, 1.0, 1.0)


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


QUICK = Stage2Settings(
    steps=4,
    batch=6,
    learning_rate=1e-3,
    learning_rate_lora=1e-2,
    rank=2,
    warmup=2,
    evaluate_every=4,
    checkpoint_every=4,
    monitored=2,
    monitor_bands=2,
    identity=Stage1Settings(windows=2, weight_cosine=1.0),
)


def untrained(root):
    """An aligner that drops nothing, and a prior."""
    aligner = Aligner.from_pretrained(root / "aligner")
    for part in aligner.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return aligner, Prior.from_folder(root / "prior")


def stage2_gradients(root, critic, batch=6):
    """L_id + L_self of one batch, of which this process maps and looks at its share, and all gradients."""
    (aligner, prior), generator = untrained(root), torch.Generator().manual_seed(7)
    add_lora(prior, 2, 2.0, generator)
    for name, parameter in lora_parameters(prior).items():
        if "lora_B" in name:  # else no gradient reaches A
            parameter.data.normal_(generator=generator, std=0.1)
    voice, label, faces = people(8, seed=1).draw(batch, 2, generator)
    consistency = SelfConsistency(prior, Recogniser(), critic)
    process, processes = join()
    own = slice(process * batch // processes, (process + 1) * batch // processes)
    loss = IdentityLoss(AMSoftmax(8, 512, generator=generator), InfoNCE(), 1.0, 1.0, 1.0)
    view = consistency.look(faces, generator)
    identity = aligner(voice[own])
    l_self = consistency.judge(view[own], identity, faces[own]).loss
    (loss(gather(identity), faces.z_arc, label).total + l_self).backward()
    parameters = [*aligner.parameters(), *loss.parameters(), *lora_parameters(prior).values()]
    average_gradients(parameters)
    return [l_self.detach(), *(parameter.grad for parameter in parameters)]


def train_stage2(root, folder, steps=QUICK.steps):
    world = people(8, seed=1), people(5, seed=2)
    aligner, prior = untrained(root)
    nets = aligner, prior, Recogniser()
    stage2.train_stage2(*nets, *world, replace(QUICK, steps=steps), folder, {})
    return {**aligner.state_dict(), **{name: p.detach() for name, p in lora_parameters(prior).items()}}


def in_two(work, *arguments: str) -> None:
    """Let this process do a work as process 0, and a new one do it as process 1."""
    other = torch.multiprocessing.get_context("spawn").Process(target=work, args=(1, *arguments))
    other.start()
    work(0, *arguments)
    other.join()
    assert other.exitcode == 0


@contextmanager
def met(rank: int, folder: str) -> Iterator[None]:
    """Meet the other process through a file; no port is needed."""
    meeting, patience = f"file://{folder}/meeting", timedelta(minutes=5)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=patience)
    try:
        yield
    finally:
        dist.destroy_process_group()


def gradients_of_two(rank: int, folder: str, root: str) -> None:
    """What each of two processes does to give the gradients of one."""
    with met(rank, folder):
        torch.save(loss_and_gradients(rank, 2), Path(folder) / f"{rank}.pt")
        for critic in CRITICS:
            gradients = stage2_gradients(Path(root), critic)
            torch.save(gradients, Path(folder) / f"{critic.__name__}-{rank}.pt")


def runs_of_two(rank: int, folder: str, root: str) -> None:
    """What each of two processes does to train Stage II, stopped and started again."""
    with met(rank, folder):
        train_stage2(Path(root), Path(folder) / "stage2", steps=2)
        torch.save(train_stage2(Path(root), Path(folder) / "stage2"), Path(folder) / f"stage2-{rank}.pt")
