"""The settings of Stage II (Eq. 15 and the paper's training table)."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from v2f_core.diffusion.consistency_settings import ConsistencySettings
from v2f_core.errors import InputError
from v2f_core.training.ranges import check_not_negative, check_positive
from v2f_core.training.stage1 import Stage1Settings

if TYPE_CHECKING:
    from v2f_core.artefacts.profiles import Profile


@dataclass(frozen=True)
class Stage2Settings:
    """What Stage II can be told. The defaults are the paper's where it says something; the comments say where not.

    Example:
        >>> Stage2Settings(steps=0)
        Traceback (most recent call last):
        v2f_core.errors.InputError: steps=0: expected a whole number of at least 1
    """

    steps: int = 20_000
    batch: int = 16
    learning_rate: float = 1e-6  # of φ, AdamW; constant
    learning_rate_lora: float = 1e-6  # the paper has one rate for both
    weight_decay: float = 0.01  # Stage I's: none is given for Stage II
    rank: int = 16
    alpha: float = 16.0
    weight_self: float = 1.0  # λ_self over λ_id of Eq. 15: not in the paper; 0 is "w/o DSC"
    warmup: int = 500  # λ_self rises from 0 over so many steps: "weight warm-up", its length is not in the paper
    clip: float = 1.0  # largest norm of the whole gradient: not in the paper
    gradient_checkpointing: bool = False  # of the UNet: less memory, a third more time
    gradient_accumulation: int = 1  # the batch's faces are looked at in so many parts: less memory, the same step
    mixed_precision: str = "no"  # or "bf16"; the paper: "mixed precision"
    evaluate_every: int = 500
    checkpoint_every: int = 100
    monitored: int = 32  # so many validation faces are monitored …
    monitor_bands: int = 4  # … in so many bands of timesteps
    seed: int = 0
    identity: Stage1Settings = field(default_factory=Stage1Settings)  # L_id, and how voices are pooled
    consistency: ConsistencySettings = field(default_factory=ConsistencySettings)  # L_self

    def __post_init__(self) -> None:
        whole = (
            "steps",
            "batch",
            "rank",
            "gradient_accumulation",
            "evaluate_every",
            "checkpoint_every",
            "monitor_bands",
        )
        for name in whole:
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: expected a whole number of at least 1")
        rows, parts = self.batch // self.consistency.copies, self.gradient_accumulation
        if rows % parts:
            raise InputError(f"gradient_accumulation={parts}: expected a divisor of the batch's {rows} persons")
        if rows < 2 and self.consistency.z_t_from == "other":
            raise InputError(f"batch={self.batch}: z_t_from='other' needs two persons in a batch; raise it")
        timesteps = self.consistency.t_max - self.consistency.t_min + 1
        if self.monitor_bands > timesteps:
            raise InputError(f"monitor_bands={self.monitor_bands}: expected at most one a timestep, {timesteps}")
        check_positive(self, "learning_rate", "learning_rate_lora", "clip")
        check_not_negative(self, "weight_self", "warmup", "weight_decay")
        if self.mixed_precision not in ("no", "bf16"):
            raise InputError(f"mixed_precision={self.mixed_precision!r}: expected no or bf16")
        toggled = self.consistency.mode == "contrast" and self.consistency.trains != "aligner"
        toggled |= self.consistency.detach == "nothing" and not self.consistency.target_has_lora
        if self.gradient_checkpointing and toggled:
            raise InputError(
                "gradient_checkpointing computes again with adapters that this L_self had switched off; give "
                "consistency with trains='aligner' (contrast) or lora_in_target=True, or no checkpointing"
            )


# The losses have other scales: with these λ_self φ gets about as long a gradient from L_self as from the L_id of the
# mini profile when Stage II begins (benchmarks/gradients.py, benchmarks/results/gradients.csv).
BALANCED = MappingProxyType(
    {"paper": 1000.0, "denoise": 1000.0, "teacher": 1000.0, "contrast": 10.0, "cycle": 100.0, "likeness": 100.0}
)


def from_profile(
    profile: Profile, seed: int = 0, mode: str | None = None, steps: int | None = None, parts: int | None = None
) -> Stage2Settings:
    """A profile's settings of Stage II, with its Stage I's L_id.

    Args:
        seed: of everything that is drawn.
        mode: in place of the profile's; then the rest of L_self is as the mode has it by default, and λ_self balanced.
        steps, parts: in place of the profile's steps and its gradient_accumulation.
    Raises:
        InputError: a setting makes no sense.

    Example:
        >>> from v2f_core.artefacts.profiles import load_profile
        >>> from_profile(load_profile("mini"), mode="teacher").consistency.mode
        'teacher'
    """
    given: dict[str, Any] = {**profile.stage2, "seed": seed}
    chosen = dict(given.pop("consistency", {}))
    if mode and mode != chosen.get("mode"):
        chosen = {"mode": mode}
        given["weight_self"] = BALANCED[mode]
    if steps:
        given["steps"] = steps
    if parts:
        given["gradient_accumulation"] = parts
    identity, consistency = Stage1Settings(**profile.stage1), ConsistencySettings(**chosen)
    return Stage2Settings(**given, identity=identity, consistency=consistency)
