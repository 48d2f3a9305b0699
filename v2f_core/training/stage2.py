"""Stage II: train the aligner and LoRA adapters with L_id and L_self (Eq. 15) on stored embeddings and latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from v2f_core.artefacts.checkpoints import CHECKPOINT_NAME, HISTORY_NAME, History, resume_training, save_training
from v2f_core.artefacts.files import versions, write_json
from v2f_core.artefacts.profiles import Profile
from v2f_core.diffusion.consistency import Critic, SelfConsistency, describe, paper
from v2f_core.diffusion.lora import add_lora, lora_parameters, save_lora
from v2f_core.diffusion.monitors import collapse_monitors
from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.losses import IdentityLoss
from v2f_core.training.guards import at_step, check_numbers, descend, seeded
from v2f_core.training.latents import FacePairs
from v2f_core.training.processes import average, gather, seed_share, share_of, wait
from v2f_core.training.stage1 import Stage1Settings, identity_loss, validate

MONITORS_NAME = "monitors.csv"


@dataclass(frozen=True)
class Stage2Settings:
    """Settings of Stage II. Defaults are the paper's where it gives a value; the comments say where it does not.

    Raises:
        InputError: a number is out of its range, or a choice is unknown.
    """

    steps: int = 20_000
    batch: int = 16
    learning_rate: float = 1e-6  # of φ, AdamW; constant
    learning_rate_lora: float = 1e-6  # the paper has one rate for both
    weight_decay: float = 0.01  # Stage I's: none is given for Stage II
    rank: int = 16
    alpha: float = 16.0
    weight_id: float = 1.0  # λ_id of Eq. 15: not in the paper
    weight_self: float = 1.0  # λ_self of Eq. 15: not in the paper; 0 is "w/o DSC"
    warmup: int = 500  # λ_self rises from 0 over this many steps: "weight warm-up", its length is not in the paper
    t_min: int = 20  # "timestep truncation": the range is not in the paper
    t_max: int = 979
    trains: str = "both"  # what L_self trains: both, aligner or lora; our addition, the paper trains both
    clip: float = 1.0  # largest norm of the whole gradient: not in the paper
    gradient_checkpointing: bool = False  # of the UNet: less memory, a third more time
    mixed_precision: str = "no"  # or "bf16"; the paper: "mixed precision"
    evaluate_every: int = 500
    checkpoint_every: int = 100
    monitored: int = 32  # this many validation faces are monitored …
    monitor_bands: int = 4  # … in this many bands of timesteps
    seed: int = 0
    identity: Stage1Settings = field(default_factory=Stage1Settings)  # L_id, and how voices are pooled

    def __post_init__(self) -> None:
        counts = ("steps", "batch", "rank", "evaluate_every", "checkpoint_every", "monitor_bands")
        check_numbers(self, positive=(*counts, "learning_rate", "learning_rate_lora", "clip"))
        for name, allowed in {"trains": ("both", "aligner", "lora"), "mixed_precision": ("no", "bf16")}.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"{name}={getattr(self, name)!r}: expected {' or '.join(allowed)}")


def from_profile(profile: Profile, **changes: Any) -> Stage2Settings:
    """A profile's settings of Stage II, with its Stage I's L_id; ``changes`` replace some."""
    return Stage2Settings(**{"identity": Stage1Settings(**profile.stage1), **profile.stage2, **changes})


def train_stage2(
    aligner: Aligner,
    prior: Prior,
    arcface: nn.Module,
    training: FacePairs,
    validation: FacePairs,
    settings: Stage2Settings,
    folder: str | Path,
    provenance: Mapping[str, Any],
    device: str = "cpu",
    critic: Critic = paper,
) -> Aligner:
    """Train an aligner of Stage I further, together with adapters on the prior; continue an interrupted run.

    The last weights are kept, not the best: a falling L_self proves nothing (see ``monitors.csv``). The same settings
    and seed give the same bits on the same machine, also after a kill. A finished run continues when it is run again
    with more steps.

    Under ``accelerate launch`` the processes share each batch: identities are gathered for L_id, each process computes
    L_self of its own rows, and gradients are averaged. Critics that compare persons compare those of one process.

    Args:
        aligner, prior, arcface: of Stage I; without adapters; f_arc with gradients. The first two change in place.
        folder: gets ``aligner/``, ``lora/``, ``provenance.json``, ``history.csv`` (a row an evaluation, the first
            before any training), ``monitors.csv`` (a row an evaluation and band of timesteps), ``checkpoint.pt``.
        critic: L_self, one of :mod:`v2f_core.diffusion.consistency`, of :mod:`v2f_core.studies.critics`, or your own.
    Raises:
        InputError: as of Stage I; or the folder holds a training of more steps.
    """
    folder, checkpoint = Path(folder), Path(folder) / CHECKPOINT_NAME
    decisive = {name: value for name, value in asdict(settings).items() if name != "steps"}  # steps may be added later
    made_from = {**provenance, "settings": decisive, "critic": describe(critic)}
    device, own, writes = share_of(min(settings.batch, len(training.wide.persons)), device)
    for persons in (training, validation):
        persons.wide.check()  # z_arc, latents and landmarks alike
    autocast = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=settings.mixed_precision == "bf16")
    with seeded(settings.seed, device):  # dropout
        generator = torch.Generator().manual_seed(settings.seed)  # adapters, batches, noise: the same in every process
        training, validation = training.to(device), validation.to(device)
        aligner, prior, arcface = aligner.to(device), prior.to(device), arcface.to(device)
        add_lora(prior, settings.rank, settings.alpha, generator)
        adapters = nn.ParameterList(lora_parameters(prior).values())
        # adapters that L_self does not reach must not be moved by weight decay either
        adapters.requires_grad_(settings.weight_self > 0 and settings.trains != "aligner")
        if settings.gradient_checkpointing:
            prior.unet.enable_gradient_checkpointing()
        loss = identity_loss(training.pairs, settings.identity, not settings.identity.fixed_centroids, aligner)
        validation_loss = identity_loss(validation.pairs, settings.identity, free=False).to(device)
        consistency = SelfConsistency(prior, arcface, critic, t_min=settings.t_min, t_max=settings.t_max)
        groups = [
            {"params": [*aligner.parameters(), *loss.to(device).parameters()], "lr": settings.learning_rate},
            {"params": adapters, "lr": settings.learning_rate_lora},
        ]
        optimiser = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
        history, monitors = History(), History()
        parts = {"aligner": aligner, "loss": loss, "lora": adapters, "optimiser": optimiser}
        parts |= {"history": history, "monitors": monitors}
        start = resume_training(checkpoint, parts, generator, made_from)
        wait()  # until every process has read the checkpoint
        if start > settings.steps:
            raise InputError(f"{folder}: trained for {start} steps already; give steps={start} or more")

        def record(step: int) -> dict[str, float]:
            """Evaluate, add rows to both tables, write tables and weights; return the row of the history."""
            row, rows = evaluate(aligner, consistency, validation, validation_loss, settings)
            history.append({"step": step, **history.means(), **row})
            for values in rows:
                monitors.append({"step": step, **values})
            if writes:
                made = {**made_from, "step": step, "versions": versions("torch", "diffusers", "peft", "v2f-core")}
                aligner.save_pretrained(folder / "aligner", made)
                save_lora(prior, folder / "lora", made)
                write_json(folder / "provenance.json", made)
                history.write(folder / HISTORY_NAME)
                monitors.write(folder / MONITORS_NAME)
            return row

        if start == 0:
            record(0)
        steps = range(start + 1, settings.steps + 1)
        bar = tqdm(steps, "Stage II", settings.steps, initial=start, unit="step", disable=not writes)
        for step in bar:
            voice, label, faces = training.draw(settings.batch, settings.identity.windows, generator)
            view = consistency.look(faces, generator)  # noise for the whole batch: the same in every process
            seed_share(settings.seed, step)
            with at_step(step, [training.wide.persons[i] for i in label.tolist()]):
                with autocast:
                    identity = aligner.train()(voice[own])
                    gathered = gather(identity)
                    terms = loss(gathered, faces.z_arc[: len(gathered)], label[: len(gathered)])._asdict()
                    l_id, l_self = terms["total"], torch.zeros((), device=device)  # L_id's total, as in Stage I
                    if settings.weight_self:
                        judged = identity.detach() if settings.trains == "lora" else identity
                        l_self = consistency.judge(view[own], judged, faces[own]).loss
                warm = min(1.0, step / max(1, settings.warmup))
                total = settings.weight_id * l_id + warm * settings.weight_self * l_self  # Eq. 15
                terms["self"] = average(l_self)
                terms["gradient"] = descend(optimiser, total, terms, settings.clip)
                history.count(terms)
                last = step == settings.steps
                if last or step % settings.evaluate_every == 0:
                    row = record(step)
                    bar.set_postfix(val_total=row["val_total"], val_self=row["val_self"])
            if writes and (last or step % settings.checkpoint_every == 0):
                save_training(checkpoint, step, parts, generator, made_from)
    wait()
    return aligner.eval()


@torch.no_grad()
def evaluate(
    aligner: Aligner,
    consistency: SelfConsistency,
    validation: FacePairs,
    loss: IdentityLoss,
    settings: Stage2Settings,
) -> tuple[dict[str, float], list[dict[str, int | float]]]:
    """L_id and L_self of validation persons, and the collapse monitors of each band of timesteps.

    The noise is the same at every evaluation, so that rows differ by the weights alone.
    """
    row = validate(aligner, validation.pairs, loss)
    voice, faces = validation.first(settings.monitored)
    identity, generator = aligner.eval()(voice), torch.Generator().manual_seed(settings.seed)
    prior, arcface, critic = consistency.prior, consistency.arcface, consistency.critic
    parts = np.array_split(range(settings.t_min, settings.t_max + 1), settings.monitor_bands)
    bands = [(int(part[0]), int(part[-1])) for part in parts if len(part)]
    rows = collapse_monitors(prior, arcface, identity, faces, bands, generator)
    for values, (t_min, t_max) in zip(rows, bands, strict=True):
        banded = SelfConsistency(prior, arcface, critic, t_min=t_min, t_max=t_max)
        values["self"] = float(banded(identity, faces, generator).loss)
    return {**row, "val_self": sum(values["self"] for values in rows) / len(rows)}, rows
