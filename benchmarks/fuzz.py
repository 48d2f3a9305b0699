"""Damaged inputs by the thousand: what is read, what is refused in one line, and what goes wrong.

    python benchmarks/fuzz.py audio --count 10000        # recordings
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


KINDS: dict[str, Callable[[Path], Trial]] = {"audio": audio}


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
        self.process.start()
        other.close()
        self.pipe.recv()  # ready, or EOFError where the kind cannot be set up

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None

    def try_number(self, number: int, seconds: float = SECONDS) -> dict[str, Any]:
        if self.process is None:
            self.start()
        row: dict[str, Any] = {"number": number}
        self.pipe.send(number)
        try:
            row |= self.pipe.recv()
            if self.pipe.poll(2 * seconds):  # a busy machine is no hang: the worker's own clock decides
                row |= self.pipe.recv()
                if row["seconds"] > seconds:
                    row["outcome"] = "hang"
                return row
            row |= {"outcome": "hang", "seconds": 2 * seconds}
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
