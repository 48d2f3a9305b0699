"""Count what a reader of the notebooks has to read, and hold the series to its limits.

python docs/tools/count_notebooks.py    # a line a notebook, the first tour, the imports; exit status 1 over a limit

Words are counted in the text, formulas included, and code blocks within it left out. A cell tagged "route" belongs to
the first tour.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from nbformat import NotebookNode

CELLS, WORDS = 60, 1_800  # a notebook
CODE_LINES = 15  # a cell
VERDICTS = 1 / 6  # of the printed lines, at most, are a bare True or False
COMPARED = 0.6  # of the code cells, at least, print something that is compared
ROUTE_MINUTES, RUN_MINUTES = 90, 2  # the first tour's reading and running, and the running alone
WORDS_A_MINUTE, LINES_A_MINUTE = 200, 30  # of text and of code
NAMES, MODULES = 60, 16  # imported from this package, over the series


class Count(NamedTuple):
    """What one notebook holds."""

    name: str
    cells: int
    words: int
    code_lines: int
    longest_cell: int
    printed: int
    verdicts: int
    compared: float
    route_words: int
    route_lines: int
    imports: frozenset[tuple[str, str]]


def words(text: str) -> int:
    """Words of a Markdown text: what stands between spaces and holds a letter or a digit.

    Example:
        >>> words("| **R@10** | a *share* |") , words("```\\ncode\\n```\\n- one")
        (3, 1)
    """
    prose = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    return sum(any(letter.isalnum() for letter in word) for word in prose.split())


def count(name: str, book: NotebookNode) -> Count:
    """Count a notebook.

    Example:
        >>> from nbformat import v4
        >>> cell = v4.new_code_cell("print(x > 1)", outputs=[v4.new_output("stream", text="it grows: True\\n2\\n")])
        >>> one = count("a", v4.new_notebook(cells=[v4.new_markdown_cell("Two words."), cell]))
        >>> one.words, one.code_lines, one.printed, one.verdicts, one.compared
        (2, 1, 2, 1, 1.0)
    """
    prose = [cell for cell in book.cells if cell.cell_type == "markdown"]
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    lines = [len(cell.source.splitlines()) for cell in code]
    outputs = [output for cell in code for output in cell.outputs]
    printed = [line for output in outputs for line in output.get("text", "").splitlines() if line.strip()]
    compared = ["NBVAL_IGNORE_OUTPUT" not in cell.source and any(map(_says, cell.outputs)) for cell in code]
    return Count(
        name,
        len(book.cells),
        sum(words(cell.source) for cell in prose),
        sum(lines),
        max(lines, default=0),
        len(printed),
        sum(bool(re.search(r"\b(True|False)\b", line)) for line in printed),
        sum(compared) / max(1, len(code)),
        sum(words(cell.source) for cell in prose if "route" in cell.metadata.get("tags", ())),
        sum(len(cell.source.splitlines()) for cell in code if "route" in cell.metadata.get("tags", ())),
        frozenset(name for cell in code for name in _imports(cell.source)),
    )


def faults(counts: Iterable[Count]) -> Iterator[str]:
    """The limits that a series breaks, each as a sentence."""
    counts = list(counts)
    for one in counts:
        for what, value, most in (
            ("cells", one.cells, CELLS),
            ("words", one.words, WORDS),
            ("lines in a code cell", one.longest_cell, CODE_LINES),
            ("bare verdicts", one.verdicts, int(VERDICTS * one.printed)),
        ):
            if value > most:
                yield f"{one.name}: {value:,} {what}, expected at most {most:,}"
        if one.compared < COMPARED:
            yield f"{one.name}: {one.compared:.0%} of the code cells print what is compared, expected {COMPARED:.0%}"
    if (minutes := tour(counts)) > ROUTE_MINUTES:
        yield f"the first tour: {minutes:.0f} minutes, expected at most {ROUTE_MINUTES}"
    imported = frozenset[tuple[str, str]]().union(*(one.imports for one in counts))
    for what, number, most in (("names", len(imported), NAMES), ("modules", len({m for m, _ in imported}), MODULES)):
        if number > most:
            yield f"the series imports {number} {what} of the package, expected at most {most}"


def tour(counts: Iterable[Count]) -> float:
    """Minutes of the first tour: its text, its code, and the time that it runs."""
    return sum(one.route_words / WORDS_A_MINUTE + one.route_lines / LINES_A_MINUTE for one in counts) + RUN_MINUTES


def _says(output: NotebookNode) -> bool:
    """Whether an output is text or a table, not a figure alone."""
    return "text" in output or ("data" in output and "image/png" not in output.data)


def _imports(source: str) -> Iterator[tuple[str, str]]:
    """Module and name of everything that a cell imports from this package."""
    for node in ast.walk(ast.parse(re.sub(r"^%.*", "", source, flags=re.M))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(("v2f_core", "minivox")):
            yield from ((str(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            names = (alias.name for alias in node.names if alias.name.startswith(("v2f_core", "minivox")))
            yield from ((name, name) for name in names)


def main() -> None:
    """Print the counts; exit with 1 if a limit is broken."""
    import nbformat

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="*", help="default: every notebook in notebooks/")
    paths = parser.parse_args().paths or sorted(Path("notebooks").glob("*.ipynb"))
    counts = [count(path.stem, nbformat.read(path, as_version=4)) for path in paths]
    print(f"{'':28}cells  words   code  verdicts  compared  first tour")
    for one in counts:
        print(
            f"{one.name:28}{one.cells:5} {one.words:6,} {one.code_lines:6} {one.verdicts:4}/{one.printed:<4}"
            f" {one.compared:9.0%} {one.route_words:11,}"
        )
    total = [sum(one[place] for one in counts) for place in range(1, 4)]
    print(f"{'all':28}{total[0]:5} {total[1]:6,} {total[2]:6} {'':20}{sum(one.route_words for one in counts):11,}")
    print(f"the first tour: {tour(counts):.0f} minutes")
    imported = frozenset[tuple[str, str]]().union(*(one.imports for one in counts))
    print(f"imported from the package: {len(imported)} names of {len({module for module, _ in imported})} modules")
    if broken := list(faults(counts)):
        parser.exit(1, "\n".join(broken) + "\n")


if __name__ == "__main__":
    main()
