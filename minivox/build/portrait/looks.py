"""Who is drawn (``Look``) and how they are seen (``View``).

A look has two sources. The traits that voice and face share (sex, jaw, length, neck, nose, fat, skin age) act on the
sliders listed in ``SHARED``; everything else comes from the person's face seed and is the face's alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from minivox.build.portrait.basis import basis, smooth
from minivox.world import FEMALE, MALE, FaceTraits, Person

Triple = tuple[float, float, float]

SHARED: dict[str, dict[str, float]] = {  # slider weight per unit of the trait
    "jaw": {
        "chin-width": 0.42,
        "chin-bones": 0.42,
        "head-scale-horiz": 0.1,
        "eyebrows-trans": -0.12,
        "head-square": 0.15,
    },
    "length": {"head-scale-vert": 0.3, "chin-height": 0.3, "nose-scale-vert": 0.15},
    "neck": {"neck-scale-horiz": 0.75},
    "nose": {
        "nose-volume": 0.42,
        "nose-scale-depth": 0.32,
        "nose-width1": 0.18,
        "nose-width2": 0.24,
        "nose-width3": 0.34,
    },
    "fat": {"head-fat": 0.22, "cheek-volume": 0.4, "neck-double": 0.3, "cheek-inner": -0.1},
}
TONES = np.array(  # sRGB, palest to darkest; a tone of 0..5 walks along it
    [
        [0.95, 0.80, 0.71],
        [0.90, 0.71, 0.59],
        [0.80, 0.59, 0.45],
        [0.66, 0.46, 0.33],
        [0.47, 0.31, 0.22],
        [0.31, 0.20, 0.145],
    ]
)
HAIR_COLOURS: dict[str, Triple] = {
    "black": (0.105, 0.095, 0.09),
    "dark brown": (0.17, 0.11, 0.08),
    "brown": (0.30, 0.20, 0.13),
    "auburn": (0.38, 0.18, 0.10),
    "red": (0.54, 0.27, 0.12),
    "blond": (0.68, 0.52, 0.31),
    "fair": (0.78, 0.66, 0.46),
}
EYE_COLOURS: dict[str, Triple] = {
    "dark brown": (0.17, 0.10, 0.06),
    "brown": (0.31, 0.19, 0.09),
    "grey": (0.38, 0.44, 0.50),
    "blue": (0.28, 0.43, 0.60),
    "green": (0.31, 0.40, 0.25),
    "hazel": (0.37, 0.30, 0.16),
}


@dataclass(frozen=True, eq=False)
class Look:
    """Everything that makes a face, whatever the view. Colours are sRGB in 0..1.

    Compared by identity, so that it can be the key of a cache.
    """

    man: float  # 0 a woman's shape .. 1 a man's
    skin_age: float  # years
    weight: float  # 0 thin .. 1 heavy
    ancestry: Triple  # African, Asian, European share of the shape
    tone: float  # 0 palest .. 5 darkest
    skin: Triple
    hair_colour: str
    grey: float  # 0..1
    hair: Triple
    length: float  # < 0.08 shaved, < 0.45 short, then down to the shoulders at 1
    volume: float  # 0..1
    curl: float  # 0 straight .. 1 tight
    hairline: float  # height of the front, dm above the usual
    bald: float  # 0..1
    fringe: float  # how readily the hair is worn over the forehead, 0..1
    parting: float  # azimuth, radians
    swept: float  # 0 hair falls from the parting .. 1 combed back
    brow: Triple  # thickness, arch, strength
    stubble: float
    moustache: float
    beard: float
    eye_colour: str
    iris: Triple
    makeup: float  # how much is usually worn, 0..1
    freckles: float
    glasses: bool
    seed: int
    sliders: dict[str, float] = field(repr=False)

    def factors(self) -> dict[str, float | str]:
        """The true factors, for a table: one number or word each."""
        return {
            "skin_tone": round(self.tone / 5, 4),  # 0 palest .. 1 darkest
            "hair_colour": "grey" if self.grey > 0.5 else self.hair_colour,
            "hair_length": "shaved" if self.length < 0.08 else "short" if self.length < 0.45 else "long",
            "hair_curl": round(self.curl, 4),
            "bald": round(self.bald, 4),
            "grey": round(self.grey, 4),
            "eye_colour": self.eye_colour,
            "beard": "full"
            if self.beard > 0.3
            else "moustache"
            if self.moustache > 0.3
            else "stubble"
            if self.stubble > 0.3
            else "none",
            "freckles": round(self.freckles, 4),
            "makeup": round(self.makeup, 4),
            "glasses": "yes" if self.glasses else "no",
            "ancestry_african": round(self.ancestry[0], 4),
            "ancestry_asian": round(self.ancestry[1], 4),
            "ancestry_european": round(self.ancestry[2], 4),
        }


def _triple(values: np.ndarray) -> Triple:
    return (float(values[0]), float(values[1]), float(values[2]))


def _muted(g: np.random.Generator, low: float, high: float, saturation: float) -> Triple:
    """A colour close to some grey."""
    grey = g.uniform(low, high)
    tint = g.normal(0, 1, 3)
    return _triple(np.clip(grey * (1 + saturation * (tint - tint.mean())), 0.03, 0.93))


def _shape(traits: FaceTraits, man: float, old: float, g: np.random.Generator) -> dict[str, float]:
    """Slider weights: private noise first, then sex and age, then the shared traits (which own their sliders)."""
    names = basis().sliders
    sliders = {name: float(np.clip(g.normal(0, 0.38), -0.8, 0.8)) for name in names}
    for name in names:
        if name.startswith(("head-", "forehead")):
            sliders[name] = 0.0 if name + "-" not in basis().names else 0.35 * sliders[name]
        if name.startswith(
            (
                "chin-jaw",
                "chin-prog",
                "eye-corner",
                "eye-push",
                "eyebrows-angle",
                "mouth-angles",
                "mouth-trans",
                "nose-trans",
            )
        ):
            sliders[name] *= 0.6
    head = str(g.choice(["round", "oval", "rectangular", "triangular", "invertedtriangular", "diamond"]))
    sliders["head-" + head] = float(g.uniform(0.05, 0.45) * (0.5 if head in ("diamond", "triangular") else 1))
    typical = {  # what eyes and mood need to look awake and kind, then what differs between women and men
        "eye-scale": 0.33 - 0.16 * man - 0.1 * old,
        "eye-height2": 0.28 - 0.22 * man - 0.1 * old,
        "eye-trans": 0.35,
        "head-scale-horiz": -0.3,
        "mouth-angles": 0.35,
        "eyebrows-angle": 0.1,
        "mouth-lowerlip-height": 0.1 - 0.1 * man,
        "eyebrows-trans": 0.25 - 0.5 * man,
        "mouth-upperlip-volume": 0.3 - 0.5 * man,
        "mouth-lowerlip-volume": 0.3 - 0.5 * man,
        "chin-bones": -0.4 + 0.6 * man,
        "chin-width": -0.5 + 0.6 * man,
        "chin-prominent": -0.1 + 0.25 * man,
        "nose-scale-depth": -0.12 + 0.2 * man,
        "nose-width2": -0.1 + 0.15 * man,
        "cheek-bones": 0.2 - 0.15 * man,
        "head-square": 0.08 * man,
        "neck-scale-horiz": -0.2 + 0.4 * man,
        "head-age": 0.75 * (traits.skin_age - 42) / 42,
        "eye-bag": 0.7 * old,
        "mouth-laugh-lines": 0.55 * old,
        "mouth-scale-horiz": 0.1 * man,
    }
    for name, value in typical.items():
        sliders[name] = 0.5 * sliders[name] + value
    for trait, weights in SHARED.items():
        for name, weight in weights.items():  # 0.25: little of these sliders is the face's alone
            private = 0.25 * (sliders[name] - typical.get(name, 0.0)) + typical.get(name, 0.0)
            sliders[name] = private + weight * float(getattr(traits, trait))
    return {name: float(1.1 * np.tanh(value / 1.1)) for name, value in sliders.items()}


def _colours(g: np.random.Generator, age: float, man: bool) -> dict[str, object]:
    """Ancestry, skin, hair and eyes: the face's alone, but for the grey that comes with age."""
    ancestry = g.dirichlet([0.45, 0.45, 0.6])
    tone = float(np.clip(ancestry @ [4.1, 1.45, 0.75] + g.normal(0, 0.5), 0, 5))
    skin = np.array([np.interp(tone, np.arange(6), TONES[:, c]) for c in range(3)])
    skin = skin * (1 + g.normal(0, 0.025)) * (1 + g.normal(0, [0.01, 0.012, 0.035]))
    fair = ancestry[2] > 0.45 and tone < 1.9
    chances = [0.08, 0.2, 0.27, 0.1, 0.08, 0.17, 0.1] if fair else [0.62, 0.3, 0.08, 0, 0, 0, 0]
    name = str(g.choice(list(HAIR_COLOURS), p=chances))
    hair = np.array(HAIR_COLOURS[name]) * g.uniform(0.85, 1.15)
    dyed = not man and g.random() < 0.35
    grey = float(smooth(age + g.normal(0, 7), 42, 76)) * (0.2 if dyed else 1)
    hair = hair + (np.array([0.70, 0.69, 0.68]) * g.uniform(0.8, 1.12) - hair) * grey
    eye = str(g.choice(list(EYE_COLOURS), p=[0.15, 0.25, 0.15, 0.25, 0.1, 0.1] if fair else [0.65, 0.35, 0, 0, 0, 0]))
    curl = (
        float(g.uniform(0.7, 1))
        if ancestry[0] > 0.5
        else float(g.choice([0.0, 0.25, 0.6, 0.9], p=[0.45, 0.3, 0.17, 0.08]))
    )
    return {
        "ancestry": _triple(ancestry),
        "tone": tone,
        "skin": _triple(np.clip(skin, 0.08, 0.97)),
        "hair_colour": name,
        "grey": grey,
        "hair": _triple(np.clip(hair, 0.04, 0.9)),
        "curl": curl,
        "eye_colour": eye,
        "iris": _triple(np.array(EYE_COLOURS[eye]) * g.uniform(0.85, 1.15)),
        "freckles": float(g.random()) if fair and g.random() < 0.3 else 0.0,
    }


