"""Makes MiniVox and the miniature models from nothing, stage by stage.

    python -m minivox.build              every stage, in order; what is done already is not done again
    python -m minivox.build vae prior    these stages only
    python -m minivox.build --list       the stages, and which are done
    python -m minivox.build.grow         first, to start the prior from the one that ships and not from nothing

Needs the extra [build]. A stage that is killed goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from importlib import import_module
from pathlib import Path

from v2f_core.artefacts.files import atomic_write
from v2f_core.errors import InputError

# In order: each stage reads only what earlier ones wrote. Each is a module here with run(work, tiny).
STAGES = {
    "faces_pool": "portraits of other persons than MiniVox's, to train the face models on",
    "base_speech": "Kokoro's voices speak the sentences",
    "voices_pool": "recordings of other persons than MiniVox's, to train the speech models on",
    "ge2e": "the real speech encoder GE2E, from its published package",
    "voice_report": "how well voices tell persons apart, and how well their traits are heard",
    "minivox": "MiniVox: portraits, recordings, tables",
    "large": "MiniVox-L: 2,890 persons to train Stage I on, 1,000 to test small differences on",
    "arcface": "the ArcFace miniature",
    "detector": "the face detector",
    "judge": "the classifier that scores faces independently",
    "vae": "the autoencoder of the prior",
    "prior": "text encoder and UNet of the prior",
    "speech_models": "AST and ECAPA",
    "aligner": "Stage I: from voices to identities",
    "posterior": "p(z | v) for that aligner",
    "large_embeddings": "MiniVox-L's embeddings, which ship; its files do not",
    "other_ears": "an aligner and p(z | v) for ECAPA and for GE2E",
    "pack": "archives, models and their hashes, into the package's assets",
}
DONE = "done"  # an empty file in a stage's folder


def main(arguments: list[str] | None = None) -> int:
    """Run the stages that the command line names; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m minivox.build", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"one of: {', '.join(STAGES)} (default: all)")
    parser.add_argument("--work", type=Path, default=Path("build"), help="scratch folder (default: build)")
    parser.add_argument("--tiny", action="store_true", help="seconds instead of hours: proves that the program runs")
    parser.add_argument("--again", action="store_true", help="forget what the named stages did, and do it again")
    parser.add_argument("--list", action="store_true", help="list the stages and which are done")
    chosen = parser.parse_args(arguments)
    if unknown := [name for name in chosen.stages if name not in STAGES]:
        parser.error(f"{unknown[0]}: no such stage; choose from {', '.join(STAGES)}")
    work = chosen.work / "tiny" if chosen.tiny else chosen.work  # so that neither takes the other's results for its own
    if chosen.list:
        for name, what in STAGES.items():
            print(f"{'done' if (work / name / DONE).exists() else '    '}  {name:14}{what}")
        return 0
    try:
        for name in chosen.stages or STAGES:
            _run(name, work, chosen.tiny, chosen.again)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _run(name: str, work: Path, tiny: bool, again: bool) -> None:
    folder = work / name
    if again:
        shutil.rmtree(folder, ignore_errors=True)
    if (folder / DONE).exists():
        print(f"{name}: done already ({folder}); --again does it anew", file=sys.stderr)
        return
    print(f"{name}: {STAGES[name]}", file=sys.stderr)
    began = time.monotonic()
    import_module(f"minivox.build.{name}").run(work, tiny)
    with atomic_write(folder / DONE):
        pass
    print(f"{name}: done in {(time.monotonic() - began) / 60:.1f} min", file=sys.stderr)


if __name__ == "__main__":
    # Threads that spin while they wait slow a busy machine down; it is read when torch is imported, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(main())
