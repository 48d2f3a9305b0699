"""Stage I: train the aligner g_φ on stored embeddings with L_id (Eq. 10)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from tqdm import tqdm

from v2f_core.artefacts.checkpoints import CHECKPOINT_NAME, HISTORY_NAME, History, resume_training, save_training
from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.losses import AMSoftmax, IdentityLoss, InfoNCE
from v2f_core.identity.ridge import fit_ridge
from v2f_core.identity.sphere import cosines
from v2f_core.training.guards import at_step, check_numbers, descend, seeded
from v2f_core.training.pairs import Pairs
from v2f_core.training.processes import gather, seed_share, share_of, wait

JUDGES = 20  # fewer validation persons cannot show that the MLP is better than ridge regression


@dataclass(frozen=True)
class Stage1Settings:
    """Defaults are the paper's where it gives a value; the comments say where it does not.

    Raises:
        InputError: a number is out of its range, or all weights of the loss are 0.
    """

    steps: int = 10_000  # the paper says "roughly 100k" in one place and 0-10k in another
    batch: int = 128
    learning_rate: float = 1e-4  # AdamW, decayed to 0 by a cosine
    weight_decay: float = 0.01
    hidden_width: int = 1024
    dropout: float = 0.1
    scale: float = 30.0  # s of Eq. 8: not in the paper
    margin: float = 0.35  # m of Eq. 8: not in the paper
    temperature: float = 0.07  # τ of Eq. 9: not in the paper
    weight_am: float = 1.0  # λ_AM of Eq. 10: not in the paper
    weight_info: float = 1.0  # λ_Info of Eq. 10: not in the paper
    weight_cosine: float = 0.0  # λ_cos, our addition; with the other two at 0 it is "w/ CosReg" of Table 4
    fixed_centroids: bool = False  # our addition: class vectors of Eq. 8 fixed at the persons' mean faces
    linear_start: bool = False  # our addition: standardised inputs, and an MLP that adds to a ridge regression
    windows: int = 1  # a training example is the mean of up to this many windows of a person
    evaluate_every: int = 250
    patience: int = 0  # our addition: stop after so many evaluations without a better one; 0 never stops
    checkpoint_every: int = 1_000
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("steps", "batch", "hidden_width", "windows", "evaluate_every", "checkpoint_every")
        check_numbers(self, positive=(*counts, "learning_rate", "scale", "temperature"))
        if self.dropout >= 1:
            raise InputError(f"dropout={self.dropout}: expected a share from 0 to below 1")
        if self.weight_am == self.weight_info == self.weight_cosine == 0:
            raise InputError("all weights of the loss are 0: nothing would be learned; raise one")


def train_stage1(
    training: Pairs,
    validation: Pairs,
    settings: Stage1Settings,
    folder: str | Path,
    provenance: Mapping[str, Any],
    device: str = "cpu",
) -> Aligner:
    """Train an aligner and keep the one with the lowest validation loss; continue an interrupted run.

    With ``linear_start`` the ridge regression itself is kept, unless the validation persons' InfoNCE is lower by more
    than its standard error over these persons. Fewer than `JUDGES` cannot tell: the MLP is not trained then.

    The same settings and seed give the same bytes on the same machine, also after a kill. Under ``accelerate launch``
    the processes share each batch; rows that cannot be shared evenly are left out. In validation the class vectors of
    Eq. 8 are the mean directions of the persons' photos.

    Args:
        folder: gets the best aligner, which is returned, ``history.csv``, and ``checkpoint.pt`` during the run.
        provenance: hashes of the inputs, written into the aligner's config.
    Raises:
        InputError: the folder holds an interrupted training of other settings or inputs, the pairs cannot be trained
            on, there are more processes than rows in a batch, or a loss or gradient is not finite.
    """
    folder, checkpoint = Path(folder), Path(folder) / CHECKPOINT_NAME
    made_from = {**provenance, "settings": asdict(settings), "persons": len(training.persons)}
    device, own, writes = share_of(min(settings.batch, len(training.persons)), device)
    with seeded(settings.seed, device):  # initial weights and dropout
        generator = torch.Generator().manual_seed(settings.seed)  # batches: the same in every process
        validation.check()
        training, validation = training.to(device), validation.pooled().to(device)
        loss = identity_loss(training, settings, free=not settings.fixed_centroids).to(device)
        validation_loss = identity_loss(validation, settings, free=False).to(device)
        widths = training.voice.shape[1], settings.hidden_width, training.face.shape[1]
        aligner = Aligner(*widths, settings.dropout, settings.linear_start)
        if settings.linear_start:
            aligner.start_from(fit_ridge(training.pooled_voices().cpu(), training.centroids().cpu()).ratio)
        before = person_losses(aligner.to(device), validation, settings.temperature)
        parameters = [*aligner.parameters(), *loss.parameters()]
        optimiser = torch.optim.AdamW(parameters, settings.learning_rate, weight_decay=settings.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps)
        history = History()
        parts = {"aligner": aligner, "loss": loss, "history": history, "optimiser": optimiser, "schedule": schedule}
        start = resume_training(checkpoint, parts, generator, made_from)
        wait()  # until every process has read the checkpoint

        def record(step: int, train: Mapping[str, float]) -> float:
            """Evaluate, add a row to the history, and keep the aligner if it is the best; its validation loss."""
            scores = validate(aligner, validation, validation_loss)
            better = scores["val_total"] < history.best("val_total")
            if settings.linear_start and step:
                gain = before - person_losses(aligner, validation, settings.temperature)
                better &= bool(gain.mean() > gain.std() / math.sqrt(len(gain)))
            history.append({"step": step, **train, **scores})
            if writes and better:
                aligner.save_pretrained(folder, {**made_from, "step": step, "validation": scores})
            if writes:
                history.write(folder / HISTORY_NAME)
            return scores["val_total"]

        if settings.linear_start and start == 0:  # training may find nothing better
            record(0, {})
        last = 0 if settings.linear_start and len(validation.persons) < JUDGES else settings.steps
        steps = range(start + 1, last + 1)
        # leave=None: below another bar it goes away
        bar = tqdm(steps, "Stage I", last, None, initial=start, unit="step", delay=2.0, disable=not writes)
        for step in bar:
            voice, face, label = training.draw(settings.batch, settings.windows, generator)
            seed_share(settings.seed, step)
            with at_step(step, [training.persons[i] for i in label.tolist()]):
                identity = gather(aligner.train()(voice[own]))
                terms = loss(identity, face[: len(identity)], label[: len(identity)])._asdict()
                descend(optimiser, terms["total"], terms)
                schedule.step()
                if step % settings.evaluate_every == 0 or step == settings.steps:
                    train = {f"train_{name}": value.item() for name, value in terms.items()}
                    value = record(step, {"lr": float(schedule.get_last_lr()[0]), **train})
                    bar.set_postfix(train=train["train_total"], val=value, refresh=False)
            if settings.patience and history.rows:
                best = min(history.rows, key=lambda row: row["val_total"])
                if step - best["step"] >= settings.patience * settings.evaluate_every:
                    break
            if writes and step % settings.checkpoint_every == 0:
                save_training(checkpoint, step, parts, generator, made_from)
        if writes:
            checkpoint.unlink(missing_ok=True)
    wait()
    return Aligner.from_pretrained(folder)


@torch.no_grad()
def validate(aligner: Aligner, validation: Pairs, loss: IdentityLoss) -> dict[str, float]:
    """L_id of other persons, and how often ẑ is nearer to the person's face than to another of the same sex."""
    identity, gallery = aligner.eval()(validation.pooled_voices()), validation.gallery()
    label = torch.arange(len(identity), device=identity.device)
    terms = loss(identity, gallery, label)
    scores, women = identity @ gallery.T, validation.women()
    rivals = (women[:, None] == women) & (label[:, None] != label)
    won = (scores.diagonal()[:, None] > scores)[rivals].float().mean()
    losses = {f"val_{name}": value.item() for name, value in terms._asdict().items()}
    return {**losses, "val_matching_same_sex": float(won)}


