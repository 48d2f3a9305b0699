"""One deck of slides from the first tour of the notebooks: the cells tagged "route".

python docs/tools/make_slides.py              # outputs/slides/first_tour.slides.html; make slides does the same

A heading begins a slide. Formulas, tables, lists, questions, sentences with bold words and outputs are shown; the whole
text of a cell is in the speaker's notes (press S). The page loads reveal.js and MathJax: showing it needs the network.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from v2f_core.artefacts.files import atomic_write
from v2f_core.errors import InputError

if TYPE_CHECKING:
    from nbformat import NotebookNode

TAG, MARK = "route", "●"  # of cells and of headings that belong to the first tour
HIDDEN = "remove_input"
_HEADING = re.compile(r"^#{1,6} ")
_POINTS = re.compile(r"^(\||[-*] |\d+\. |\$\$)")
_QUESTION = re.compile(r"^\*\*(The question|What do you expect)")
_ASIDE = re.compile(r"^\*\*(What to see\.|Recap\.|In the package:|Symbols of this chapter:)\*\*")
_SENTENCES = re.compile(r"(?<=[.?!])\s+(?=[A-Z]|\W)|(?<=[.?!]\*\*)\s+")


def shown(text: str) -> str:
    """What a slide shows of a cell: headings, formulas, tables, lists, questions, and sentences with bold words.

    Example:
        >>> print(shown("## One ●\\nLong prose. **The point.** More.\\n\\n$$ a = b $$\\n- first"))
        ## One
        **The point.**
        <BLANKLINE>
        $$ a = b $$
        - first
    """
    lines, open_formula = [], False
    for line in text.splitlines():
        formula = open_formula or line.startswith("$$")
        if line.count("$$") == 1:
            open_formula = not open_formula
        if _HEADING.match(line):
            lines.append(line.replace(MARK, "").rstrip())
        elif formula or not line or _POINTS.match(line) or _QUESTION.match(line):
            lines.append(line)
        elif bold := [sentence for sentence in _SENTENCES.split(_ASIDE.sub("", line)) if "**" in sentence]:
            lines.append(" ".join(bold))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def slides(cells: Iterable[NotebookNode]) -> Iterator[NotebookNode]:
    """The cells of a deck: each with its place, and after text the speaker's notes."""
    from nbformat import v4

    for cell in cells:
        if TAG not in cell.metadata.get("tags", ()):
            continue
        below = {"slideshow": {"slide_type": "subslide"}}
        if cell.cell_type == "markdown":
            place = {"slideshow": {"slide_type": "slide"}} if _HEADING.match(cell.source) else below
            if shown(cell.source):
                yield v4.new_markdown_cell(shown(cell.source), metadata=place)
            yield v4.new_markdown_cell(cell.source, metadata={"slideshow": {"slide_type": "notes"}})
        elif cell.outputs:
            code = v4.new_code_cell(cell.source, metadata={**below, "tags": [HIDDEN]})
            code.outputs, code.execution_count = cell.outputs, cell.execution_count
            yield code
            yield v4.new_markdown_cell(
                f"```python\n{cell.source}\n```", metadata={"slideshow": {"slide_type": "notes"}}
            )
        else:
            yield v4.new_code_cell(cell.source, metadata=below)


def make(paths: Iterable[Path], out: Path) -> int:
    """Write the deck of some notebooks; how many cells it has.

    Raises:
        InputError: no cell is tagged.
    """
    import nbformat
    from nbconvert import SlidesExporter
    from nbformat import v4
    from traitlets.config import Config

    cells = [cell for path in sorted(paths) for cell in slides(nbformat.read(path, as_version=4).cells)]
    if not cells:
        raise InputError(f'no cell is tagged "{TAG}": the deck would be empty')
    options = Config()
    options.TagRemovePreprocessor.enabled = True
    options.TagRemovePreprocessor.remove_input_tags = {HIDDEN}
    options.SlidesExporter.preprocessors = ["nbconvert.preprocessors.TagRemovePreprocessor"]
    options.SlidesExporter.reveal_scroll = True
    options.TemplateExporter.exclude_output_prompt = True
    options.TemplateExporter.exclude_anchor_links = True
    page, _ = SlidesExporter(config=options).from_notebook_node(v4.new_notebook(cells=cells))
    with atomic_write(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return len(cells)


def main() -> None:
    """Make the deck; exit with 2 where there is none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="*", help="default: every notebook in notebooks/")
    parser.add_argument("--out", type=Path, default=Path("outputs/slides/first_tour.slides.html"))
    arguments = parser.parse_args()
    try:
        count = make(arguments.paths or Path("notebooks").glob("*.ipynb"), arguments.out)
    except InputError as error:
        parser.exit(2, f"{error}\n")
    print(f"{arguments.out}: {count} cells; open it in a browser, S shows the notes")


if __name__ == "__main__":
    main()
