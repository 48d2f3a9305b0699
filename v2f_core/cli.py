"""The command line: python -m v2f_core. Each command imports what it needs when it runs, so that help comes at once."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from v2f_core.errors import InputError

if TYPE_CHECKING:
    from v2f_core.artefacts.profiles import Profile
    from v2f_core.artefacts.weights import Origin

app = typer.Typer(
    help="From a voice alone, a face.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
Out = Annotated[Path, typer.Option(help="Folder for the results.")]
Device = Annotated[Literal["cpu", "cuda", "mps"], typer.Option(help="Where to compute.")]
ProfileName = Annotated[str | None, typer.Option(help="mini, open or full; else V2F_PROFILE, else mini.")]
EncoderName = Annotated[Literal["ast", "ecapa", "ge2e"] | None, typer.Option(help="Speech encoder; or the profile's.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same result.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Training steps; else the profile's.")]


@app.command()
def generate(
    voice: Annotated[Path, typer.Argument(help="A recording: WAV, FLAC, OGG, MP3 or M4A.")],
    num_images: Annotated[int, typer.Option("-n", "--num-images", min=1, help="How many faces.")] = 4,
    seed: Seed = 0,
    out: Out = Path("outputs/generate"),
    truncation: Annotated[float, typer.Option(min=0, max=1, help="1: draws of p(z | v); 0: all its mean.")] = 1.0,
    encoder: EncoderName = None,
    profile: ProfileName = None,
    device: Device = "cpu",
) -> None:
    """Faces for a recorded voice: PNGs, a contact sheet, and a JSON with the identity."""
    chosen = open_profile(profile, device)
    from v2f_core.app.generate import generate

    generate(voice, num_images, seed, out, chosen, device, truncation, encoder)


@app.command()
def demo(out: Out = Path("outputs/demo"), profile: ProfileName = None) -> None:
    """The main job on the built-in data: voices to faces, a gallery and a table."""
    chosen = open_profile(profile)
    from v2f_core.app.demo import demo

    demo(out, chosen)


@app.command()
def extract(
    profile: ProfileName = None,
    device: Device = "cpu",
    encoder: EncoderName = None,
    workers: Annotated[int, typer.Option(min=0, help="Threads that read the files.")] = 0,
) -> None:
    """Embed every voice and face of the profile's dataset once, into the cache; goes on where it was stopped."""
    chosen = open_profile(profile, device, encoder)
    from v2f_core.app.train import extract

    extract(chosen, device, workers)


@app.command()
def stage1(
    out: Out = Path("runs/stage1"),
    steps: Steps = None,
    seed: Seed = 0,
    profile: ProfileName = None,
    device: Device = "cpu",
    encoder: EncoderName = None,
    unfreeze: Annotated[int | None, typer.Option(min=0, help="From waveforms, with so many upper layers.")] = None,
    aligner: Annotated[Path | None, typer.Option(help="With --unfreeze: the folder of one to start from.")] = None,
) -> None:
    """Stage I: the aligner, on stored embeddings or from waveforms; goes on where it was stopped."""
    if unfreeze is None and aligner:
        raise InputError("--aligner belongs to --unfreeze; give it too (0 trains the aligner alone)")
    chosen = open_profile(profile, device, encoder, one_thread=False)
    from v2f_core.app import train

    if unfreeze is None:
        train.stage1(chosen, out, steps, seed, device)
    else:
        train.stage1_from_waveforms(chosen, out, unfreeze, aligner, steps, seed, device)


@app.command()
def posterior(
    out: Out = Path("runs/posterior"),
    aligner: Annotated[Path | None, typer.Option(help="The aligner's folder; else the profile's.")] = None,
    profile: ProfileName = None,
    device: Device = "cpu",
    encoder: EncoderName = None,
) -> None:
    """p(z | v) for an aligner, from stored embeddings: a minute at most, and the same every time."""
    chosen = open_profile(profile, device, encoder)
    from v2f_core.app.train import posterior

    posterior(chosen, out, aligner, device)


