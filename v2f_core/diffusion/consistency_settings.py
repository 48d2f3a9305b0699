"""What the paper leaves open about L_self (Eq. 11-14), each ambiguity a setting with a stated default."""

from __future__ import annotations

from dataclasses import dataclass

from v2f_core.diffusion.timesteps import WEIGHTS
from v2f_core.errors import InputError

CHOICES = {
    "mode": ("paper", "denoise", "teacher", "contrast", "cycle", "likeness"),
    "identity_from": ("predicted", "true"),
    "z_t_from": ("real", "other", "generated"),
    "detach": ("branch", "condition", "nothing"),
    "weight": tuple(WEIGHTS),
    "trains": ("both", "aligner", "lora"),
}


@dataclass(frozen=True)
class ConsistencySettings:
    """How the self-consistency loss is computed; not one of these is given in the paper.

    Attributes:
        mode: the equation, see :mod:`v2f_core.diffusion.strategies`.
        identity_from: the faces are said to be whom the voice "predicted", or whom they "true"-ly are: a control for
            the adapters alone, which then never hear a voice.
        z_t_from: the face that is noised: the speaker's "real" one (then z_t itself tells who it is at low t), the
            next person's of the batch, or one "generated" from pure noise under ẑ.
        generated_steps: solver steps of that, unguided.
        x0_steps: x̂0 from one prediction, or by so many DDIM steps from t down to 0.
        detach: of ``paper``'s second branch: all of it, its condition c_self only, or nothing (then gradient goes back
            through f_arc and the VAE's decoder).
        lora_in_target: is the target computed with the adapters? None: as in the mode's equation, ``paper`` yes (one
            network in Eq. 14), ``teacher`` no.
        weight: w(t), see :func:`v2f_core.diffusion.timesteps.timestep_weight`.
        t_min, t_max: timesteps looked at, both included.
        trains: which parameters L_self reaches: φ, the adapters ψ, or both.
        condition_dropout: share of examples whose conditions are all replaced by null, which keeps null what guidance
            takes it for.
        negatives: K, other speakers of the same sex that ``contrast`` compares with.
        temperature: τ of ``contrast``, in units of the mean squared residual.
        copies: noised faces a speaker, in batches of so many fewer speakers. ``cycle`` and ``likeness`` then compare
            the *mean* of what f_arc recognises in them: to make one's faces alike gains nothing by itself.
        rival_temperature: ``cycle`` and ``likeness`` ask that a face be told from those asked for the batch's other
            speakers of the same sex, by a softmax of the cosines with this τ; 0: for the cosine alone. What all faces
            share, light or pose, gains nothing among rivals.
        crop_jitter: standard deviation of the five points by which f_arc's crop is cut, in distances between the eyes:
            what pleases f_arc in one crop only is then no optimum (expectation over transformations, Athalye et al.,
            2018).
        anchor: weight of ‖ε_{θ+ψ}(z_t, P(ẑ)) − ε_θ(z_t, P(ẑ))‖² beside the mode's own loss: it holds the adapters to
            what the prior knew; 0 is the paper.

    Example:
        >>> ConsistencySettings(mode="denoise", z_t_from="other")
        Traceback (most recent call last):
        v2f_core.errors.InputError: mode='denoise' with z_t_from='other': this residual is of the speaker's own face; …
    """

    mode: str = "paper"
    identity_from: str = "predicted"
    z_t_from: str = "real"
    generated_steps: int = 10
    x0_steps: int = 1
    detach: str = "branch"
    lora_in_target: bool | None = None
    weight: str = "uniform"
    t_min: int = 20
    t_max: int = 979
    trains: str = "both"
    condition_dropout: float = 0.0
    negatives: int = 3
    temperature: float = 0.01
    copies: int = 1
    rival_temperature: float = 0.0
    crop_jitter: float = 0.0
    anchor: float = 0.0

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(allowed)}")
        for name in ("x0_steps", "generated_steps", "negatives", "copies"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: expected a whole number of at least 1")
        if not 0 <= self.t_min <= self.t_max:
            raise InputError(f"t_min={self.t_min}, t_max={self.t_max}: expected 0 <= t_min <= t_max")
        if not 0 <= self.condition_dropout < 1:
            raise InputError(f"condition_dropout={self.condition_dropout}: expected a share of at least 0, below 1")
        if not self.temperature > 0:
            raise InputError(f"temperature={self.temperature}: expected a positive number, such as 0.01")
        for name in ("anchor", "crop_jitter", "rival_temperature"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name}={getattr(self, name)}: expected a number of at least 0")
        if self.identity_from == "true" and self.trains != "lora":
            raise InputError(f"identity_from='true' with trains={self.trains!r}: z_arc tells φ nothing; give 'lora'")
        if self.mode in ("cycle", "likeness") and self.condition_dropout:
            raise InputError(f"mode={self.mode!r} with condition_dropout: under null nobody was asked for; give 0")
        if self.mode in ("denoise", "teacher", "contrast") and self.crop_jitter:
            raise InputError(f"mode={self.mode!r} with crop_jitter: f_arc sees no face there, so give 0")
        if self.mode not in ("cycle", "likeness") and self.rival_temperature:
            raise InputError(f"mode={self.mode!r} with rival_temperature: no face is recognised as anybody; give 0")
        if self.mode in ("denoise", "contrast") and self.z_t_from != "real":
            raise InputError(
                f"mode={self.mode!r} with z_t_from={self.z_t_from!r}: this residual is of the speaker's own face; "
                "give z_t_from='real'"
            )
        if self.mode == "contrast" and self.condition_dropout:
            raise InputError("mode='contrast' with condition_dropout: null is a negative there; give 0")
        if self.mode == "contrast" and self.copies > 1:
            raise InputError("mode='contrast' with copies: a speaker's own would be negatives there; give 1")

    @property
    def target_has_lora(self) -> bool:
        """Whether the target branch is computed with the adapters."""
        return self.mode == "paper" if self.lora_in_target is None else self.lora_in_target

    def unet_passes(self) -> tuple[int, int]:
        """UNet passes an example: (those that gradient goes back through, those without).

        One with gradient costs about three without. The text encoder and, for ``paper``, ``cycle`` and ``likeness``,
        one VAE decoding and one f_arc come on top.

        Example:
            >>> for mode in CHOICES["mode"]:
            ...     print(mode, ConsistencySettings(mode=mode).unet_passes())
            paper (1, 1)
            denoise (1, 0)
            teacher (1, 1)
            contrast (4, 1)
            cycle (1, 0)
            likeness (1, 0)
        """
        more = self.x0_steps - 1
        # with c_self detached, only adapters can take a gradient from the second branch
        second = self.detach == "condition" and self.target_has_lora and self.trains != "aligner"
        graded, free = {
            "denoise": (1, 0),
            "teacher": (1, 1),
            "cycle": (more + 1, 0),
            "likeness": (more + 1, 0),
            "paper": (more + 2, 0) if self.detach == "nothing" else (1 + second, more + 1 - second),
            # the negatives' gradient is φ's alone; null has none
            "contrast": (1, self.negatives + 1) if self.trains == "lora" else (self.negatives + 1, 1),
        }[self.mode]
        free += self.generated_steps if self.z_t_from == "generated" else 0
        return graded, free + (self.anchor > 0)
