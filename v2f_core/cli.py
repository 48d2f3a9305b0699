"""The command line: python -m v2f_core. Each command imports what it needs when it runs, so that help comes at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from v2f_core.errors import InputError

app = typer.Typer(
    help="From a voice alone, a face.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ProfileName = Annotated[str | None, typer.Option(help="mini or full; else V2F_PROFILE, else mini.")]


@app.command()
def generate(
    voice: Annotated[Path, typer.Argument(help="A recording: WAV, FLAC, OGG, MP3 or M4A.")],
    num_images: Annotated[int, typer.Option("-n", "--num-images", min=1, help="How many faces.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same faces.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the faces.")] = Path("outputs/generate"),
    profile: ProfileName = None,
) -> None:
    """Faces for a recorded voice: PNGs, a contact sheet, and a JSON with the identity."""
    from v2f_core.generate import generate

    generate(voice, num_images=num_images, seed=seed, out=out, profile=profile)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the gallery and the table.")] = Path("outputs/demo"),
    profile: ProfileName = None,
) -> None:
    """The main job on the built-in data: voices to faces, a gallery and a table."""
    from v2f_core.demo import demo

    demo(out=out, profile=profile)


@app.command()
def doctor() -> None:
    """What is here, what is missing, and what to do about it."""
    from v2f_core.doctor import doctor

    raise typer.Exit(doctor())


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
