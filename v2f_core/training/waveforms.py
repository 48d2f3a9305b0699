"""Stage I from waveforms: train the aligner and the top layers of the speech encoder together with L_id (Eq. 10).

The paper says only that top layers may be trained. Every step reads clips of 1.25 s and embeds them anew.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from v2f_core.artefacts.checkpoints import CHECKPOINT_NAME, HISTORY_NAME, History, resume_training, save_training
from v2f_core.artefacts.files import folder_hash
from v2f_core.artefacts.store import Embeddings
from v2f_core.data.manifest import Manifest
from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner
from v2f_core.speech.audio import CLIP_SECONDS, read_clips
from v2f_core.speech.encoders import SpeechEncoder, embed_windows, save_encoder, unfreeze
from v2f_core.training.guards import at_step, descend, seeded
from v2f_core.training.pairs import Pairs, pair_up
from v2f_core.training.stage1 import Stage1Settings, identity_loss, validate

TOGETHER = 16  # recordings that are embedded in one call


@dataclass(frozen=True)
class WaveformSettings(Stage1Settings):
    """Settings of Stage I from waveforms. `windows` has no effect: a training example is one clip."""

    unfreeze: int = 1  # layers from the top, see the encoder's `layers`; 0 trains the aligner alone
    learning_rate_encoder: float = 1e-5  # decays with the aligner's
    weight_decay_encoder: float = 0.01
    checkpoint_every: int = 100


@dataclass(frozen=True)
class Recordings:
    """The recordings of some persons (in the order of their windows in ``pairs``), and clips of ``seconds`` of them."""

    pairs: Pairs  # the windows' embeddings are by the encoder before it is trained
    paths: list[list[Path]]
    seconds: float

    @classmethod
    def of(
        cls, manifest: Manifest, voices: Embeddings, faces: Embeddings, split: str, seconds: float = CLIP_SECONDS
    ) -> Recordings:
        """The recordings of a split's persons, without those that could not be embedded."""
        pairs, table = pair_up(manifest, voices, faces, split), manifest.voices(split)
        by_person = table[table.path.isin(set(voices.items))].groupby("person").path
        paths = [[manifest.root / path for path in by_person.get_group(who)] for who in pairs.persons]
        return cls(pairs, paths, seconds)

    def draw(
        self, batch: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch samples"], Float[Tensor, "batch identity"], Int[Tensor, " batch"]]:
        """Random persons, none twice; of each a random clip of a random recording, a random photo, the index."""
        label = torch.randperm(len(self.paths), generator=generator)[:batch]
        which, photo, place = torch.rand(3, len(label), generator=generator)
        paths = [self.paths[i][int(u * len(self.paths[i]))] for i, u in zip(label.tolist(), which, strict=True)]
        clips = [self.read(path) for path in paths]
        voice = torch.stack([rows[int(u * len(rows))] for rows, u in zip(clips, place, strict=True)])
        start = self.pairs.face_start
        return voice, self.pairs.face[start[label] + (photo * start.diff()[label]).long()], label

    def read(self, path: Path) -> Float[Tensor, "clips samples"]:
        """The clips of a recording."""
        return read_clips(path, self.seconds)

    def embedded_by(self, encoder: SpeechEncoder) -> Pairs:
        """The pairs, with every window embedded by this encoder."""
        paths, rows = [path for paths in self.paths for path in paths], list[Tensor]()
        for start in range(0, len(paths), TOGETHER):
            rows += embed_windows(encoder, [self.read(path) for path in paths[start : start + TOGETHER]])
        return replace(self.pairs, voice=torch.cat(rows).cpu())


def train_from_waveforms(
    encoder: SpeechEncoder,
    source: str | Path,
    aligner: Aligner | None,
    training: Recordings,
    validation: Recordings,
    settings: WaveformSettings,
    folder: str | Path,
    provenance: Mapping[str, Any],
    device: str = "cpu",
) -> Aligner:
    """Train aligner and top layers, or continue an interrupted run; keep those of the lowest validation loss.

    Validation uses all clips, also before the first step. Seeds, kills and errors are as in
    :func:`~v2f_core.training.stage1.train_stage1`.

    Args:
        encoder, source: a speech encoder, which is trained in place, and the folder that it was loaded from.
        aligner: of Stage I, trained in place; None starts with a new one.
        folder: gets the best encoder (``ast/``, ``ecapa/`` or ``ge2e/``), ``aligner/``, history and checkpoint.
    """
    if (processes := int(os.environ.get("WORLD_SIZE", 1))) > 1:
        raise InputError(f"{processes} processes: Stage I from waveforms runs in one; start it without a launcher")
    folder, pairs = Path(folder), training.pairs
    checkpoint, made_from = folder / CHECKPOINT_NAME, {**provenance, "settings": asdict(settings)}
    encoder_folder, generator = folder / encoder.kind, torch.Generator().manual_seed(settings.seed)
    with seeded(settings.seed, device):
        top = unfreeze(encoder.to(device), settings.unfreeze)
        trained = aligner or Aligner(encoder.dim, settings.hidden_width, pairs.face.shape[1], settings.dropout)
        trained.to(device)
        loss = identity_loss(pairs.to(device), settings, not settings.fixed_centroids, aligner).to(device)
        validation_loss = identity_loss(validation.pairs, settings, free=False).to(device)
        own, upper = [*trained.parameters(), *loss.parameters()], list(top.parameters())
        groups = [
            {"params": own, "lr": settings.learning_rate, "weight_decay": settings.weight_decay},
            {"params": upper, "lr": settings.learning_rate_encoder, "weight_decay": settings.weight_decay_encoder},
        ]
        optimiser = torch.optim.AdamW(groups)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps)
        nets = nn.ModuleDict({"aligner": trained, "loss": loss, "encoder": top})
        history = History()
        parts = {"trained": nets, "optimiser": optimiser, "schedule": schedule, "history": history}

        def evaluate(step: int) -> float:
            encoder.eval()
            embedded = validation.embedded_by(encoder) if upper else validation.pairs
            scores, best = validate(trained, embedded.to(device), validation_loss), history.best("val_total")
            history.append({"step": step, **history.means(), **scores})
            if scores["val_total"] < best:
                save_encoder(encoder, source, encoder_folder)
                # a kill between the two writes shows in the hash
                made = {**made_from, f"{encoder_folder.name}_sha256": folder_hash(encoder_folder)}
                trained.save_pretrained(folder / "aligner", {**made, "step": step, "validation": scores})
            history.write(folder / HISTORY_NAME)
            return scores["val_total"]

        start = resume_training(checkpoint, parts, generator, made_from)
        if start == 0:
            evaluate(0)
        bar = tqdm(range(start + 1, settings.steps + 1), "Stage I", settings.steps, initial=start, unit="step")
        for step in bar:
            nets.train()  # the encoder's frozen part stays in evaluation mode
            clips, face, label = training.draw(settings.batch, generator)
            with at_step(step, [pairs.persons[i] for i in label.tolist()]):
                identity = trained(encoder(clips.to(device)))
                terms = loss(identity, face.to(device), label.to(device))._asdict()
                descend(optimiser, terms["total"], terms)
                schedule.step()
                history.count(terms)
                last = step == settings.steps
                if last or step % settings.evaluate_every == 0:
                    bar.set_postfix(val=evaluate(step))
            if last or step % settings.checkpoint_every == 0:
                save_training(checkpoint, step, parts, generator, made_from)
    return Aligner.from_pretrained(folder / "aligner")