@app.command()
def stage2(
    out: Out = Path("runs/stage2"),
    aligner: Annotated[Path | None, typer.Option(help="Folder of Stage I's aligner; else the profile's.")] = None,
    mode: Annotated[
        Literal["paper", "denoise", "teacher", "contrast", "cycle", "likeness"] | None,
        typer.Option(help="Which L_self, with a λ_self that suits it; else the paper's with the profile's λ_self."),
    ] = None,
    steps: Steps = None,
    gradient_checkpointing: Annotated[bool, typer.Option("--gradient-checkpointing", help="Less memory.")] = False,
    seed: Seed = 0,
    profile: ProfileName = None,
    device: Device = "cpu",
    encoder: EncoderName = None,
) -> None:
    """Stage II: aligner and LoRA together, with the prior as critic; goes on where it was stopped."""
    if mode == "contrast" and gradient_checkpointing:  # it would compute again with adapters that were frozen before
        raise InputError("--mode contrast and --gradient-checkpointing do not go together; leave one out")
    chosen = open_profile(profile, device, encoder, one_thread=False)
    from v2f_core.app.train import stage2

    stage2(chosen, out, aligner, mode, steps, gradient_checkpointing, seed, device)


@app.command()
def evaluate(
    out: Out = Path("outputs/evaluate"),
    systems: Annotated[str, typer.Option(help="Rows with faces: names, all, or none.")] = "w/o DSC (Stage I)",
    draws: Annotated[int, typer.Option(min=1, help="Faces a person and row.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Solver steps of a face.")] = 10,
    tune: Annotated[bool, typer.Option("--tune", help="Choose every row's guidance on validation persons.")] = False,
    limit: Annotated[int | None, typer.Option(help="Only so many test persons, women and men alike.")] = None,
    stage2: Annotated[list[Path] | None, typer.Option(help="Folder of a trained Stage II; may be repeated.")] = None,
    seed: Seed = 0,
    profile: ProfileName = None,
    device: Device = "cpu",
    encoder: EncoderName = None,
) -> None:
    """Every system beside its controls: tables and a page to look at; goes on where it was stopped."""
    chosen = open_profile(profile, device, encoder)
    from v2f_core.app.evaluate import evaluate

    evaluate(out, chosen, systems, draws, steps, limit, stage2 or (), seed, tune, device)


@app.command()
def ablate(
    table: Annotated[Literal["table4", "modes", "rank"], typer.Argument(help="Which; see v2f_core.studies.ablation.")],
    out: Out = Path("runs/ablate"),
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0.")] = 3,
    steps: Steps = None,
    persons: Annotated[int, typer.Option(min=10, help="Persons at most, women and men alike.")] = 1000,
    profile: ProfileName = None,
    device: Device = "cpu",
) -> None:
    """A table of ablations over seeds: trained, drawn, measured; goes on where it was stopped."""
    chosen = open_profile(profile, device, one_thread=False)
    from v2f_core.app.ablate import Plan, run_table
    from v2f_core.studies.ablation import TABLES

    page = run_table(table, TABLES[table], seeds, Plan(chosen, out, steps, persons, device=device))
    print(f"{page.read_text(encoding='utf-8')}\nresults: {page.parent}")


@app.command()
def own(
    folder: Annotated[Path, typer.Argument(help="Folder with pairs.csv, or with a folder for each person.")],
    out: Out = Path("outputs/own"),
    deals: Annotated[int, typer.Option(min=1, help="How often persons are dealt into folds.")] = 4,
    steps: Steps = None,
    seed: Seed = 0,
    profile: Annotated[str, typer.Option(help="Whose encoders: open, mini or full.")] = "open",
    device: Device = "cpu",
) -> None:
    """Your own recordings and photographs: from a folder to Stage I's table, each person tested by others' aligners."""
    chosen = open_profile(profile, device, data=folder)
    from v2f_core.app.own import own

    own(chosen, out, deals, steps, seed, device)


