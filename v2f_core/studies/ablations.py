"""The ablations as data: which systems each table compares, and what each is trained with.

A system is a start (which Stage I) and what Stage II does to it. All systems of a table take the same number of Stage
II steps, so that none wins by longer training. λ_self is such that φ gets about as long a gradient from L_self as from
L_id when Stage II begins, and is not tuned further, but for the attempts that say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from v2f_core.diffusion.consistency_settings import ConsistencySettings
from v2f_core.errors import InputError
from v2f_core.training.stage1 import Stage1Settings
from v2f_core.training.stage2_settings import BALANCED, Stage2Settings, from_profile

if TYPE_CHECKING:
    from v2f_core.artefacts.profiles import Profile

WITHOUT = "w/o DSC"  # what every L_self has to beat


@dataclass(frozen=True)
class Ablation:
    """A row of a table.

    Attributes:
        system: its name, one a table.
        regression: Stage I by cosine regression alone ("CosReg" of Table 4), not by L_id.
        stage2: Stage II's settings other than the profile's; no λ_self is "w/o DSC".
        consistency: L_self's settings; the rest as in `ConsistencySettings`.
        speech: the speech goes straight into the condition ("w/o ArcFace"): no identity, and no Stage II.
        draws: faces of which the one most like ẑ is kept.

    Example:
        >>> TABLES["table4"][0].system
        'w/o ArcFace'
    """

    system: str
    regression: bool = False
    stage2: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({"weight_self": 0.0}))
    consistency: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    speech: bool = False
    draws: int = 1

    @property
    def mode(self) -> str:
        """Its L_self, or "none"."""
        return str(self.consistency.get("mode", "paper")) if self.stage2.get("weight_self", 1.0) else "none"

    @property
    def parts(self) -> str:
        """What L_self trains: "both", "aligner" or "lora"; "none" without one."""
        return str(self.consistency.get("trains", "both")) if self.mode != "none" else "none"

    def identity(self, profile: Profile, seed: int) -> Stage1Settings:
        """The settings of its Stage I, and of L_id in Stage II."""
        settings = Stage1Settings(**{**profile.stage1, "seed": seed})
        if not self.regression:
            return settings
        return replace(settings, weight_am=0.0, weight_info=0.0, weight_cosine=1.0, weight_relational=0.0)

    def settings(self, profile: Profile, seed: int, steps: int | None = None) -> Stage2Settings:
        """The settings of its Stage II."""
        plain = from_profile(profile, seed=seed, steps=steps)
        return replace(
            plain,
            **self.stage2,
            identity=self.identity(profile, seed),
            consistency=ConsistencySettings(**self.consistency),
        )


def _of(
    mode: str, system: str = "", regression: bool = False, rank: int = 0, weight: float = 0.0, **consistency: Any
) -> Ablation:
    stage2 = {"weight_self": weight or BALANCED[mode]} | ({"rank": rank, "alpha": float(rank)} if rank else {})
    return Ablation(system or mode, regression, stage2, {"mode": mode, **consistency})


OTHER_SOURCES = ("other", "generated")
CROPS_VARY = 0.15  # about 2 pixels to any side of ArcFace's 112, and 9 % in size
GENERATED: Mapping[str, Any] = MappingProxyType({"z_t_from": "generated", "generated_steps": 5})
RIVALS: Mapping[str, Any] = MappingProxyType({"rival_temperature": 0.1, **GENERATED})

TABLES: Mapping[str, tuple[Ablation, ...]] = MappingProxyType(
    {
        # Table 4 of the paper
        "table4": (
            Ablation("w/o ArcFace", speech=True),
            Ablation("CosReg", regression=True),
            _of("paper", "CosReg + DSC", regression=True),
            Ablation(WITHOUT),
            _of("paper"),
        ),
        # the other critics, and what needs none
        "modes": (
            Ablation(WITHOUT),
            Ablation("best of 4 by ẑ", draws=4),
            _of("denoise"),
            _of("teacher"),
            _of("contrast", trains="aligner"),
            _of("cycle", "cycle, φ alone", trains="aligner", **GENERATED),
            _of("likeness", "likeness, φ alone", trains="aligner", **GENERATED),
        ),
        # what may keep L_self from its trivial optimum; compared on validation persons
        "attempts": (
            Ablation(WITHOUT),
            _of("paper", "paper, target without adapters", lora_in_target=False),
            _of("paper", "paper, φ alone", trains="aligner"),
            _of("paper", "paper, anchored", anchor=1.0),
            _of("teacher", "teacher, φ alone", trains="aligner"),
            _of("cycle", "cycle", **GENERATED),
            _of("cycle", "cycle, anchored", anchor=1.0, **GENERATED),
            _of("cycle", "cycle, φ alone", trains="aligner", **GENERATED),
            _of("cycle", "cycle, φ alone, λ 30", weight=30.0, trains="aligner", **GENERATED),
            _of("cycle", "cycle, φ alone, λ 10", weight=10.0, trains="aligner", **GENERATED),
            _of("cycle", "cycle of the mean", copies=4, **GENERATED),
            _of("cycle", "cycle of the mean, x̂0 in 3 steps", copies=4, x0_steps=3, **GENERATED),
            _of("cycle", "cycle of the mean, φ alone, λ 30", weight=30.0, copies=4, trains="aligner", **GENERATED),
            _of("cycle", "cycle of the mean, crops vary", copies=4, crop_jitter=CROPS_VARY, **GENERATED),
            _of(
                "cycle",
                "cycle, φ alone, λ 30, crops vary",
                weight=30.0,
                trains="aligner",
                crop_jitter=CROPS_VARY,
                **GENERATED,
            ),
            _of("cycle", "cycle, true c*", trains="lora", identity_from="true", **GENERATED),
            # λ_self balanced by benchmarks/results/gradients.csv, and a third of it where φ is alone
            _of("cycle", "cycle, among rivals", weight=25.0, **RIVALS),
            _of("cycle", "cycle, among rivals, φ alone", weight=8.0, trains="aligner", **RIVALS),
            _of("cycle", "cycle, among rivals, true c*", weight=25.0, trains="lora", identity_from="true", **RIVALS),
            _of("likeness", "likeness, among rivals, φ alone", weight=5.0, trains="aligner", **RIVALS),
            _of("likeness", "likeness, among rivals, φ alone, λ 15", weight=15.0, trains="aligner", **RIVALS),
            _of("likeness", "likeness, among rivals, φ alone, λ 45", weight=45.0, trains="aligner", **RIVALS),
        ),
        # of the attempts, those that were chosen on validation persons: read on test persons
        "chosen": (
            Ablation(WITHOUT),
            _of("cycle", "cycle, φ alone, λ 30", weight=30.0, trains="aligner", **GENERATED),
            _of("likeness", "likeness, among rivals, φ alone", weight=5.0, trains="aligner", **RIVALS),
        ),
        # what z_t tells by itself: a gain that needs the speaker's own face in z_t is leakage
        "sources": (
            Ablation(WITHOUT),
            *(_of(mode) for mode in ("paper", "teacher")),
            *(_of(mode, f"{mode}, z_t {of}", z_t_from=of) for mode in ("paper", "teacher") for of in OTHER_SOURCES),
        ),
        # where a change comes from: φ or adapters, low or high t
        "parts": (
            Ablation(WITHOUT),
            _of("teacher"),
            _of("teacher", "teacher, φ alone", trains="aligner"),
            _of("teacher", "teacher, adapters alone", trains="lora"),
            _of("teacher", "teacher, low t", t_max=499),
            _of("teacher", "teacher, high t", t_min=500),
        ),
        # Table 3's rank curve; "paper" has rank 16
        "rank": (Ablation(WITHOUT), _of("paper"), *(_of("paper", f"rank {rank}", rank=rank) for rank in (4, 8, 32))),
    }
)


def table(name: str) -> tuple[Ablation, ...]:
    """A table by its name.

    Raises:
        InputError: there is none of this name.

    Example:
        >>> table("5")
        Traceback (most recent call last):
        v2f_core.errors.InputError: 5: no such table; choose from table4, modes, attempts, …
    """
    if name not in TABLES:
        raise InputError(f"{name}: no such table; choose from {', '.join(TABLES)}")
    return TABLES[name]