def look_of(person: Person) -> Look:
    """The face of a person: same person, same face.

    Example:
        >>> from minivox.world import person
        >>> look = look_of(person("minivox", 3))
        >>> look.factors() == look_of(person("minivox", 3)).factors()
        True
    """
    g = np.random.default_rng([person.face_seed & 0xFFFFFFFF, person.face_seed >> 32])
    shape_seed, colour_seed, style_seed = g.spawn(3)
    is_man, age = person.sex == MALE, float(person.face.skin_age)
    old = float(np.clip((age - 40) / 38, 0, 1))
    man = float(np.clip(is_man + 0.08 * style_seed.normal() * (-1 if is_man else 1), 0, 1))
    bald = float(np.clip(style_seed.beta(1, 2.2) * (0.15 + 1.3 * old), 0, 1)) if is_man else 0.0
    if style_seed.random() < (0.93 if is_man else 0.16 + 0.34 * old):
        chances = [0.12, 0.3, 0.33, 0.25] if is_man else [0.01, 0.09, 0.3, 0.6]
        length = float(style_seed.choice([0.03, 0.2, 0.3, 0.4], p=chances) + style_seed.uniform(-0.02, 0.04))
    else:
        length = float(style_seed.uniform(0.5, 1))
    if bald > 0.5:
        length = min(length, float(style_seed.uniform(0.03, 0.25)))
    kind = (
        style_seed.choice(["clean", "stubble", "moustache", "beard"], p=[0.4, 0.28, 0.09, 0.23]) if is_man else "clean"
    )
    colours = _colours(colour_seed, age, is_man)
    return Look(
        man=man,
        skin_age=age,
        weight=float(np.clip(0.5 + 0.17 * person.face.fat, 0, 1)),
        length=length,
        volume=float(style_seed.uniform(0.2, 1)),
        hairline=float(style_seed.normal(0, 0.05) + is_man * (0.03 + 0.1 * old)),
        bald=bald,
        fringe=float(style_seed.random() ** (2.5 if person.sex == FEMALE else 4)),
        parting=float(style_seed.choice([-1, 0, 1]) * style_seed.uniform(0.15, 0.45)),
        swept=float(style_seed.random() < 0.35),
        brow=(
            float(style_seed.uniform(0.6, 1.2) * (1.2 if is_man else 0.75)),
            float(style_seed.normal(0.6 - 0.4 * is_man, 0.3)),
            float(style_seed.uniform(0.6, 0.95) * (1 - 0.4 * float(colours["grey"]))),  # type: ignore[arg-type]
        ),
        stubble=float({"clean": 0.08, "stubble": style_seed.uniform(0.35, 0.9), "moustache": 0.3, "beard": 0.5}[kind])
        * is_man,
        moustache=float(style_seed.uniform(0.6, 1)) if kind == "moustache" else 0.0,
        beard=float(style_seed.uniform(0.5, 1)) if kind == "beard" else 0.0,
        makeup=0.0 if is_man else float(style_seed.beta(1.5, 1.3)),
        glasses=bool(style_seed.random() < 0.1 + 0.25 * old),
        seed=int(style_seed.integers(1 << 30)),
        sliders=_shape(person.face, man, old, shape_seed),
        **colours,  # type: ignore[arg-type]
    )


