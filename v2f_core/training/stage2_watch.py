"""What is seen of Stage II as it trains, and written down: losses, collapse monitors, and the weights so far."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from v2f_core.artefacts.files import atomic_write
from v2f_core.diffusion.consistency import SelfConsistency
from v2f_core.diffusion.lora_files import save_lora
from v2f_core.diffusion.monitors import collapse_monitors, pairwise_cosine
from v2f_core.diffusion.timesteps import bands
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.losses import IdentityLoss
from v2f_core.training.history import HISTORY_NAME, History, write_table
from v2f_core.training.stage1 import validate
from v2f_core.training.stage2_settings import Stage2Settings

if TYPE_CHECKING:
    from v2f_core.training.latents import FacePairs

MONITORS_NAME = "monitors.csv"
BAND = ("step", "t_min", "t_max")  # which row of the monitors, not what it says


class Watch:
    """The tables of one training.

    Args:
        aligner, critic: what is trained: φ, and the prior's adapters with L_self.
        validation, loss: persons that are not trained on, and their L_id.
        settings: how many of them are monitored, in how many bands of timesteps.
        accelerator: gets the same numbers, for TensorBoard.
    """

    def __init__(
        self,
        aligner: Aligner,
        critic: SelfConsistency,
        validation: FacePairs,
        loss: IdentityLoss,
        settings: Stage2Settings,
        accelerator: Any,
    ) -> None:
        self.aligner, self.critic, self.validation, self.loss = aligner, critic, validation, loss
        self.settings, self.accelerator = settings, accelerator
        self.history = History()
        self.monitors: list[dict[str, float]] = []

    @torch.no_grad()
    def look(self, step: int) -> dict[str, float]:
        """A row for the history and one a band for the monitors; the row's two losses."""
        settings, critic = self.settings, self.critic
        row = self.history.row(step)
        row |= validate(self.aligner, self.validation.pairs, self.loss)
        voice, faces = self.validation.first(settings.monitored)
        self.aligner.eval()
        identity = self.aligner(voice)
        self.aligner.train()
        parts = bands(critic.settings.t_min, critic.settings.t_max, settings.monitor_bands)
        # the same noise at every evaluation, so that rows differ by the weights alone
        generator = torch.Generator().manual_seed(settings.seed)
        at_once = settings.batch // settings.gradient_accumulation  # no more memory than a step takes
        found = collapse_monitors(critic.prior, critic.arcface, identity, faces, parts, generator, at_once)
        ideal = {}
        if self.validation.bayes is not None:  # how alike honest ẑ of these persons are
            ideal = {"pairwise_bayes": float(pairwise_cosine(self.validation.bayes[: len(identity)]))}
        speakers, least = max(1, len(identity) // critic.settings.copies), -(-len(identity) // at_once)
        shares = next((n for n in range(least, speakers) if speakers % n == 0), speakers)  # equal, so that none is lost
        for (t_min, t_max), monitor in zip(parts, found, strict=True):
            banded = SelfConsistency(critic.prior, critic.arcface, replace(critic.settings, t_min=t_min, t_max=t_max))
            drawn, values = generator.get_state(), []
            for share in range(shares):
                generator.set_state(drawn)
                values.append(float(banded(identity, faces, generator, (share, shares)).loss))
            self.monitors.append({"step": step, **monitor, **ideal, "self": sum(values) / shares})
        row["val_self"] = sum(m["self"] for m in self.monitors[-len(parts) :]) / len(parts)
        self.history.rows.append(row)
        self.accelerator.log({name: value for name, value in row.items() if name != "step"}, step)
        for monitor in self.monitors[-len(parts) :]:
            band = f"t_{monitor['t_min']}_to_{monitor['t_max']}"
            shown = {f"{name}/{band}": value for name, value in monitor.items() if name not in BAND}
            self.accelerator.log(shown, step)
        return {"val_total": row["val_total"], "val_self": row["val_self"]}

    def write(self, folder: Path, made: Mapping[str, Any]) -> None:
        """Weights and tables, with what they were made from."""
        self.aligner.save_pretrained(folder / "aligner", made)
        save_lora(self.critic.prior, folder / "lora", made)
        with atomic_write(folder / "provenance.json") as temporary:
            temporary.write_text(json.dumps(made, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        for name, rows in ((HISTORY_NAME, self.history.rows), (MONITORS_NAME, self.monitors)):
            write_table(rows, folder / name)

    def state_dict(self) -> str:
        """The tables, for a checkpoint."""
        return json.dumps([self.history.rows, self.monitors, self.history.sums])

    def load_state_dict(self, state: str) -> None:
        """Put those of a checkpoint back."""
        self.history.rows, self.monitors, self.history.sums = json.loads(state)