@torch.no_grad()
def person_losses(aligner: Aligner, validation: Pairs, temperature: float) -> Float[torch.Tensor, " persons"]:
    """InfoNCE (Eq. 9) of each person among the others' faces."""
    scores = cosines(aligner.eval()(validation.pooled_voices()), validation.gallery()) / temperature
    return torch.logsumexp(scores, dim=1) - scores.diagonal()


def identity_loss(pairs: Pairs, settings: Stage1Settings, free: bool, trained: Aligner | None = None) -> IdentityLoss:
    """L_id over some persons. Class vectors are trained (``free``) or fixed at the persons' mean faces.

    Free ones start at random, or where a ``trained`` aligner, whose class vectors are not on disk, maps the persons.
    """
    pairs.check()
    sizes, centroids = (len(pairs.persons), pairs.face.shape[1]), None if free else pairs.centroids()
    generator = torch.Generator().manual_seed(settings.seed)
    margin = AMSoftmax(*sizes, settings.scale, settings.margin, centroids, generator)
    if free and trained:
        with torch.no_grad():
            margin.weight.copy_(trained.eval()(pairs.pooled_voices()))
    weights = settings.weight_am, settings.weight_info, settings.weight_cosine
    return IdentityLoss(margin, InfoNCE(settings.temperature), *weights)
