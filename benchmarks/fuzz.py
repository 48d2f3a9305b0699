"""Damaged inputs by the thousand: what is read, what is refused in one line, and what goes wrong.

    python benchmarks/fuzz.py audio --count 10000        # recordings
    python benchmarks/fuzz.py pictures --count 2000      # photographs
    python benchmarks/fuzz.py weights --count 700        # models, trainings, stores
    python benchmarks/fuzz.py audio --only 17            # input 17 again, with the traceback

Input n of a seed is always the same. Each is given to a worker process, which is started anew after a crash or a hang.
A line an input goes to outputs/fuzz_KIND_SEED.jsonl, and a second run continues there. The summary goes to
benchmarks/results/fuzz.json.

A kind is one function: it loads what it needs and returns ``trial(rng, folder)``, which writes one damaged input and
returns its description and a function that uses it. That function raises InputError (a refusal), or returns the
warnings that were given and the cosine with the identity of the undamaged input (NaN where there is none).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from v2f_core.artefacts.files import atomic_write
from v2f_core.errors import InputError

SECONDS = 10.0  # longer is a hang
ALIKE = 0.7  # cosine of identities; a result below it, without a warning, is silently wrong
Use = Callable[[], tuple[list[str], float]]
Trial = Callable[[np.random.Generator, Path], tuple[str, Use]]


def audio(folder: Path) -> Trial:
    """Recordings of eight persons in many encodings, cut, flipped, joined, and with other numbers in their headers."""
    import torch
    from encodings_of_speech import ENCODINGS, Listener, encode

    torch.set_num_threads(1)
    listener = Listener()
    voices = listener.voices(8)
    clean = [listener.identity(voice)[0] for voice in voices]
    made: dict[tuple[int, str], bytes] = {}

    def encoded(person: int, name: str) -> bytes:
        if (person, name) not in made:
            made[person, name] = encode(voices[person], ENCODINGS[name], folder / "clean")
        return made[person, name]

    def trial(rng: np.random.Generator, place: Path) -> tuple[str, Use]:
        person, name = int(rng.integers(len(voices))), str(rng.choice(list(ENCODINGS)))
        data, steps = encoded(person, name), []
        for _ in range(rng.integers(1, 4)):
            if rng.random() < 0.15:
                other = str(rng.choice(list(ENCODINGS)))
                data, step = data + encoded(person, other), f"joined with {other}"
            else:
                data, step = damage(data, rng)
            steps.append(step)
        path = place / f"voice{Path(ENCODINGS[name].suffix)}"
        path.write_bytes(data)

        def use() -> tuple[list[str], float]:
            identity, said = listener.identity(path)
            return said, float(identity @ clean[person])

        return f"{name}: {', '.join(steps)}", use

    return trial


def pictures(folder: Path) -> Trial:
    """Photographs of eight persons in many encodings, turned by their tag or without one, damaged, and no pictures."""
    from PIL import Image

    from v2f_core.artefacts.profiles import load_profile
    from v2f_core.data.voxceleb import open_dataset
    from v2f_core.identity.faces import FacePack
    from v2f_core.identity.photos import read_image

    profile = load_profile("mini")
    manifest, pack = open_dataset(profile), FacePack.from_folder(profile.part("faces"))
    paths = manifest.absolute(manifest.faces("train"))
    photos = [Image.open(path).convert("RGB") for path in paths[:: len(paths) // 8][:8]]
    kinds: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": 90},
        "progressive JPEG": {"quality": 90, "progressive": True},
        "grey JPEG": {"mode": "L", "quality": 90},
        "JPEG of four inks": {"mode": "CMYK", "quality": 90},
        "PNG": {},
        "PNG of 256 colours": {"mode": "P"},
        "PNG with transparency": {"mode": "RGBA"},
        "grey PNG of 16 bits": {"mode": "I;16"},
        "WEBP": {"quality": 90},
        "lossless WEBP": {"lossless": True},
    }
    ways = [None, *(Image.Transpose[name] for name in _LAID.values())]
    clean: dict[tuple[int, str], Any] = {}

    def in_mode(photo: Image.Image, mode: str) -> Image.Image:
        if mode == "I;16":
            return Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
        return photo.convert(mode)

    def identity(path: Path) -> Any:
        (found,), seen = pack.embed([read_image(path)])
        if not seen[0]:
            raise InputError(f"{path}: no face found in it")
        return found

    def written(path: Path, person: int, kind: str, tag: int = 1, way: Any = None) -> None:
        options = dict(kinds[kind])
        photo, exif = in_mode(photos[person], options.pop("mode", "RGB")), Image.Exif()
        exif[0x0112] = tag
        photo = photo if way is None else photo.transpose(way)
        photo.save(path, next(name for name in ("JPEG", "PNG", "WEBP") if name in kind), exif=exif, **options)

    def trial(rng: np.random.Generator, place: Path) -> tuple[str, Use]:
        person, kind, path = int(rng.integers(len(photos))), str(rng.choice(list(kinds))), place / "photo.jpg"
        if (person, kind) not in clean:
            written(path, person, kind)
            clean[person, kind] = identity(path)
        turned, steps = rng.random(), []
        if turned < 0.4:
            tag = int(rng.integers(1, 9))
            written(path, person, kind, tag, ways[tag - 1])
            steps.append(f"turned, orientation {tag}")
        else:
            way = int(rng.integers(1, 8)) if turned < 0.5 else 0
            written(path, person, kind, way=ways[way])
            steps += [f"turned without a tag ({way})"] * bool(way)
        if rng.random() < 0.07:
            what = str(rng.choice(list(_NO_PHOTOS)))
            path.unlink()
            steps = [what]
            _NO_PHOTOS[what](path)
        else:
            data = path.read_bytes()
            for _ in range(rng.integers(0, 4)):
                data, step = damage(data, rng)
                steps.append(step)
            path.write_bytes(data)

        def use() -> tuple[list[str], float]:
            return [], float(identity(path) @ clean[person, kind])

        return f"{kind}: {', '.join(steps)}", use

    return trial


_LAID = {  # EXIF's orientation → what a camera did, for the tag to undo
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_90",
    7: "TRANSVERSE",
    8: "ROTATE_270",
}


def _picture_of(kind: str, size: tuple[int, int]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        from PIL import Image

        Image.new("RGB", size, (90, 120, 150)).save(path, kind)

    return write


_NO_PHOTOS: dict[str, Callable[[Path], None]] = {
    "empty": lambda path: path.write_bytes(b"") and None,
    "text": lambda path: path.write_text("no picture") and None,
    "a pipe": os.mkfifo if hasattr(os, "mkfifo") else Path.mkdir,
    "a folder": Path.mkdir,
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "1 × 5000": _picture_of("PNG", (1, 5000)),
    "a bomb": _picture_of("PNG", (12_000, 12_000)),
    "a wide bomb": _picture_of("WEBP", (16_000, 4_000)),
    "TIFF": _picture_of("TIFF", (64, 64)),
    "DDS": _picture_of("DDS", (64, 64)),
    "AVIF": _picture_of("AVIF", (64, 64)),
    "GIF": _picture_of("GIF", (64, 64)),
}


def weights(folder: Path) -> Trial:
    """Every kind of folder and file that a model or a training is loaded from, one of its files damaged; and used."""
    import shutil

    import torch
    from diffusers.utils import logging as diffusers_logging
    from safetensors.torch import load_file, save_file
    from transformers.utils import logging as transformers_logging

    from v2f_core.artefacts import checkpoints, store
    from v2f_core.artefacts.loading import tensors_from_bin
    from v2f_core.artefacts.profiles import load_profile
    from v2f_core.diffusion.lora import add_lora, load_lora, save_lora
    from v2f_core.diffusion.prior import Prior
    from v2f_core.evaluation.judge import Judge
    from v2f_core.identity.aligner import Aligner
    from v2f_core.identity.arcface_torch import differentiable_arcface
    from v2f_core.identity.faces import TEMPLATE, FacePack, align
    from v2f_core.identity.posterior import IdentityPosterior
    from v2f_core.pipeline import Vox2FacePipeline
    from v2f_core.speech.encoders import load_encoder

    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    diffusers_logging.disable_progress_bar()
    profile, whole = load_profile("mini"), folder / "whole"
    wave = 0.1 * torch.randn(1, 20_000, generator=torch.Generator().manual_seed(0))
    picture = np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    z = torch.nn.functional.normalize(torch.arange(512.0).cos(), dim=0)[None]
    for part in ("ast", "ecapa", "ge2e", "faces", "judge", "aligner", "posterior", "prior"):
        shutil.copytree(profile.part(part), whole / part)
    aligner = Aligner.from_pretrained(whole / "aligner")
    pipe = Vox2FacePipeline.from_profile(profile, stage=1)
    pipe.save_pretrained(whole / "pipeline")
    prior = Prior.from_folder(whole / "prior")
    add_lora(prior, 2, 2.0, torch.Generator().manual_seed(0))
    save_lora(prior, whole / "lora", {})
    for name in ("a", "b"):
        (whole / name).touch()
    one = [torch.ones(1, 3)]
    store.extract(whole, ["a", "b"], lambda paths: one * len(paths), whole / "store", {}, shard=1)
    checkpoints.save_training(
        whole / "checkpoint" / "checkpoint.pt", 1, {"net": torch.nn.Linear(3, 3)}, torch.Generator(), {}
    )
    (whole / "pickle").mkdir()
    torch.save({"w": torch.ones(9)}, whole / "pickle" / "pytorch_model.bin")

    def drawn(prior: Prior) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # diffusers hands a tensor to numpy.array
            return prior.sample(z, 2, generator=torch.Generator().manual_seed(0))

    def seen(place: Path) -> Any:
        pack = FacePack.from_folder(place)
        pack.detect(picture)
        crop = align(picture, TEMPLATE + 8)
        twin = differentiable_arcface(pack.arcface_path)(torch.from_numpy(crop).permute(2, 0, 1)[None] / 127.5 - 1)
        return torch.cat([torch.from_numpy(pack.embed_aligned([crop])), twin])

    def adapted(place: Path) -> Any:
        fresh = Prior.from_folder(whole / "prior")
        load_lora(fresh, place)
        return fresh.predict(torch.ones(1, *fresh.latent_shape), 500, fresh.null(1)).detach()

    def kept(place: Path) -> Any:
        net = torch.nn.Linear(3, 3)
        checkpoints.resume_training(place / "checkpoint.pt", {"net": net}, torch.Generator(), {})
        return net.weight.detach()

    parts: dict[str, Callable[[Path], Any]] = {
        "ast": lambda place: load_encoder("ast", place).embed(wave),
        "ecapa": lambda place: load_encoder("ecapa", place).embed(wave),
        "ge2e": lambda place: load_encoder("ge2e", place).embed(wave),
        "faces": seen,
        "judge": lambda place: torch.from_numpy(Judge.from_folder(place).features([picture])),
        "aligner": lambda place: Aligner.from_pretrained(place)(torch.ones(1, aligner.speaker_width)).detach(),
        "posterior": lambda place: IdentityPosterior.from_pretrained(place, aligner).sample(
            torch.ones(aligner.speaker_width), 1, generator=torch.Generator().manual_seed(0)
        ),
        "prior": lambda place: drawn(Prior.from_folder(place)),
        "pipeline": lambda place: drawn(Vox2FacePipeline.from_pretrained(place).prior),
        "lora": adapted,
        "store": lambda place: store.load(place).vectors,
        "checkpoint": kept,
        "pickle": lambda place: tensors_from_bin(place / "pytorch_model.bin")["w"],
    }
    clean: dict[str, Any] = {}

    def trial(rng: np.random.Generator, place: Path) -> tuple[str, Use]:
        part = str(rng.choice(list(parts)))
        if part not in clean:
            clean[part] = parts[part](whole / part)
        shutil.copytree(whole / part, place / part)
        victims = sorted(path for path in (place / part).rglob("*") if path.suffix not in (".csv", ".md", ".txt"))
        victim = victims[int(rng.integers(len(victims)))]
        while victim.is_dir():
            victim = victims[int(rng.integers(len(victims)))]
        how = rng.random()
        if victim.suffix == ".json" and how < 0.7:
            content = json.loads(victim.read_text())
            step = change_a_setting(content, rng)
            victim.write_text(json.dumps(content))
        elif victim.suffix == ".safetensors" and how < 0.4:
            tensors = load_file(victim)
            step = change_a_tensor(tensors, rng)
            save_file(tensors, victim, {"format": "pt"})
        else:
            data, step = damage(victim.read_bytes(), rng)
            victim.write_bytes(data)

        def use() -> tuple[list[str], float]:
            given, true = (np.asarray(value, np.float64).ravel() for value in (parts[part](place / part), clean[part]))
            if given.shape != true.shape:
                return [], math.nan
            return [], float(given @ true / (np.linalg.norm(given) * np.linalg.norm(true)))

        return f"{victim.relative_to(place)}: {step}", use

    return trial


def change_a_setting(content: dict[str, Any], rng: np.random.Generator) -> str:
    """Change, misspell or leave out one value of a configuration."""
    if not content:
        return "nothing to change"
    name = sorted(content)[int(rng.integers(len(content)))]
    way = int(rng.integers(4))
    if way == 0:
        del content[name]
        return f"no {name}"
    if way == 1:
        content[f"{name}_"] = content.pop(name)
        return f"{name} misspelt"
    values = [0, 1, -1, 3, 7.5, 10**6, 10**12, 1e308, math.nan, None, "", "x", [], [1, 2], {}, True]
    content[name] = values[int(rng.integers(len(values)))]
    return f"{name} = {content[name]!r}"


def change_a_tensor(tensors: dict[str, Any], rng: np.random.Generator) -> str:
    """Put NaN into a tensor, or infinity; cut it, rename it or leave it out."""
    import torch

    name = sorted(tensors)[int(rng.integers(len(tensors)))]
    way = str(rng.choice(["NaN", "infinity", "all NaN", "shape", "name", "none", "type"]))
    tensor = tensors.pop(name)
    if way in ("NaN", "infinity", "all NaN"):
        tensor = tensor.clone().float()
        tensor.view(-1)[: tensor.numel() if way == "all NaN" else 1] = math.inf if way == "infinity" else math.nan
    if way == "shape":
        tensor = tensor.flatten()[: max(1, tensor.numel() // 2)].clone()
    if way == "type":
        tensor = tensor.to(torch.int8)
    if way != "none":
        tensors[f"{name}_" if way == "name" else name] = tensor
    return f"{way}: {name}"


KINDS: dict[str, Callable[[Path], Trial]] = {"audio": audio, "pictures": pictures, "weights": weights}


# --- damage to any file


def damage(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Damage a file's bytes in one drawn way, and name it."""
    if not data:
        return data, "empty"
    size, what = len(data), str(rng.choice([way.__name__ for way in _WAYS]))
    return {way.__name__: way for way in _WAYS}[what](data, size, rng), what


