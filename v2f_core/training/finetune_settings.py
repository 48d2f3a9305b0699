"""The settings of Stage I from waveforms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from v2f_core.errors import InputError
from v2f_core.speech.augment import Augmentation
from v2f_core.training.ranges import check_not_negative
from v2f_core.training.stage1 import Stage1Settings

if TYPE_CHECKING:
    from v2f_core.artefacts.profiles import Profile


@dataclass(frozen=True)
class FinetuneSettings:
    """What the training from waveforms can be told. Nothing of it is in the paper, whose encoder stays frozen.

    Example:
        >>> FinetuneSettings(unfreeze=-1)
        Traceback (most recent call last):
        v2f_core.errors.InputError: unfreeze=-1: expected a whole number of at least 0
    """

    unfreeze: int = 1  # so many layers from the top, see `v2f_core.speech.unfreezing`; 0 trains the aligner alone
    learning_rate_encoder: float = 1e-5  # decays with the aligner's
    weight_decay_encoder: float = 0.01
    augmentation: Augmentation = field(default_factory=Augmentation)
    checkpoint_every: int = 100
    # steps, batch, the aligner's rate and decay, L_id, seed; its `windows` says nothing here: an example is one clip
    identity: Stage1Settings = field(default_factory=Stage1Settings)

    def __post_init__(self) -> None:
        for name, least in (("unfreeze", 0), ("checkpoint_every", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name}={getattr(self, name)}: expected a whole number of at least {least}")
        check_not_negative(self, "learning_rate_encoder", "weight_decay_encoder")
        if self.identity.batch < 2:
            raise InputError("batch=1: expected at least 2; batch statistics and InfoNCE need others")


def from_profile(
    profile: Profile, unfreeze: int, seed: int = 0, steps: int | None = None, noise: tuple[float, float] | None = None
) -> FinetuneSettings:
    """A profile's settings: its Stage I's, and those of its own for the training from waveforms.

    Args:
        unfreeze: layers from the top.
        seed: of everything that is drawn.
        steps, noise: in place of the profile's.
    Raises:
        InputError: a setting makes no sense.

    Example:
        >>> from v2f_core.artefacts.profiles import load_profile
        >>> from_profile(load_profile("mini"), unfreeze=2, noise=(0.0, 20.0)).augmentation.noise
        (0.0, 20.0)
    """
    given = dict(profile.finetune)
    of_identity = {**profile.stage1, **given.pop("identity", {}), "seed": seed} | ({"steps": steps} if steps else {})
    augmentation = Augmentation(noise) if noise else Augmentation()
    return FinetuneSettings(unfreeze, augmentation=augmentation, identity=Stage1Settings(**of_identity), **given)
