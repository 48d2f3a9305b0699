"""Stage I: train the aligner g_φ on stored embeddings with L_id (Eq. 10). No picture and no sound is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.contrast import InfoNCE
from v2f_core.identity.losses import AMSoftmax, ArcFaceLoss, IdentityLoss, IdentityTerms
from v2f_core.training.history import HISTORY_NAME, peak_memory, write_table
from v2f_core.training.pairs import Pairs
from v2f_core.training.processes import average_gradients, gather, join, own_device, wait


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
        if self.weight_am == self.weight_info == self.weight_cosine == self.weight_relational == 0:
            raise InputError("all weights of the loss are 0: nothing would be learned; raise one")


def train(
    training: Pairs,
    validation: Pairs,
    settings: Stage1Settings,
    folder: str | Path,
    provenance: Mapping[str, Any],
    device: str = "cpu",
) -> Aligner:
    """Train an aligner; keep the one with the lowest validation loss.

    The validation loss is L_id over the validation persons, who have no class vectors: their ArcFace centroids stand
    in. Each best aligner so far is written to ``folder`` with ``history.csv`` beside it, so that a kill costs at most
    what came after. The same settings and seed on the same machine give the same bytes.

    Under ``accelerate launch`` the processes share each batch and compute its loss together: what one alone would get,
    but for rounding and for what dropout drops. Rows that cannot be shared evenly are left out.

    Args:
        training, validation: persons of two splits.
        settings: see :class:`Stage1Settings`.
        folder: gets the aligner's files and ``history.csv``.
        provenance: hashes of the inputs, for the aligner's config.
        device: where to train.
    Returns:
        the best aligner, as it stands on disk.
    """
    from tqdm import trange

    folder, device = Path(folder), own_device(device)
    process, processes = join(device)
    if processes > min(settings.batch, len(training.persons)):
        raise InputError(f"{processes} processes: there are fewer rows in a batch; start fewer")
    generator = torch.Generator().manual_seed(settings.seed)  # every process draws the same
    training, validation = training.to(device), validation.to(device)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)  # initial weights and dropout read the global generator
        aligner = Aligner(training.voice.shape[1], settings.hidden_width, training.face.shape[1], settings.dropout)
        aligner = aligner.to(device).train()
        loss = identity_loss(training, settings, free=not settings.fixed_centroids).to(device)
        validation_loss = identity_loss(validation, settings, free=False).to(device)
        parameters = [*aligner.parameters(), *loss.parameters()]
        optimiser = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps)
        if process:
            torch.manual_seed(settings.seed + process)  # dropout differs between the shares of a batch
        history: list[dict[str, float | int]] = []
        best = float("inf")
        with trange(1, settings.steps + 1, desc="Stage I", unit="step", mininterval=1.0, disable=bool(process)) as bar:
            for step in bar:
                voice, face, label = training.draw(settings.batch, settings.windows, generator)
                share = len(label) // processes
                identity = gather(aligner(voice[process * share : (process + 1) * share]))
                terms = loss(identity, face[: len(identity)], label[: len(identity)])
                optimiser.zero_grad()
                terms.total.backward()
                average_gradients(parameters)
                optimiser.step()
                schedule.step()
                if step % settings.evaluate_every and step != settings.steps:
                    continue
                score = validate(aligner, validation, validation_loss)
                history.append({"step": step, "lr": float(schedule.get_last_lr()[0]), **_row("train", terms), **score})
                losses = {"train": history[-1]["train_total"], "val": score["val_total"]}
                bar.set_postfix({**losses, **peak_memory(device)})
                if process:
                    continue
                if score["val_total"] < best:
                    best = score["val_total"]
                    learned = {"settings": asdict(settings), "persons": len(training.persons), "step": step}
                    made = {**provenance, **learned, "validation": score}
                    aligner.save_pretrained(folder, made)
                write_table(history, folder / HISTORY_NAME)
    wait()
    return Aligner.from_pretrained(folder)


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
