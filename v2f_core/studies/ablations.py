"""The ablations as data: which systems each table compares, and what each is trained with.

A system is a start (which Stage I) and what Stage II does to it. All systems of a table take the same number of Stage
II steps, so that none wins by longer training. λ_self is such that φ gets about as long a gradient from L_self as from
L_id when Stage II begins, and is not tuned further, except where a system's name says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any

from v2f_core.artefacts.profiles import Profile
from v2f_core.diffusion.consistency import Critic, denoise, describe, paper, teacher
from v2f_core.errors import InputError
from v2f_core.studies.critics import (
    BALANCED,
    anchored,
    contrast,
    cycle,
    frozen_target,
    generated,
    innermost,
    likeness,
    others,
    repeated,
    true_identity,
)
from v2f_core.training.stage1 import Stage1Settings
from v2f_core.training.stage2 import Stage2Settings, from_profile

WITHOUT = "w/o DSC"  # what every L_self has to beat


@dataclass(frozen=True)
class Ablation:
    """A row of a table.

    Attributes:
        system: its name, one a table.
        critic: L_self; None is "w/o DSC".
        weight_self: λ_self; None: balanced, see :data:`v2f_core.studies.critics.BALANCED`.
        trains: what L_self trains: "both", "aligner" or "lora".
        regression: Stage I by cosine regression alone ("CosReg" of Table 4), not by L_id.
        stage2: more settings of Stage II other than the profile's.
        speech: the speech goes straight into the condition ("w/o ArcFace"): no identity, and no Stage II.
        draws: faces of which the one most like ẑ is kept.

    Example:
        >>> TABLES["table4"][0].system
        'w/o ArcFace'
    """

    system: str
    critic: Critic | None = None
    weight_self: float | None = None
    trains: str = "both"
    regression: bool = False
    stage2: Mapping[str, Any] = field(default_factory=dict)
    speech: bool = False
    draws: int = 1

    @property
    def mode(self) -> str:
        """The name of its critic, or "none"."""
        return innermost(self.critic) if self.critic else "none"

    @property
    def parts(self) -> str:
        """What L_self trains; "none" without one."""
        return self.trains if self.critic else "none"

    @property
    def described(self) -> dict[str, Any]:
        """All of it as JSON can hold it; the same in every process."""
        return {**vars(self), "critic": self.critic and describe(self.critic), "stage2": dict(self.stage2)}

    def identity(self, profile: Profile, seed: int) -> Stage1Settings:
        """The settings of its Stage I, and of L_id in Stage II."""
        settings = Stage1Settings(**{**profile.stage1, "seed": seed})
        return cosine_alone(settings) if self.regression else settings

    def settings(self, profile: Profile, seed: int, steps: int | None = None) -> Stage2Settings:
        """The settings of its Stage II."""
        weight = 0.0 if self.critic is None else self.weight_self
        changes: dict[str, Any] = {"weight_self": BALANCED[self.mode] if weight is None else weight, **self.stage2}
        changes |= {"seed": seed, "trains": self.trains, "identity": self.identity(profile, seed)}
        return from_profile(profile, **changes | ({"steps": steps} if steps else {}))


def cosine_alone(settings: Stage1Settings) -> Stage1Settings:
    """The settings of "CosReg": the cosine term is the whole loss."""
    return replace(settings, weight_am=0.0, weight_info=0.0, weight_cosine=1.0)


def _ranked(rank: int) -> Ablation:
    return Ablation(f"rank {rank}", paper, stage2={"rank": rank, "alpha": float(rank)})


JITTER = 0.15  # about 2 pixels to any side of ArcFace's 112, and 9 % in size
drawn_cycle, drawn_likeness = (partial(generated, critic=critic) for critic in (cycle, likeness))
rival_cycle, rival_likeness = (
    partial(generated, critic=partial(critic, rival_temperature=0.1)) for critic in (cycle, likeness)
)


def _of_the_mean(**options: Any) -> Critic:
    """`cycle` of four generated faces a speaker."""
    return partial(repeated, critic=partial(generated, critic=partial(cycle, copies=4, **options)), copies=4)


PHI = "aligner"
TABLES: Mapping[str, tuple[Ablation, ...]] = MappingProxyType(
    {
        # Table 4 of the paper
        "table4": (
            Ablation("w/o ArcFace", speech=True),
            Ablation("CosReg", regression=True),
            Ablation("CosReg + DSC", paper, regression=True),
            Ablation(WITHOUT),
            Ablation("paper", paper),
        ),
        # the other critics, and best of four, which needs none
        "modes": (
            Ablation(WITHOUT),
            Ablation("best of 4 by ẑ", draws=4),
            Ablation("denoise", denoise),
            Ablation("teacher", teacher),
            Ablation("contrast", contrast, trains=PHI),
            Ablation("cycle, φ alone", drawn_cycle, trains=PHI),
            Ablation("likeness, φ alone", drawn_likeness, trains=PHI),
        ),
        # what may keep L_self from its trivial optimum; compared on validation persons
        "attempts": (
            Ablation(WITHOUT),
            Ablation("paper, target without adapters", frozen_target, 1000.0),
            Ablation("paper, φ alone", paper, trains=PHI),
            Ablation("paper, anchored", partial(anchored, critic=paper)),
            Ablation("teacher, φ alone", teacher, trains=PHI),
            Ablation("cycle", drawn_cycle),
            Ablation("cycle, anchored", partial(generated, critic=partial(anchored, critic=cycle))),
            Ablation("cycle, φ alone", drawn_cycle, trains=PHI),
            Ablation("cycle, φ alone, λ 30", drawn_cycle, 30.0, PHI),
            Ablation("cycle, φ alone, λ 10", drawn_cycle, 10.0, PHI),
            Ablation("cycle of the mean", _of_the_mean()),
            Ablation("cycle of the mean, x̂0 in 3 steps", _of_the_mean(x0_steps=3)),
            Ablation("cycle of the mean, φ alone, λ 30", _of_the_mean(), 30.0, PHI),
            Ablation("cycle of the mean, crops vary", _of_the_mean(crop_jitter=JITTER)),
            Ablation(
                "cycle, φ alone, λ 30, crops vary",
                partial(generated, critic=partial(cycle, crop_jitter=JITTER)),
                30.0,
                PHI,
            ),
            Ablation("cycle, true c*", partial(true_identity, critic=drawn_cycle), trains="lora"),
            # λ_self balanced by benchmarks/results/gradients.csv, and a third of it where φ is alone
            Ablation("cycle, among rivals", rival_cycle, 25.0),
            Ablation("cycle, among rivals, φ alone", rival_cycle, 8.0, PHI),
            Ablation("cycle, among rivals, true c*", partial(true_identity, critic=rival_cycle), 25.0, "lora"),
            Ablation("likeness, among rivals, φ alone", rival_likeness, 5.0, PHI),
            Ablation("likeness, among rivals, φ alone, λ 15", rival_likeness, 15.0, PHI),
            Ablation("likeness, among rivals, φ alone, λ 45", rival_likeness, 45.0, PHI),
        ),
        # of the attempts, those that were chosen on validation persons: read on test persons
        "chosen": (
            Ablation(WITHOUT),
            Ablation("cycle, φ alone, λ 30", drawn_cycle, 30.0, PHI),
            Ablation("likeness, among rivals, φ alone", rival_likeness, 5.0, PHI),
        ),
        # what z_t tells by itself: a gain that needs the speaker's own face in z_t is leakage
        "sources": (
            Ablation(WITHOUT),
            Ablation("paper", paper),
            Ablation("teacher", teacher),
            *(Ablation(f"{critic.__name__}, z_t other", partial(others, critic=critic)) for critic in (paper, teacher)),
            *(
                Ablation(f"{critic.__name__}, z_t generated", partial(generated, critic=critic, steps=10))
                for critic in (paper, teacher)
            ),
        ),
        # where a change comes from: φ or adapters, low or high t
        "parts": (
            Ablation(WITHOUT),
            Ablation("teacher", teacher),
            Ablation("teacher, φ alone", teacher, trains=PHI),
            Ablation("teacher, adapters alone", teacher, trains="lora"),
            Ablation("teacher, low t", teacher, stage2={"t_max": 499}),
            Ablation("teacher, high t", teacher, stage2={"t_min": 500}),
        ),
        # Table 3's rank curve; "paper" has rank 16
        "rank": (Ablation(WITHOUT), Ablation("paper", paper), *map(_ranked, (4, 8, 32))),
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
