"""The command line: python -m v2f_core. Each command imports what it needs when it runs, so that help comes at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from v2f_core.artefacts.profiles import load_profile
from v2f_core.cli_training import Device, ProfileName, check_device, training
from v2f_core.errors import InputError

app = typer.Typer(
    help="From a voice alone, a face.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(training)  # without a name: its commands stand beside these


@app.command()
def generate(
    voice: Annotated[Path, typer.Argument(help="A recording: WAV, FLAC, OGG, MP3 or M4A.")],
    num_images: Annotated[int, typer.Option("-n", "--num-images", min=1, help="How many faces.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same faces.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the faces.")] = Path("outputs/generate"),
    truncation: Annotated[
        float, typer.Option(min=0, max=1, help="1: each face another person whom the voice allows; 0: all its mean.")
    ] = 1.0,
    profile: ProfileName = None,
    device: Device = "cpu",
) -> None:
    """Faces for a recorded voice: PNGs, a contact sheet, and a JSON with the identity."""
    from v2f_core.app.generate import generate

    if device != "cpu":
        check_device(device)
    generate(voice, num_images, seed, out, profile, device=device, truncation=truncation)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the gallery and the table.")] = Path("outputs/demo"),
    profile: ProfileName = None,
) -> None:
    """The main job on the built-in data: voices to faces, a gallery and a table."""
    from v2f_core.app.demo import demo

    demo(out=out, profile=profile)


@app.command()
def scan(
    root: Annotated[
        Path | None, typer.Argument(help="HQ-VoxCeleb's and VoxCeleb's folder; else the profile's.")
    ] = None,
    hashes: Annotated[bool, typer.Option(help="Hash every file; a stopped run goes on.")] = True,
    max_bad: Annotated[
        float, typer.Option(min=0, max=1, help="Stop if more than this share of the files is unusable.")
    ] = 0.05,
) -> None:
    """Look a dataset through: who is in it, who is not and why, the split; writes manifest.parquet into it."""
    from v2f_core.data.scan import scan, summary

    for line in summary(scan(root or load_profile("full").dataset, hashes, max_bad)):
        print(line)


@app.command()
def doctor(
    profile: Annotated[Literal["mini", "full"], typer.Option(help="Whose parts are needed.")] = "mini",
) -> None:
    """What is here, what is missing, and what to do about it."""
    from v2f_core.app.doctor import doctor

    raise typer.Exit(doctor(profile))


@app.command()
def fetch(
    parts: Annotated[
        list[str] | None, typer.Argument(help="ast, ecapa, faces, prior, judge, scorer; else all.")
    ] = None,
    local: Annotated[Path | None, typer.Option(help="Folder with published files, downloaded by hand.")] = None,
    accept: Annotated[
        bool, typer.Option("--accept", help="Agree to the publishers' terms without being asked.")
    ] = False,
) -> None:
    """Bring the full profile's weights: from a folder, the hub's cache, or a download; goes on where it was stopped."""
    from v2f_core.artefacts.origins import ORIGINS, Origin
    from v2f_core.artefacts.weights import fetch

    def agree(origin: Origin) -> bool:
        print(f"{origin.name} ({origin.page}, {origin.megabytes:.0f} MB): {origin.licence}. {origin.consent}.")
        asked = "Do you agree, and is your use within these terms? (--accept agrees beforehand)"
        return accept or typer.confirm(asked, err=True)

    root, failed = load_profile("full").prior.parent, []
    for part in parts or ORIGINS:
        try:
            for line in fetch(part, root / part, agree, local):
                print(f"{part}/{line}")
        except InputError as error:
            failed.append(str(error))
    if failed:
        raise InputError("; ".join(dict.fromkeys(failed)))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; what a user can mend is one line on stderr and exit code 2.

    Raises:
        SystemExit: always, with the exit code.

    Example:
        >>> main(["doctor", "--help"])
        Traceback (most recent call last):
        SystemExit: 0
    """
    try:
        app(arguments, prog_name="python -m v2f_core")
    except InputError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