@dataclass(frozen=True, eq=False)
class View:
    """One photograph: pose, light, expression, styling of the day, scene and camera. Angles are radians."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    light: tuple[float, float] = (0.5, 0.6)  # azimuth and elevation of the key light
    key: float = 0.9
    fill: float = 0.45
    warmth: float = 0.0
    exposure: float = 1.0
    smile: float = 0.3
    mouth_open: float = 0.0
    brows: float = 0.1
    squint: float = 0.0
    gaze: tuple[float, float] = (0.0, 0.0)
    makeup: float = 0.5  # x the look's
    stubble: float = 0.8  # x the look's
    volume: float = 1.0  # x the look's
    fringe: float = 0.9  # worn where the look's readiness is above
    tied: bool = False  # long hair tied back
    glasses: bool = False
    background: tuple[Triple, Triple] = ((0.62, 0.62, 0.60), (0.48, 0.50, 0.52))
    cloth: Triple = (0.30, 0.33, 0.38)
    neckline: float = 0.5  # 0 high and round .. 1 a deep V
    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)  # of the face, in image widths
    blur: float = 0.0  # standard deviation in pixels of a 128-pixel image
    grain: float = 0.0  # standard deviation of sensor noise, 0..1
    seed: int = 0

    @staticmethod
    def sample(rng: np.random.Generator, spread: float = 1.0) -> View:
        """A random photograph; ``spread`` widens what varies (1 for MiniVox, 1.3 for pre-training).

        Example:
            >>> View.sample(np.random.default_rng(0)).yaw == View.sample(np.random.default_rng(0)).yaw
            True
        """
        g, s = rng, spread
        wall = _muted(g, 0.15, 0.85, 0.07)
        other = _triple(np.clip(np.array(wall) * g.uniform(0.55, 1.25) * (1 + g.normal(0, 0.05, 3)), 0.03, 0.93))
        return View(
            yaw=float(np.clip(g.normal(0, 0.3 * s), -0.65, 0.65)),
            pitch=float(np.clip(g.normal(0, 0.11 * s), -0.28, 0.28)),
            roll=float(np.clip(g.normal(0, 0.05 * s), -0.15, 0.15)),
            light=(float(np.clip(g.normal(0, 0.75 * s), -1.5, 1.5)), float(g.uniform(0.1, 1.0))),
            key=float(g.uniform(0.55, 1.05)),
            fill=float(np.clip(g.normal(0.44, 0.13 * s), 0.16, 0.8)),
            warmth=float(np.clip(g.normal(0.02, 0.07 * s), -0.2, 0.22)),
            exposure=float(np.exp(np.clip(g.normal(0, 0.17 * s), -0.5, 0.4))),
            smile=float(np.clip(g.normal(0.5, 0.35 * s), -0.1, 1.2)),
            mouth_open=float(max(0.0, g.normal(-0.12, 0.16 * s))),
            brows=float(g.normal(0.2, 0.28 * s)),
            squint=float(max(0.0, g.normal(-0.05, 0.15 * s))),
            gaze=(float(g.normal(0, 0.1 * s)), float(g.normal(0, 0.05 * s))),
            makeup=float(g.uniform(0, 1.2) * (g.random() < 0.75)),
            stubble=float(g.uniform(0.2, 1.3)),
            volume=float(np.exp(g.normal(0, 0.25 * s))),
            fringe=float(g.uniform(0.3, 1.0)),
            tied=bool(g.random() < 0.25 * s),
            glasses=bool(g.random() < 0.6),
            background=(wall, other),
            cloth=_muted(g, 0.06, 0.75, 0.16),
            neckline=float(g.random()),
            zoom=float(np.clip(g.normal(1.0, 0.025 * s), 0.96, 1.08)),
            shift=(float(g.normal(0, 0.012 * s)), float(g.normal(0, 0.012 * s))),
            blur=float(g.uniform(0, 0.75) * (g.random() < 0.6)),
            grain=float(g.uniform(0, 0.016)),
            seed=int(g.integers(1 << 30)),
        )
