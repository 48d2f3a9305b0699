"""One symbol, one meaning: every letter of every formula stands in notebook 00's table or in its own chapter's line."""

import re
from pathlib import Path

import nbformat
import pytest

SERIES = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
LOCAL = "**Symbols of this chapter:**"
ACCENTS = "hat|bar|tilde|vec"
# the commands of TeX that are letters; others are signs and layout
GREEK = "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi pi rho sigma tau "
GREEK += "phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell varnothing angle"
LETTERS = {f"\\{name}" for name in GREEK.split()}
NAMED = r"\\(text|mathrm|operatorname|tag)\*?\s*\{[^{}]*\}"  # a word, not a product of letters


def formulas(text):
    """The TeX of a Markdown text, without its code."""
    text = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.S)
    return [a or b for a, b in re.findall(r"\$\$(.+?)\$\$|\$(.+?)\$", text, flags=re.S)]


def without_indices(tex):
    """A formula without its subscripts and superscripts."""
    previous = None
    while previous != tex:
        previous = tex
        tex = re.sub(r"[_^]\s*(\{(?:[^{}]|\{[^{}]*\})*\}|\\[a-zA-Z]+|[^\s{}\\])", " ", tex)
    return tex


def symbols(tex):
    """The letters of a formula, each with its accent: z, \\hat z, \\bar\\alpha.

    A word in a formula, such as a unit or a function's name, is no symbol. An index counts as part of its letter.
    """
    tex = without_indices(re.sub(NAMED, " ", tex))
    tex = re.sub(r"\\(begin|end)\{\w+\}", " ", tex)
    found = set()
    pattern = rf"\\({ACCENTS})\s*\{{?\s*(\\[a-zA-Z]+|[a-zA-Z])|\\math(bb|cal)\s*\{{?\s*([A-Z])|(\\[a-zA-Z]+|[a-zA-Z])"
    for accent, base, font, letter, plain in re.findall(pattern, tex):
        symbol = f"\\{accent} {base}" if accent else f"\\math{font} {letter}" if letter else plain
        if accent or font or len(plain) == 1 or plain in LETTERS:
            found.add(symbol)
    return found


def prose(path):
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]


def table():
    """The symbols of notebook 00's table."""
    (cell,) = (text for text in prose(SERIES[0]) if text.startswith("## Notation"))
    rows = [line.split("|")[1] for line in cell.splitlines() if line.startswith("| $")]
    return [symbol for row in rows for formula in formulas(row) for symbol in symbols(formula)]


def local(path):
    """The symbols that a chapter defines for itself, with what they mean."""
    lines = [line for text in prose(path) for line in text.splitlines() if line.startswith(LOCAL)]
    parts = [part for line in lines for part in line.removeprefix(LOCAL).split(";")]
    return {symbol: part.strip(" .") for part in parts for symbol in symbols(formulas(part)[0])}


def test_no_symbol_stands_twice_in_the_table():
    tex = r"\sqrt{\bar\alpha_t}\, \hat z = w(t) \mathbb E_{t} \operatorname{slerp}(a, S^{511}) \tag{Eq. 14}"
    assert symbols(tex) == {r"\bar \alpha", r"\hat z", "w", "t", r"\mathbb E", "a", "S"}
    assert len(table()) == len(set(table())) > 30


@pytest.mark.parametrize("path", SERIES, ids=lambda path: path.stem)
def test_every_symbol_is_explained(path):
    used = {symbol for text in prose(path) for formula in formulas(text) for symbol in symbols(formula)}
    assert used - set(table()) - set(local(path)) == set()


def test_a_chapters_own_symbols_mean_nothing_else_anywhere():
    meanings = {}
    for path in SERIES:
        for symbol, meaning in local(path).items():
            assert symbol not in table(), f"{path.stem}: {symbol} has a meaning in notebook 00"
            assert meanings.setdefault(symbol, meaning) == meaning, f"{path.stem}: {symbol} means something else before"
