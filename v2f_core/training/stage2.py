"""Stage II: aligner and adapters together, L_id + λ_self·L_self (Eq. 15), on stored embeddings and latents."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from v2f_core.artefacts.provenance import versions
from v2f_core.diffusion.consistency import FaceBatch, SelfConsistency
from v2f_core.diffusion.lora import add_lora, lora_parameters
from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner
from v2f_core.training import checkpoints
from v2f_core.training.history import peak_memory
from v2f_core.training.processes import anybody, average, average_gradients, gather, join, seed_share, trainer, wait
from v2f_core.training.stage1 import identity_loss
from v2f_core.training.stage2_settings import Stage2Settings
from v2f_core.training.stage2_watch import Watch
from v2f_core.training.stopping import asked_to_stop, until_terminated

if TYPE_CHECKING:
    from v2f_core.diffusion.prior import Prior
    from v2f_core.training.latents import FacePairs

# more steps may be added later; a batch in parts is as good as a whole one
NOT_DECISIVE = ("steps", "gradient_accumulation")


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
    tensorboard: bool = False,
) -> Aligner:
    """Train an aligner of Stage I further, together with adapters on the prior; or go on where a run was stopped.

    The last weights are kept, not the best: a falling L_self proves nothing (see ``monitors.csv``). A killed and
    resumed run gives the same bits as an unbroken one on the same machine. SIGTERM ends the process, as ever, but a
    checkpoint is written after the step that is under way.

    With ``gradient_accumulation`` the batch's faces are looked at part after part, which takes less memory. Identities
    and L_id are still those of the whole batch at once, so that all its rows are each other's negatives: only rounding
    differs, and a run may go on in more parts, or fewer, than it began in.

    Where a launcher started several processes they share each batch: each draws, hears and looks at its part, the
    identities are gathered, and gradients are averaged, so that a step is that of one process with the whole batch, but
    for rounding and for what dropout drops. Rows that cannot be shared evenly are left out. The first process writes.

    Args:
        aligner: of Stage I; it is trained in place.
        prior: without adapters; it gets some.
        arcface: f_arc with gradients.
        training, validation: persons of two splits.
        settings: see :class:`Stage2Settings`.
        folder: gets ``aligner/``, ``lora/``, ``provenance.json``, ``history.csv`` (a row an evaluation, the first
            before any training), ``monitors.csv`` (a row an evaluation and band of timesteps), ``checkpoint.pt``.
        provenance: hashes of the inputs.
        device: where to train.
        tensorboard: histories and monitors go to ``folder/tensorboard`` too: ``tensorboard --logdir FOLDER``.
    Returns:
        the trained aligner; the adapters are on ``prior``.
    Raises:
        InputError: the folder holds another training, an embedding has no direction, a split has one person, or there
            are more processes than rows in a batch; or a loss is not finite: then as in Stage I (:func:`stage1.train`).
    """
    from tqdm import tqdm

    process, processes = join(device)
    parts = processes * settings.gradient_accumulation
    if parts > min(settings.batch, len(training.wide.persons)) // settings.consistency.copies:
        raise InputError(f"{parts} parts (processes × gradient_accumulation): a batch has fewer rows; take fewer")
    with checkpoints.seeded(settings.seed, device), until_terminated() as terminated:
        accelerator = trainer(device, settings.mixed_precision, Path(folder), tensorboard)
        run = _Run(aligner, prior, arcface, training, validation, settings, Path(folder), provenance, accelerator)
        start = run.restore()
        wait()  # until all have read it
        if start > settings.steps:
            raise InputError(f"{folder}: trained for {start} steps already; give steps={start} or more")
        if start == 0:
            run.evaluate(0)
        left, total = range(start + 1, settings.steps + 1), settings.steps
        with tqdm(left, "Stage II", total, initial=start, unit="step", mininterval=1.0, disable=process > 0) as bar:
            for step in bar:
                run.step(step)
                last = step == settings.steps
                if last or step % settings.evaluate_every == 0:
                    bar.set_postfix({**run.evaluate(step), **peak_memory(accelerator.device)})
                stop = anybody(terminated(), accelerator.device)
                if stop or last or step % settings.checkpoint_every == 0:
                    run.save(step)
                if stop and process == 0:
                    bar.write(asked_to_stop(folder, step), sys.stderr)
                if stop:
                    break
        for tracker in accelerator.trackers:
            tracker.finish()  # what is not written yet is written
        wait()
    return aligner.eval()


class _Run:
    """Everything that one training holds."""

    def __init__(
        self,
        aligner: Aligner,
        prior: Prior,
        arcface: nn.Module,
        training: FacePairs,
        validation: FacePairs,
        settings: Stage2Settings,
        folder: Path,
        provenance: Mapping[str, Any],
        accelerator: Any,
    ) -> None:
        for persons in (training, validation):
            persons.wide.check()  # z_arc, latents and landmarks alike
        self.settings, self.folder = settings, folder
        decisive = {name: value for name, value in asdict(settings).items() if name not in NOT_DECISIVE}
        self.made_from = {**provenance, "settings": decisive}  # what determines the run
        self.share = join()  # which part of each batch, of how many
        self.accelerator, where = accelerator, accelerator.device
        self.aligner, self.prior, self.arcface = aligner.to(where), prior.to(where), arcface.to(where)
        self.training, self.validation = training.to(where), validation.to(where)
        self.generator = torch.Generator().manual_seed(settings.seed)
        add_lora(self.prior, settings.rank, settings.alpha, self.generator)
        if settings.gradient_checkpointing:
            self.prior.unet.enable_gradient_checkpointing()
        # without L_self nothing reaches the adapters: weight decay alone must not move them
        consistency = settings.consistency if settings.weight_self else replace(settings.consistency, trains="aligner")
        self.critic = SelfConsistency(self.prior, self.arcface, consistency)
        free = not settings.identity.fixed_centroids
        self.loss = identity_loss(training.pairs, settings.identity, free, self.aligner).to(where)
        validation_loss = identity_loss(validation.pairs, settings.identity, free=False).to(where)
        own = [*self.aligner.parameters(), *self.loss.parameters()]
        lora = [parameter for parameter in lora_parameters(self.prior).values() if parameter.requires_grad]
        self.parameters = own + lora
        groups: list[dict[str, Any]] = [{"params": own, "lr": settings.learning_rate}]
        groups += [{"params": lora, "lr": settings.learning_rate_lora}] if lora else []
        self.optimiser = self.accelerator.prepare(torch.optim.AdamW(groups, weight_decay=settings.weight_decay))
        self.watch = Watch(self.aligner, self.critic, self.validation, validation_loss, settings, accelerator)
        self.parts: dict[str, checkpoints.Part] = {"aligner": self.aligner, "loss": self.loss, "rows": self.watch}
        self.parts |= {"optimiser": self.optimiser, "lora": _Adapters(self.prior)}
        self.aligner.train()

    def step(self, step: int) -> None:
        """One optimiser step; what is not finite stops the run before anything is changed."""
        settings, before = self.settings, checkpoints.randomness(self.generator)
        voice, label, faces = self.training.draw(settings.batch, settings.identity.windows, self.generator)

        def stop(why: str) -> InputError:
            checkpoints.restore_randomness(before, self.generator)
            self.save(step - 1)
            persons = [self.training.wide.persons[i] for i in label.tolist()]
            return checkpoints.broken_off(self.folder / checkpoints.CHECKPOINT_NAME, step, why, persons)

        part = len(label) // self.share[1]
        count, mine = part * self.share[1], slice(self.share[0] * part, (self.share[0] + 1) * part)
        faces, label = faces[:count], label[:count]
        seed_share(settings.seed, step)
        self.optimiser.zero_grad()
        terms: dict[str, Tensor] = {}
        why = ""
        try:
            with self.accelerator.autocast():
                identity = gather(self.aligner(voice[mine]))
                terms |= self.loss(identity, faces.z_arc, label)._asdict()
            total, asked = terms["total"], identity.detach().requires_grad_()
            if settings.weight_self:
                weight = settings.weight_self * min(1.0, step / max(1, settings.warmup))
                terms["self"] = self._add_consistency(asked, faces, weight)
        except InputError as error:
            why = str(error)
        if anybody(bool(why), self.accelerator.device):
            raise stop(why or "another process could not go on")
        terms = {name: average(value) for name, value in terms.items()}
        if wrong := [name for name, value in terms.items() if not bool(value.isfinite())]:
            raise stop(f"the loss term {wrong[-1]!r} is not finite")
        pull = torch.zeros_like(identity) if asked.grad is None else asked.grad
        torch.autograd.backward([total, identity], [torch.ones_like(total), pull])
        average_gradients(self.parameters)
        norm = self.accelerator.clip_grad_norm_(self.parameters, settings.clip)
        if not bool(torch.as_tensor(norm).isfinite()):
            raise stop("the gradient is not finite")
        self.optimiser.step()
        self.watch.history.count(terms | {"gradient": torch.as_tensor(norm)})

    def _add_consistency(self, identity: Tensor, faces: FaceBatch, weight: float) -> Tensor:
        """Gradients of the weighted L_self of this process's rows, part after part; its value, without gradient.

        Each part knows the whole batch's identities and draws what the whole batch would; so their mean is its L_self.
        """
        parts, drawn = self.settings.gradient_accumulation, self.generator.get_state()
        mean = torch.zeros((), device=identity.device)
        for part in range(parts):
            self.generator.set_state(drawn)
            share = (self.share[0] * parts + part, self.share[1] * parts)
            with self.accelerator.autocast():  # one each: backward frees what its cache holds
                loss = self.critic(identity, faces, self.generator, share).loss
            self.accelerator.backward(weight / parts * loss)
            mean += loss.detach() / parts
        return mean

    def evaluate(self, step: int) -> dict[str, float]:
        """A row for the history, one a band for the monitors, and the weights so far; the row's two losses."""
        with checkpoints.evaluation(step):
            found = self.watch.look(step)
        if self.share[0] == 0:
            made = {**self.made_from, "step": step, "versions": versions("torch", "diffusers", "peft", "v2f-core")}
            self.watch.write(self.folder, made)
        return found

    def save(self, step: int) -> None:
        """Write the checkpoint after a step."""
        if self.share[0]:
            return
        path = self.folder / checkpoints.CHECKPOINT_NAME
        checkpoints.save_training(path, step, self.parts, self.generator, self.made_from)

    def restore(self) -> int:
        """Load the checkpoint if there is one, and give the step it was written after."""
        path = self.folder / checkpoints.CHECKPOINT_NAME
        return checkpoints.resume_training(path, self.parts, self.generator, self.made_from)


class _Adapters:
    """The adapters on a prior, as a checkpoint holds them."""

    def __init__(self, prior: Prior) -> None:
        self.prior = prior

    def state_dict(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in lora_parameters(self.prior).items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, parameter in lora_parameters(self.prior).items():
            parameter.data.copy_(state[name])
