"""Run notebooks from a clean start and store what a reader and a test need, nothing else.

python docs/tools/run_notebooks.py                        # every notebook in notebooks/
python docs/tools/run_notebooks.py notebooks/00_*.ipynb   # some
python docs/tools/run_notebooks.py --check                # are they stored as they should be?

The mini profile is used. Kept: text, tables, pictures (of 256 colours) and their alternative text, players, counts.
Removed: widgets and their state, timings, progress bars (stderr), and metadata that differs from machine to machine.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from v2f_core.artefacts.files import atomic_write
from v2f_core.errors import InputError

if TYPE_CHECKING:
    from nbformat import NotebookNode

CODE_LINES = 15
BYTES = 1_000_000
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
_PNG = "image/png"
_VOLATILE = ("application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json")


def run(path: Path, timeout: int = 600) -> None:
    """Execute a notebook in its own folder under the mini profile, clean it and store it in place.

    Raises:
        InputError: the file is missing; a cell fails (the message shows how); the result breaks a rule of `faults`.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    if not path.is_file():
        raise InputError(f"{path}: no such notebook; expected an .ipynb file")
    book = nbformat.read(path, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    os.environ["V2F_PROFILE"] = "mini"  # kernels inherit it
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # with ipywidgets these are outputs, not stderr
    place = {"metadata": {"path": path.parent}}
    client = NotebookClient(book, timeout=timeout, kernel_name="python3", resources=place, store_widget_state=False)
    try:
        client.execute()
    except CellExecutionError as error:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
        raise InputError(f"{path}: a cell failed\n{plain}") from error
    clean(book)
    with atomic_write(path) as temporary:
        nbformat.write(book, temporary)
    if wrong := list(faults(book)):
        raise InputError(f"{path}: stored, but with {wrong[0]}; mend it and run it again")


def clean(book: NotebookNode) -> NotebookNode:
    """Remove, in place, what differs from run to run or from machine to machine.

    Example:
        >>> from nbformat import v4
        >>> cell = v4.new_code_cell("1", metadata={"execution": {"iopub.execute_input": "noon"}})
        >>> cell.outputs = [v4.new_output("stream", name="stderr", text="100%"), v4.new_output("stream", text="1")]
        >>> book = clean(v4.new_notebook(cells=[cell], metadata={"widgets": {}}))
        >>> book.cells[0].metadata, [output.name for output in book.cells[0].outputs], sorted(book.metadata)
        ({}, ['stdout'], ['kernelspec', 'language_info'])
    """
    book.metadata = type(book)(kernelspec=KERNEL, language_info={"name": "python"})
    book.nbformat_minor = 5
    for number, cell in enumerate(book.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata = type(book)({k: v for k, v in cell.metadata.items() if k == "tags"})
        if cell.cell_type != "code":
            continue
        cell.outputs = _joined([output for output in cell.outputs if output.get("name") != "stderr"])
        for output in cell.outputs:
            if "data" in output:
                said = output.metadata.get(_PNG, {}).get("alt")
                output.metadata = type(book)({_PNG: {"alt": said}} if said else {})
                output.data = {k: v for k, v in output.data.items() if k not in _VOLATILE}
                if _PNG in output.data:
                    output.data[_PNG] = _packed(output.data[_PNG])
    return book


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Pieces of text that follow each other as one: where a kernel cuts them is chance."""
    joined: list[NotebookNode] = []
    for output in outputs:
        if joined and output.get("name") == joined[-1].get("name") == "stdout":
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def _packed(png: str) -> str:
    """A picture of at most 256 colours, a third of the size; one that is packed already stays as it is."""
    from PIL import Image

    picture = Image.open(io.BytesIO(base64.b64decode(png)))
    if picture.mode == "P":
        return png
    data = io.BytesIO()
    few = picture.convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(data, "PNG", optimize=True)
    return base64.b64encode(data.getvalue()).decode()


def faults(book: NotebookNode) -> Iterator[str]:
    """What keeps a notebook from being stored: the rules of the series, each broken one as a sentence.

    Example:
        >>> from nbformat import v4
        >>> list(faults(v4.new_notebook(cells=[v4.new_markdown_cell("text")])))
        []
        >>> list(faults(v4.new_notebook(cells=[v4.new_code_cell("1")])))
        ['execution counts that are not 1..n']
    """
    import nbformat

    code = [cell for cell in book.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        yield "execution counts that are not 1..n"
    for cell in code:
        if len(lines := cell.source.splitlines()) > CODE_LINES:
            yield f"{len(lines)} lines in the cell that begins {lines[0]!r}, expected at most {CODE_LINES}"
        if any(output.output_type == "error" for output in cell.outputs):
            yield f"an error in the outputs of {lines[0]!r}"
        if any(kind in output.get("data", {}) for output in cell.outputs for kind in _VOLATILE):
            yield f"a widget in the outputs of {lines[0]!r}"
        if any(_PNG in output.get("data", {}) and not output.metadata.get(_PNG) for output in cell.outputs):
            yield f"a picture without alternative text in the outputs of {lines[0]!r}"
    if "widgets" in book.metadata:
        yield "widget state in the metadata"
    if (size := len(nbformat.writes(book).encode())) > BYTES:
        yield f"{size:,} bytes, expected at most {BYTES:,}"


def check(path: Path) -> None:
    """Make sure that a stored notebook keeps the rules of `faults`.

    Raises:
        InputError: it breaks one.
    """
    import nbformat

    if wrong := list(faults(nbformat.read(path, as_version=4))):
        raise InputError(f"{path}: {'; '.join(wrong)}; run it with python docs/tools/run_notebooks.py {path}")


def main() -> None:
    """Run or check the notebooks given, or all of them; exit with 2 at the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="*", help="default: every notebook in notebooks/")
    parser.add_argument("--check", action="store_true", help="look at stored notebooks without running them")
    arguments = parser.parse_args()
    for path in arguments.paths or sorted(Path("notebooks").glob("*.ipynb")):
        start = time.perf_counter()
        try:
            (check if arguments.check else run)(path)
        except InputError as error:
            parser.exit(2, f"{error}\n")
        if not arguments.check:
            print(f"{path}: {time.perf_counter() - start:.0f} s, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
