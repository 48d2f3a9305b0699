"""What is seen of Stage I from waveforms as it trains, and kept: losses, and encoder and aligner at their best."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from v2f_core.artefacts.provenance import folder_hash
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.losses import IdentityLoss
from v2f_core.speech.encoders import ASTEncoder, ECAPAEncoder
from v2f_core.speech.unfreezing import save_encoder
from v2f_core.training.finetune_settings import FinetuneSettings
from v2f_core.training.history import HISTORY_NAME, History, write_table
from v2f_core.training.recordings import Recordings
from v2f_core.training.stage1 import validate


class Watch:
    """The table of one training, and its best weights.

    Args:
        encoder, aligner: what is trained.
        source: the folder that the encoder came from.
        validation, loss: persons that are not trained on, and their L_id.
        settings: an encoder that is not unfrozen gives what is stored.
        folder: gets table and weights.
        made: what determines the run, for the aligner's provenance.
        device: where to compute.
        workers: processes that read recordings.
    """

    def __init__(
        self,
        encoder: ASTEncoder | ECAPAEncoder,
        aligner: Aligner,
        source: Path,
        validation: Recordings,
        loss: IdentityLoss,
        settings: FinetuneSettings,
        folder: Path,
        made: Mapping[str, Any],
        device: str,
        workers: int,
    ) -> None:
        self.encoder, self.aligner, self.source = encoder, aligner, source
        self.validation, self.loss, self.settings = validation, loss, settings
        self.folder, self.made, self.device, self.workers = folder, made, device, workers
        self.history = History()

    def look(self, step: int) -> float:
        """A row for the history; if it is the best so far, encoder and aligner are written. The validation loss.

        It leaves the encoder in the state of inference.
        """
        row = self.history.row(step)
        self.encoder.eval()
        heard = (
            self.validation.heard_by(self.encoder, self.workers) if self.settings.unfreeze else self.validation.pairs
        )
        row |= validate(self.aligner, heard.to(self.device), self.loss)
        best = min((before["val_total"] for before in self.history.rows), default=torch.inf)
        self.history.rows.append(row)
        if row["val_total"] < best:
            self._write(row)
        write_table(self.history.rows, self.folder / HISTORY_NAME)
        return row["val_total"]

    def _write(self, row: Mapping[str, float | int]) -> None:
        name = "ast" if isinstance(self.encoder, ASTEncoder) else "ecapa"
        save_encoder(self.encoder, self.source, self.folder / name)
        # the aligner says which encoder it goes with, since a kill may fall between the two
        theirs = {f"{name}_sha256": folder_hash(self.folder / name)}
        made = {**self.made, **theirs, "step": row["step"], "validation": dict(row)}
        self.aligner.save_pretrained(self.folder / "aligner", made)
