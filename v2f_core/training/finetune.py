"""Stage I from waveforms: the aligner, and with it the uppermost layers of the speech encoder (L_id, Eq. 10).

Stage I on stored embeddings hears each window once and for all. Here every clip is read, changed (noise, masks) and
embedded anew at each step. Clips are those of the paper: 1.25 s long, each beginning where the one before is half over.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from v2f_core.artefacts.provenance import folder_hash
from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner
from v2f_core.speech.encoders import ASTEncoder, ECAPAEncoder, load_encoder
from v2f_core.speech.unfreezing import unfreeze
from v2f_core.training import checkpoints
from v2f_core.training.embeddings import embed_dataset
from v2f_core.training.finetune_settings import FinetuneSettings
from v2f_core.training.finetune_watch import Watch
from v2f_core.training.history import peak_memory
from v2f_core.training.processes import only_one
from v2f_core.training.recordings import Batch, Recordings, recordings, whole
from v2f_core.training.stage1 import identity_loss
from v2f_core.training.stopping import asked_to_stop, until_terminated

if TYPE_CHECKING:
    from v2f_core.artefacts.profiles import Profile


def finetune(
    encoder: ASTEncoder | ECAPAEncoder,
    source: str | Path,
    aligner: Aligner | None,
    training: Recordings,
    validation: Recordings,
    settings: FinetuneSettings,
    folder: str | Path,
    provenance: Mapping[str, Any],
    device: str = "cpu",
    workers: int = 0,
) -> Aligner:
    """Train from waveforms, or go on where a run was stopped; keep encoder and aligner of the lowest validation loss.

    Validation hears clips as they are, before the first step too. A killed and resumed run gives the same bits as an
    unbroken one on the same machine. SIGTERM ends the process, as ever, but a checkpoint is written after the step that
    is under way.

    Args:
        encoder: as ``load_encoder`` gives it; it is trained in place.
        source: the folder that it came from.
        aligner: of Stage I, trained in place; None begins with a new one.
        training, validation: persons of two splits.
        settings: see :class:`FinetuneSettings`.
        folder: gets ``ast/`` or ``ecapa/`` and ``aligner/``, named and filled as a profile has them, ``history.csv``
            and ``checkpoint.pt``.
        provenance: hashes of the inputs.
        device: where to train.
        workers: processes that read recordings.
    Returns:
        the best aligner, as it stands on disk.
    Raises:
        InputError: the folder holds another training, a recording cannot be read any more, the encoder has fewer
            layers; or a loss is not finite: then the state before that step is saved, and the message names step, term
            and persons.
    """
    from tqdm import tqdm

    only_one("Stage I from waveforms")
    identity = settings.identity
    with checkpoints.seeded(identity.seed, device), until_terminated() as terminated:
        run = _Run(encoder, source, aligner, training, validation, settings, Path(folder), provenance, device, workers)
        start = run.restore()
        if start == 0:
            run.look(0)
        left = range(start + 1, identity.steps + 1)
        drawn = (training.draw(identity.batch, identity.seed, step) for step in left)
        stream = training.read([path for batch in drawn for path in batch.paths], workers)
        with tqdm(left, "Stage I", identity.steps, initial=start, unit="step", mininterval=1.0) as bar:
            for step in bar:
                run.step(step, training.draw(identity.batch, identity.seed, step), stream)
                last = step == identity.steps
                if last or step % identity.evaluate_every == 0:
                    bar.set_postfix({"val": run.look(step), **peak_memory(device)})
                stop = terminated()
                if stop or last or step % settings.checkpoint_every == 0:
                    run.save(step)
                if stop:
                    bar.write(asked_to_stop(folder, step), sys.stderr)
                    break
    return Aligner.from_pretrained(Path(folder) / "aligner")


def run(
    profile: Profile,
    settings: FinetuneSettings,
    folder: str | Path,
    aligner: str | Path | None = None,
    device: str = "cpu",
    workers: int = 0,
) -> Aligner:
    """:func:`finetune` with a profile's encoder and dataset; what is not embedded yet is embedded first.

    Args:
        aligner: folder of one to start from.
        settings, folder, device, workers: see :func:`finetune`.
    Raises:
        InputError: as :func:`finetune`, or a part of the profile is missing or damaged.
    """
    from v2f_core.data.layouts import open_dataset

    manifest, source = open_dataset(profile), profile.part(profile.encoder)
    voices, faces = embed_dataset(profile, manifest, device, workers)
    training, validation = (
        recordings(manifest, voices, faces, split, profile.clip_seconds) for split in ("train", "val")
    )
    made: dict[str, Any] = {"dataset": manifest.root.name, "faces_sha256": folder_hash(profile.part("faces"))}
    made |= {"encoder_sha256": folder_hash(source), "aligner_sha256": aligner and folder_hash(aligner)}
    begun = Aligner.from_pretrained(aligner) if aligner else None
    encoder = load_encoder(profile.encoder, source, profile.ast_frames, profile.ast_positions)
    return finetune(encoder, source, begun, training, validation, settings, folder, made, device, workers)


class _Run:
    """Everything that one training holds."""

    def __init__(
        self,
        encoder: ASTEncoder | ECAPAEncoder,
        source: str | Path,
        aligner: Aligner | None,
        training: Recordings,
        validation: Recordings,
        settings: FinetuneSettings,
        folder: Path,
        provenance: Mapping[str, Any],
        device: str,
        workers: int,
    ) -> None:
        self.settings, self.folder, self.device = settings, folder, device
        self.made_from = {**provenance, "settings": asdict(settings)}  # what determines the run
        identity, pairs = settings.identity, training.pairs
        self.persons = pairs.persons
        self.encoder = encoder.to(device)
        self.top = unfreeze(self.encoder, settings.unfreeze)
        fresh = (encoder.dim, identity.hidden_width, pairs.face.shape[1], identity.dropout)
        self.aligner = (aligner or Aligner(*fresh)).to(device)
        self.loss = identity_loss(pairs, identity, not identity.fixed_centroids, aligner).to(device)
        validation_loss = identity_loss(validation.pairs, identity, free=False).to(device)
        own = [*self.aligner.parameters(), *self.loss.parameters()]
        groups: list[dict[str, Any]] = [
            {"params": own, "lr": identity.learning_rate, "weight_decay": identity.weight_decay}
        ]
        if upper := list(self.top.parameters()):
            rate, decay = settings.learning_rate_encoder, settings.weight_decay_encoder
            groups.append({"params": upper, "lr": rate, "weight_decay": decay})
        self.parameters = own + upper
        self.optimiser = torch.optim.AdamW(groups)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimiser, identity.steps)
        self.trained = nn.ModuleDict({"aligner": self.aligner, "loss": self.loss, "encoder": self.top})
        seen = (self.encoder, self.aligner, Path(source), validation, validation_loss)
        self.watch = Watch(*seen, settings, folder, self.made_from, device, workers)
        self.parts: dict[str, checkpoints.Part] = {"trained": self.trained, "optimiser": self.optimiser}
        self.parts |= {"schedule": self.schedule, "rows": self.watch.history}
        self._train()

    def _train(self) -> None:
        self.encoder.eval()  # dropout and batch statistics of the frozen part are those of inference
        self.trained.train()

    def step(self, step: int, drawn: Batch, stream: Iterator[Any]) -> None:
        """One optimiser step on the clips that come next; what is not finite stops the run before anything changes."""
        before, device = checkpoints.randomness(drawn.generator), self.device
        buffers = [buffer.clone() for buffer in self.top.buffers()]  # batch statistics move in the forward pass
        read = whole(list(islice(stream, len(drawn.paths))))
        waves = torch.stack([clips[int(u * len(clips))] for clips, u in zip(read, drawn.place, strict=True)])
        waves = self.settings.augmentation.of_waves(waves, drawn.generator).to(device)
        change = self.settings.augmentation.of_spectrum(drawn.generator)

        def stop(why: str) -> InputError:
            checkpoints.restore_randomness(before, drawn.generator)
            for buffer, was in zip(self.top.buffers(), buffers, strict=True):
                buffer.copy_(was)
            self.save(step - 1)
            persons = [self.persons[i] for i in drawn.label.tolist()]
            return checkpoints.broken_off(self.folder / checkpoints.CHECKPOINT_NAME, step, why, persons)

        try:
            identity = self.aligner(self.encoder(waves, change))
            terms = self.loss(identity, drawn.face.to(device), drawn.label.to(device))._asdict()
        except InputError as error:
            raise stop(str(error)) from error
        if wrong := [name for name, value in terms.items() if not bool(value.isfinite())]:
            raise stop(f"the loss term {wrong[-1]!r} is not finite")
        self.optimiser.zero_grad()
        terms["total"].backward()
        if not bool(nn.utils.clip_grad_norm_(self.parameters, torch.inf).isfinite()):
            raise stop("the gradient is not finite")
        self.optimiser.step()
        self.schedule.step()
        self.watch.history.count(terms)

    def look(self, step: int) -> float:
        """A row for the history; the best so far is written. The validation loss."""
        with checkpoints.evaluation(step):
            found = self.watch.look(step)
        self._train()
        return found

    def save(self, step: int) -> None:
        """Write the checkpoint after a step."""
        path = self.folder / checkpoints.CHECKPOINT_NAME
        # randomness is that of dropout: a step's draws have their own seed
        checkpoints.save_training(path, step, self.parts, torch.Generator(), self.made_from)

    def restore(self) -> int:
        """Load the checkpoint if there is one, and give the step it was written after."""
        path = self.folder / checkpoints.CHECKPOINT_NAME
        return checkpoints.resume_training(path, self.parts, torch.Generator(), self.made_from)
