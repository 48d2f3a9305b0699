"""Stage I: train the aligner g_φ on stored embeddings with L_id (Eq. 10). No picture and no sound is touched."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.contrast import InfoNCE
from v2f_core.identity.losses import AMSoftmax, ArcFaceLoss, IdentityLoss, IdentityTerms
from v2f_core.training import checkpoints
from v2f_core.training.history import HISTORY_NAME, History, peak_memory, write_table
from v2f_core.training.pairs import Pairs
from v2f_core.training.processes import anybody, average_gradients, gather, join, seed_share, trainer, wait
from v2f_core.training.ranges import check_not_negative, check_positive
from v2f_core.training.stopping import asked_to_stop, until_terminated

CHECKPOINT_EVERY = 1_000  # steps, which take seconds


@dataclass(frozen=True)
class Stage1Settings:
    """What Stage I can be told. The defaults are the paper's where it says something; the comments say where not.

    Example:
        >>> Stage1Settings(steps=0)
        Traceback (most recent call last):
        v2f_core.errors.InputError: steps=0: expected a whole number of at least 1
    """

    steps: int = 10_000  # the paper says "roughly 100k" in one place and 0–10k in another
    batch: int = 128
    learning_rate: float = 1e-4  # AdamW, decayed to 0 by a cosine
    weight_decay: float = 0.01
    hidden_width: int = 1024
    dropout: float = 0.1
    scale: float = 30.0  # s of Eq. 8: not in the paper
    margin: float = 0.35  # m of Eq. 8: not in the paper
    angular_margin: bool = False  # m added to the angle (radians) instead, as ArcFace does: our addition
    temperature: float = 0.07  # τ of Eq. 9: not in the paper
    two_sided: bool = False  # InfoNCE face → speech as well: our addition
    duplicate_above: float = 0.7  # faces of two persons more alike than this cosine are near-duplicates …
    duplicate_weight: float = 1.0  # … and weigh so much as negatives; 1 is the paper, 0 leaves them out
    weight_am: float = 1.0  # λ_AM of Eq. 10: not in the paper
    weight_info: float = 1.0  # λ_Info of Eq. 10: not in the paper
    weight_cosine: float = 0.0  # λ_cos: our addition; weight_am = weight_info = 0 with it is "w/ CosReg"
    weight_relational: float = 0.0  # relational distillation: the paper speaks of distillation, Eq. 10 has none
    fixed_centroids: bool = False  # class vectors of Eq. 8 kept at the persons' ArcFace centroids: our addition
    windows: int = 1  # up to so many windows of a person are averaged into one training example
    evaluate_every: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "hidden_width", "windows", "evaluate_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: expected a whole number of at least 1")
        check_positive(self, "learning_rate")
        check_not_negative(self, "weight_decay", "weight_am", "weight_info", "weight_cosine", "weight_relational")
        if self.weight_am == self.weight_info == self.weight_cosine == self.weight_relational == 0:
            raise InputError("all weights of the loss are 0: nothing would be learned; raise one")


def train_stage1(
    training: Pairs,
    validation: Pairs,
    settings: Stage1Settings,
    folder: str | Path,
    provenance: Mapping[str, Any],
    device: str = "cpu",
    tensorboard: bool = False,
) -> Aligner:
    """Train an aligner, or go on where a run was stopped; keep the one with the lowest validation loss.

    The validation loss is L_id over the validation persons, who have no class vectors: their ArcFace centroids stand
    in. Each best aligner so far is written to ``folder`` with ``history.csv`` beside it. The same settings and seed on
    the same machine give the same bytes, also after a kill. SIGTERM ends the process, as ever, but a checkpoint is
    written after the step that is under way. What is finished leaves none, and begins anew when it is run again.

    Under ``accelerate launch`` the processes share each batch and compute its loss together: what one alone would get,
    but for rounding and for what dropout drops. Rows that cannot be shared evenly are left out.

    Args:
        training, validation: persons of two splits.
        settings: see :class:`Stage1Settings`.
        folder: gets the aligner's files and ``history.csv``; ``checkpoint.pt`` for as long as it is not finished.
        provenance: hashes of the inputs, for the aligner's config.
        device: where to train.
        tensorboard: the history goes to ``folder/tensorboard`` too: ``tensorboard --logdir FOLDER``.
    Returns:
        the best aligner, as it stands on disk; where it was asked to stop, that of the last step.
    Raises:
        InputError: the folder holds a stopped training of other settings or inputs, an embedding has no direction, a
            split has one person, there are more processes than rows in a batch; or a loss or a gradient is not finite:
            then the state before that step is saved, and the message names step, cause and persons.
    """
    from tqdm import tqdm

    process, processes = join(device)
    if processes > min(settings.batch, len(training.persons)):
        raise InputError(f"{processes} processes: there are fewer rows in a batch; start fewer")
    with checkpoints.seeded(settings.seed, device), until_terminated() as terminated:
        run = _Run(training, validation, settings, Path(folder), provenance, device, tensorboard)
        start, stop = run.restore(), False
        wait()  # until all have read it
        left, total = range(start + 1, settings.steps + 1), settings.steps
        with tqdm(left, "Stage I", total, initial=start, unit="step", mininterval=1.0, disable=process > 0) as bar:
            for step in bar:
                run.step(step)
                last = step == settings.steps
                if last or step % settings.evaluate_every == 0:
                    bar.set_postfix({**run.look(step), **peak_memory(run.device)})
                stop = anybody(terminated(), run.device) and not last
                if stop or step % CHECKPOINT_EVERY == 0:
                    run.save(step)
                if stop and process == 0:
                    bar.write(asked_to_stop(folder, step), sys.stderr)
                if stop:
                    break
        for tracker in run.accelerator.trackers:
            tracker.finish()  # what is not written yet is written
        if process == 0 and not stop:
            run.checkpoint.unlink(missing_ok=True)
    wait()
    return run.aligner.eval() if stop else Aligner.from_pretrained(folder)


class _Run:
    """Everything that one training holds."""

    def __init__(
        self,
        training: Pairs,
        validation: Pairs,
        settings: Stage1Settings,
        folder: Path,
        provenance: Mapping[str, Any],
        device: str,
        tensorboard: bool,
    ) -> None:
        self.settings, self.folder, self.checkpoint = settings, folder, folder / checkpoints.CHECKPOINT_NAME
        self.made_from = {**provenance, "settings": asdict(settings), "persons": len(training.persons)}
        self.share = join()
        self.accelerator = trainer(device, "no", folder, tensorboard)
        self.device = self.accelerator.device
        self.generator = torch.Generator().manual_seed(settings.seed)  # every process draws the same
        self.training, self.validation = training.to(self.device), validation.to(self.device)
        widths = training.voice.shape[1], settings.hidden_width, training.face.shape[1]
        self.aligner = Aligner(*widths, settings.dropout).to(self.device).train()
        self.loss = identity_loss(self.training, settings, free=not settings.fixed_centroids).to(self.device)
        self.validation_loss = identity_loss(self.validation, settings, free=False).to(self.device)
        self.parameters = [*self.aligner.parameters(), *self.loss.parameters()]
        self.optimiser = torch.optim.AdamW(self.parameters, settings.learning_rate, weight_decay=settings.weight_decay)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimiser, settings.steps)
        self.history = History()
        self.parts: dict[str, checkpoints.Part] = {"aligner": self.aligner, "loss": self.loss, "rows": self.history}
        self.parts |= {"optimiser": self.optimiser, "schedule": self.schedule}

    def step(self, step: int) -> None:
        """One optimiser step; what is not finite stops the run before anything is changed."""
        before = checkpoints.randomness(self.generator)
        voice, face, label = self.training.draw(self.settings.batch, self.settings.windows, self.generator)
        process, processes = self.share
        part = len(label) // processes
        seed_share(self.settings.seed, step)
        try:
            identity = gather(self.aligner(voice[process * part : (process + 1) * part]))
            self.terms = self.loss(identity, face[: len(identity)], label[: len(identity)])
            if wrong := [name for name, value in self.terms._asdict().items() if not bool(value.isfinite())]:
                raise InputError(f"the loss term {wrong[-1]!r} is not finite")
            self.optimiser.zero_grad()
            self.terms.total.backward()
            average_gradients(self.parameters)
            if not all(bool(p.grad.isfinite().all()) for p in self.parameters if p.grad is not None):
                raise InputError("the gradient is not finite")
        except InputError as error:
            checkpoints.restore_randomness(before, self.generator)
            self.save(step - 1)
            persons = [self.training.persons[i] for i in label.tolist()]
            raise checkpoints.broken_off(self.checkpoint, step, str(error), persons) from error
        self.optimiser.step()
        self.schedule.step()

    def look(self, step: int) -> dict[str, float]:
        """A row for the history; the best so far is written. The row's two losses."""
        with checkpoints.evaluation(step):
            score = validate(self.aligner, self.validation, self.validation_loss)
        best = min((row["val_total"] for row in self.history.rows), default=float("inf"))
        row = {"step": step, "lr": float(self.schedule.get_last_lr()[0]), **_row("train", self.terms), **score}
        self.history.rows.append(row)
        self.accelerator.log({name: value for name, value in row.items() if name != "step"}, step)
        if self.share[0] == 0:
            if score["val_total"] < best:
                self.aligner.save_pretrained(self.folder, {**self.made_from, "step": step, "validation": score})
            write_table(self.history.rows, self.folder / HISTORY_NAME)
        return {"train": row["train_total"], "val": row["val_total"]}

    def save(self, step: int) -> None:
        """Write the checkpoint after a step."""
        if self.share[0] == 0:
            checkpoints.save_training(self.checkpoint, step, self.parts, self.generator, self.made_from)

    def restore(self) -> int:
        """Load the checkpoint if there is one, and give the step it was written after."""
        return checkpoints.resume_training(self.checkpoint, self.parts, self.generator, self.made_from)