def cut_off(data: bytes, size: int, rng: np.random.Generator) -> bytes:
    return data[: int(size * rng.uniform(0.02, 1))]


def flip_bits(data: bytes, size: int, rng: np.random.Generator) -> bytes:
    changed = np.frombuffer(data, np.uint8).copy()
    places = rng.integers(size, size=2 ** int(rng.integers(0, 8)))
    changed[places] ^= (1 << rng.integers(0, 8, len(places))).astype(np.uint8)
    return changed.tobytes()


def change_a_header_byte(data: bytes, size: int, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(min(size, 128)))
    return data[:place] + bytes([int(rng.integers(256))]) + data[place + 1 :]


def change_a_header_number(data: bytes, size: int, rng: np.random.Generator) -> bytes:
    place, width = int(rng.integers(min(size, 256))), int(rng.choice([2, 4, 8]))
    value = int(rng.choice([0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF])) & (256**width - 1)
    return data[:place] + value.to_bytes(width, str(rng.choice(["little", "big"]))) + data[place + width :]


def zero_a_stretch(data: bytes, size: int, rng: np.random.Generator) -> bytes:
    start, end = sorted(rng.integers(size + 1, size=2).tolist())
    end = min(end, start + size // 4)
    return data[:start] + bytes(end - start) + data[end:]


def garble_a_stretch(data: bytes, size: int, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(size))
    end = min(size, start + int(rng.integers(1, 4097)))
    return data[:start] + rng.bytes(end - start) + data[end:]


def leave_a_stretch_out(data: bytes, size: int, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(size))
    return data[:start] + data[start + int(rng.integers(1, size // 4 + 2)) :]


def repeat_a_stretch(data: bytes, size: int, rng: np.random.Generator) -> bytes:
    start, end = sorted(rng.integers(size + 1, size=2).tolist())
    return data[:end] + data[start:end] + data[end:]


def put_garbage_before(data: bytes, size: int, rng: np.random.Generator) -> bytes:
    return rng.bytes(int(rng.integers(1, 2000))) + data


def put_garbage_after(data: bytes, size: int, rng: np.random.Generator) -> bytes:
    return data + rng.bytes(int(rng.integers(1, 20_000)))


_WAYS = [
    cut_off,
    flip_bits,
    change_a_header_byte,
    change_a_header_number,
    zero_a_stretch,
    garble_a_stretch,
    leave_a_stretch_out,
    repeat_a_stretch,
    put_garbage_before,
    put_garbage_after,
]


# --- the worker: it makes the inputs and uses them


def try_one(trial: Trial, seed: int, number: int, tell: Callable[[dict[str, Any]], None]) -> None:
    """Make an input, tell of it, use it, tell what came of it."""
    with tempfile.TemporaryDirectory() as place:
        what, use = trial(np.random.default_rng([seed, number]), Path(place))
        tell({"number": number, "what": what})
        _forget_peak()
        start = time.monotonic()
        row: dict[str, Any] = {"outcome": "silent", "cosine": math.nan, "said": ""}
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                said, row["cosine"] = use()
            said += [str(warning.message) for warning in caught]
            if said:
                row |= {"outcome": "warned", "said": " | ".join(said)[:300]}
        except InputError as error:
            row |= {"outcome": "refused", "said": str(error)[:300]}
            if "\n" in str(error):
                row["outcome"] = "refused in several lines"
        except Exception as error:  # what a user would see as a traceback
            row |= {"outcome": "exception", "said": f"{type(error).__name__}: {error}"[:300]}
            row["where"] = traceback.format_exc()[-1500:]
        row |= {"seconds": round(time.monotonic() - start, 3), "megabytes": round(_peak())}
    tell(row)


def _forget_peak() -> None:
    with contextlib.suppress(OSError):  # Linux only; elsewhere the peak is that of all inputs so far
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> float:
    """The most memory that this process has held, MB."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def work(kind: str, seed: int, pipe: Connection) -> None:
    """Answer numbers with two messages each, until None comes. Whatever libraries print is told too."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as printed:
        for number in (1, 2):
            os.dup2(printed.fileno(), number)
        trial = KINDS[kind](Path(folder))
        pipe.send("ready")
        seen = os.fstat(printed.fileno()).st_size

        def tell(row: dict[str, Any]) -> None:
            nonlocal seen
            size = os.fstat(printed.fileno()).st_size
            if size > seen:
                row["printed"] = os.pread(printed.fileno(), 200, seen).decode(errors="replace")
                seen = size
            pipe.send(row)

        while (number := pipe.recv()) is not None:
            try_one(trial, seed, number, tell)


class Worker:
    """A process that tries inputs; one that is lost is replaced."""

    def __init__(self, kind: str, seed: int) -> None:
        self.kind, self.seed, self.process = kind, seed, None

    def start(self) -> None:
        context = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=work, args=(self.kind, self.seed, other), daemon=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, which all wait here
            self.process.start()
        other.close()
        self.pipe.recv()  # ready, or EOFError where the kind cannot be set up

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None

    def try_number(self, number: int) -> dict[str, Any]:
        if self.process is None:
            self.start()
        row: dict[str, Any] = {"number": number}
        self.pipe.send(number)
        try:
            row |= self.pipe.recv()
            if self.pipe.poll(2 * SECONDS):  # a busy machine is no hang: the worker's own clock decides
                row |= self.pipe.recv()
                if row["seconds"] > SECONDS:
                    row["outcome"] = "hang"
                return row
            row |= {"outcome": "hang", "seconds": 2 * SECONDS}
        except EOFError:
            self.process.join()
            row |= {"outcome": "crash", "said": f"exit code {self.process.exitcode}"}
        self.stop()
        return row


# --- all of them


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts of what came of the inputs, and the share of all that was silently wrong.

    Example:
        >>> rows = [{"outcome": "silent", "cosine": c, "seconds": 1, "megabytes": 9} for c in (0.5, 0.9)]
        >>> summary(rows)["silent below 0.7"]
        0.5
    """
    wrong = [row for row in rows if row["outcome"] == "silent" and not row.get("cosine", math.nan) >= ALIKE]
    return {
        "inputs": len(rows),
        "outcomes": dict(sorted(Counter(row["outcome"] for row in rows).items())),
        f"silent below {ALIKE}": round(len(wrong) / max(len(rows), 1), 5),
        "printed by libraries": sum("printed" in row for row in rows),
        "longest, s": max((row.get("seconds", 0) for row in rows), default=0),
        "peak, MB": max((row.get("megabytes", 0) for row in rows), default=0),
    }


def main(arguments: list[str] | None = None) -> int:
    """Try the inputs that no line of the log has yet; 1 if any was an exception, a crash or a hang."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after these, to continue another time")
    parser.add_argument("--only", type=int, help="try this input alone, here, and show its traceback")
    parser.add_argument("--log", type=Path, default=Path("outputs"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    chosen = parser.parse_args(arguments)
    if chosen.only is not None:
        with tempfile.TemporaryDirectory() as folder:
            try_one(
                KINDS[chosen.kind](Path(folder)), chosen.seed, chosen.only, lambda row: print(*row.items(), sep="\n")
            )
        return 0
    log, rows = chosen.log / f"fuzz_{chosen.kind}_{chosen.seed}.jsonl", []
    if log.is_file():
        lines = log.read_text().splitlines(keepends=True)
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
    log.parent.mkdir(parents=True, exist_ok=True)
    done, end = {row["number"] for row in rows}, time.monotonic() + 60 * chosen.minutes
    worker = Worker(chosen.kind, chosen.seed)
    with log.open("a") as file:
        for number in range(chosen.count):
            if number in done or time.monotonic() > end:
                continue
            row = worker.try_number(number)
            rows.append(row)
            file.write(json.dumps(row) + "\n")
            file.flush()
    worker.stop()
    rows = [row for row in rows if row["number"] < chosen.count]
    found = {"seed": chosen.seed, **summary(rows)}
    results = chosen.out / "fuzz.json"
    everything = json.loads(results.read_text()) if results.is_file() else {}
    with atomic_write(results) as part:
        part.write_text(json.dumps({**everything, chosen.kind: found}, indent=2) + "\n")
    print(json.dumps(found, indent=2))
    bad = ("exception", "crash", "hang", "refused in several lines")
    for row in rows:
        if row["outcome"] in bad or row.get("printed"):
            print(json.dumps(row))
    return int(any(row["outcome"] in bad for row in rows))


if __name__ == "__main__":
    sys.exit(main())