@app.command()
def forget(
    folder: Annotated[Path, typer.Argument(help="Folder of your own data.")],
    person: Annotated[str, typer.Argument(help="The person who withdraws, as the table or the folder has the name.")],
    out: Annotated[Path, typer.Option(help="Folder of own's tables.")] = Path("outputs/own"),
) -> None:
    """Remove a person who withdraws: files, rows of tables, stored embeddings."""
    chosen = open_profile("open", data=folder)
    from v2f_core.app.own import forget

    print("\n".join(f"removed: {line}" for line in forget(chosen, person, out)))
    print("Copies, backups and other outputs are yours to remove. What was trained rests on this person: train again.")


@app.command()
def scan(
    root: Annotated[Path | None, typer.Argument(help="VoxCeleb's, or of your own data; else the profile's.")] = None,
    max_bad: Annotated[float, typer.Option(min=0, max=1, help="Stop if more of the files are unusable.")] = 0.05,
    profile: Annotated[str | None, typer.Option(help="open or full; else V2F_PROFILE, else full.")] = None,
) -> None:
    """Look a dataset through: who is in it, who is not and why, the split; VoxCeleb's gets a manifest.csv."""
    chosen = open_profile(profile or os.environ.get("V2F_PROFILE") or "full")
    from v2f_core.data.voxceleb import scan, summary

    print("\n".join(summary(scan(root or chosen.dataset, max_bad))))


@app.command()
def doctor(profile: ProfileName = None) -> None:
    """What is here, what is missing, and what to do about it."""
    from v2f_core.app.doctor import doctor

    raise typer.Exit(doctor(open_profile(profile).name))


@app.command()
def fetch(
    parts: Annotated[list[str] | None, typer.Argument(help="ast, ecapa, faces, prior, judge, scorer; or all.")] = None,
    local: Annotated[Path | None, typer.Option(help="Folder with published files, downloaded by hand.")] = None,
    accept: Annotated[bool, typer.Option("--accept", help="Agree to the terms without being asked.")] = False,
) -> None:
    """Bring the full profile's weights: from a folder, the hub's cache, or a download; goes on where it was stopped."""
    from v2f_core.artefacts.weights import ORIGINS, fetch

    def agree(origin: Origin) -> bool:
        print(f"{origin.name} ({origin.page}, {origin.megabytes} MB): {origin.licence}. {origin.consent}.")
        question = "Do you agree, and is your use within these terms? (--accept agrees beforehand)"
        return accept or typer.confirm(question, err=True)

    root, failures = open_profile("full").aligner.parent, {}
    for part in parts or ORIGINS:
        try:
            for line in fetch(part, root / part, agree, local):
                print(f"{part}/{line}")
        except InputError as error:
            failures[str(error)] = part
    if failures:
        raise InputError("; ".join(failures))


def open_profile(
    name: str | None, device: str = "cpu", encoder: str | None = None, data: Path | None = None, one_thread: bool = True
) -> Profile:
    """The profile, with another speech encoder or a folder of one's own data if they are named; the device is there.

    The small nets of all profiles but the full one compute with one thread: two only wait for each other. Trainings
    take all, and the user's own OMP_NUM_THREADS is kept.
    """
    from v2f_core.artefacts.profiles import load_profile

    profile = load_profile(name).with_encoder(encoder)
    if data and not data.is_dir():
        raise InputError(f"{data}: no such folder; give one with pairs.csv, or with a folder for each person, in it")
    if data:
        profile = replace(profile, dataset=data.absolute(), dataset_is_packed=False, own_data=True)
    if one_thread and profile.name != "full":
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    if device != "cpu":
        import torch

        try:
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"{device}: this machine's torch cannot use it; choose another --device") from error
    return profile


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; what a user can mend is one line on stderr and exit code 2."""
    # read once, when torch is imported; waiting threads that spin take the cores from those that work
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.formatwarning = lambda message, *where, **line: f"note: {' '.join(str(message).split())}\n"
    try:
        app(arguments, prog_name="python -m v2f_core")
    except (InputError, OSError) as error:
        line = " ".join(str(error).split())
        if isinstance(error, OSError):
            if error.errno not in NOT_WRITABLE:
                raise
            line = f"{error.filename}: {error.strerror}; free room, or choose a folder you may write to (--out)"
        print("error:", line, file=sys.stderr)
        sys.exit(2)