@torch.no_grad()
def validate(aligner: Aligner, validation: Pairs, loss: IdentityLoss) -> dict[str, float]:
    """L_id of an aligner over other persons, and how often it tells the right one of two faces of the same sex."""
    aligner.eval()
    identity = aligner(validation.pooled_voices())
    aligner.train()
    terms = loss(identity, validation.gallery(), torch.arange(len(identity), device=identity.device))
    scores = identity @ validation.gallery().T
    women = torch.tensor([sex == "f" for sex in validation.sexes], device=scores.device)
    rival = (women[:, None] == women) & ~torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    won = (scores.diagonal()[:, None] > scores)[rival].float().mean().item()
    return {**_row("val", terms), "val_matching_same_sex": won}


def _row(name: str, terms: IdentityTerms) -> dict[str, float]:
    return {f"{name}_{term}": value.item() for term, value in terms._asdict().items()}


def identity_loss(pairs: Pairs, settings: Stage1Settings, free: bool, trained: Aligner | None = None) -> IdentityLoss:
    """L_id over some persons, its class vectors kept at the persons' centroids, or trained (``free``).

    Those begin anywhere, or where a trained aligner puts the persons, since its own class vectors are not kept.
    """
    pairs.check()
    generator = torch.Generator().manual_seed(settings.seed)
    centroids = None if free else pairs.centroids()
    classes, dim = len(pairs.persons), pairs.face.shape[1]
    margin_loss = ArcFaceLoss if settings.angular_margin else AMSoftmax
    loss = IdentityLoss(
        margin_loss(classes, dim, settings.scale, settings.margin, centroids, generator),
        InfoNCE(settings.temperature, settings.two_sided, settings.duplicate_above, settings.duplicate_weight),
        *(settings.weight_am, settings.weight_info, settings.weight_cosine, settings.weight_relational),
    )
    if free and trained:
        with torch.no_grad():
            voices = pairs.pooled_voices().to(next(trained.parameters()).device)
            loss.am_softmax.weight.copy_(trained.eval()(voices))
    return loss
