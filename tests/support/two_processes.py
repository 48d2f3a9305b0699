"""The work of two real processes, in a module of its own, because a spawned process imports it by name."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from fakes import Recogniser, people, seeded, wake
from torch import nn

from v2f_core.diffusion.consistency import SelfConsistency, denoise, paper, teacher
from v2f_core.diffusion.lora import add_lora, lora_parameters
from v2f_core.diffusion.prior import Prior
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.losses import AMSoftmax, IdentityLoss, InfoNCE
from v2f_core.identity.sphere import uniform
from v2f_core.training.processes import average_gradients, gather, join
from v2f_core.training.stage1 import Stage1Settings
from v2f_core.training.stage2 import Stage2Settings, train_stage2

CRITICS = (paper, denoise, teacher)
LABEL = torch.tensor([0, 1, 2, 3, 4, 4, 5, 6])  # a person of both processes' shares: no negative of herself
QUICK = Stage2Settings(
    steps=4, batch=6, learning_rate=1e-3, learning_rate_lora=1e-2, rank=2, warmup=2, evaluate_every=4,
    checkpoint_every=4, monitored=2, monitor_bands=2, identity=Stage1Settings(windows=2, weight_cosine=1.0),
)  # fmt: skip


def loss_and_gradients(rank, processes):
    """The loss of one batch of 8, of which this process maps its share, and the gradients of all parameters."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Linear(6, 10)
    classes = AMSoftmax(12, 10, scale=8.0, margin=0.2, generator=seeded(3))
    loss = IdentityLoss(classes, InfoNCE(temperature=0.2), 1.0, 1.0, 1.0)
    voice, face = torch.randn(8, 6, generator=seeded(4)), uniform(8, 10, seeded(5))
    share = 8 // processes
    identity = gather(net(voice[rank * share : (rank + 1) * share]))
    total = loss(identity, face, LABEL).total
    total.backward()
    parameters = [*net.parameters(), *loss.parameters()]
    average_gradients(parameters)
    return [total.detach(), *(parameter.grad for parameter in parameters)]


def untrained(root):
    """An aligner that drops nothing, and a prior."""
    aligner = Aligner.from_pretrained(root / "aligner")
    for part in aligner.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return aligner, Prior.from_folder(root / "prior")


def stage2_gradients(root, critic, batch=6):
    """L_id + L_self of one batch, of which this process maps and looks at its share, and all gradients."""
    (aligner, prior), generator = untrained(root), seeded(7)
    add_lora(prior, 2, 2.0, generator)
    wake(prior)  # else no gradient reaches A
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


def train(root, folder, steps=QUICK.steps):
    """Stage II in this process, alone or as one of two; its weights."""
    (aligner, prior), settings = untrained(root), replace(QUICK, steps=steps)
    train_stage2(aligner, prior, Recogniser(), people(8, seed=1), people(5, seed=2), settings, folder, {})
    return {**aligner.state_dict(), **{name: p.detach() for name, p in lora_parameters(prior).items()}}


def in_two(work, *arguments: str) -> None:
    """Let this process do a work as process 0, and a new one do it as process 1."""
    other = torch.multiprocessing.get_context("spawn").Process(target=as_one_of_two, args=(work, 1, *arguments))
    other.start()
    as_one_of_two(work, 0, *arguments)
    other.join()
    assert other.exitcode == 0


def as_one_of_two(work, rank: int, folder: str, root: str) -> None:
    """Meet the other process through a file, since no port is needed, and work."""
    meeting, patience = f"file://{folder}/meeting", timedelta(minutes=5)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=patience)
    try:
        work(rank, Path(folder), Path(root))
    finally:
        dist.destroy_process_group()


def gradients_of_two(rank: int, folder: Path, root: Path) -> None:
    """What each of two processes does to give the gradients of one."""
    torch.save(loss_and_gradients(rank, 2), folder / f"{rank}.pt")
    for critic in CRITICS:
        torch.save(stage2_gradients(root, critic), folder / f"{critic.__name__}-{rank}.pt")


def runs_of_two(rank: int, folder: Path, root: Path) -> None:
    """What each of two processes does to train Stage II, stopped and started again."""
    train(root, folder / "stage2", steps=2)
    torch.save(train(root, folder / "stage2"), folder / f"stage2-{rank}.pt")
