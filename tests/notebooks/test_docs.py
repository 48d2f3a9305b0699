"""What people read is true: commands exist, links lead somewhere, numbers are those of the results and the code."""

import importlib.util
import json
import re
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from math import ceil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import RepoCard
from scipy.stats import norm
from typer.main import get_command

from minivox import world
from minivox.build import minivox
from v2f_core.cli import app

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
CARDS = sorted((ROOT / "data_cards").glob("*.md"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [ROOT / "README.md", *CARDS, *sorted((ROOT / "docs").glob("*.md")), RESULTS / "study_log.md", *NOTEBOOKS]
TARGETS = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.M))
COMMANDS = get_command(app).commands
VALUE = ("value", "low", "high")


def prose(page: Path) -> str:
    """A page's Markdown; of a notebook, that of its text cells."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_files_that_a_page_names_exist_and_no_machine_is_named(page):
    text = prose(page)
    assert set(re.findall(r"(?:`|^|&& )make (\w+)", text, flags=re.M)) <= TARGETS
    for module, rest in re.findall(r"python -m ([\w.]+)((?: +[\w./-]+)*)", text):
        assert module == "pytest" or find_spec(module) is not None, module
        if module == "v2f_core" and (words := rest.split()):
            options = {option for parameter in COMMANDS[words[0]].params for option in parameter.opts}
            assert {word for word in words if word.startswith("-")} <= options, rest
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?://|#|data:", target):
            assert (page.parent / target.split("#")[0]).exists(), target
    # pictures and sounds may spell anything
    whole = re.sub(r"base64,[\w+/=]+|\"image/png\": \"[^\"]+\"", "", page.read_text(encoding="utf-8"))
    assert not re.search(r"/(?:root|home|tmp|work)/|pyp[i]\.org|python[h]osted|index-url|localhost|127\.0\.0\.1", whole)


def test_the_readme_links_every_notebook_and_every_card():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(page.relative_to(ROOT).as_posix() in text for page in (*NOTEBOOKS, *CARDS))


# --- cards


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_every_card_begins_with_metadata_that_can_be_read(card):
    assert RepoCard.load(card, ignore_metadata_errors=False).data.license


def test_the_dataset_card_counts_what_the_build_makes_and_lists_every_link_of_the_world():
    text = (ROOT / "data_cards" / "minivox.md").read_text(encoding="utf-8")
    for split, persons in minivox.SPLITS.items():
        row = re.search(rf"^\| {split} \| (\d+)[^|]*\| ([\d,]+) \| ([\d,]+) \|$", text, flags=re.M)
        counts = [int(number.replace(",", "")) for number in row.groups()]
        assert counts == [persons, persons * minivox.VIEWS, persons * minivox.CLIPS]
    rows = text.partition("<!-- links")[2].partition("<!-- /links -->")[0].strip().splitlines()[3:]
    for row, link in zip(rows, world.LINKS, strict=True):
        effect = link.effect.replace(".", ": ").replace("_", " ")
        assert row == f"| {link.cause} | {effect} | {link.strength:+.2f} | {link.source} |"


# --- numbers


def table(page: str, head: str) -> dict[str, list[str]]:
    """The rows of a guide's table that begins with ``head``, by their first cells."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").replace("**", "")
    lines = text[text.index(head) :].partition("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in rows}


def check(cell: str, row: pd.Series, columns: Sequence[str] = VALUE) -> None:
    """The numbers of a cell are those of a row of a result, to the places that are told."""
    told = re.findall(r"[-+]?\d+(?:\.\d+)?", cell.replace("−", "-"))
    assert told, cell
    for number, column in zip(told, columns, strict=False):
        unit = 10.0 ** -len(number.partition(".")[2])
        assert abs(float(number) - row[column]) <= 0.51 * unit + 5e-4 * abs(row[column]), (cell, column, row[column])


def test_the_table_of_all_rows_says_what_was_measured_and_the_controls_are_where_they_belong():
    systems = pd.read_csv(RESULTS / "evaluate_systems.csv").set_index(["gallery", "by", "system"])
    sets = pd.read_csv(RESULTS / "evaluate_sets.csv").set_index("system")
    rows = table("evaluation.md", "| row | cosine of ẑ |")
    rows = {name: cells for name, cells in rows.items() if not name.startswith("*")}
    assert set(rows) == set(systems.index.get_level_values("system")) - {"chance", "ceiling"}
    places = [("all", by, measure) for measure in ("cosine", "R@10") for by in ("ẑ", "face")]
    places += [("within sex", by, "1:2 matching") for by in ("ẑ", "face", "second scorer")]
    for name, cells in rows.items():
        for cell, (gallery, by, measure) in zip(cells, places, strict=False):
            assert bool(cell) == ((gallery, by, name) in systems.index)
            if cell:
                check(cell, systems.loc[gallery, by, name], (measure, f"{measure} low", f"{measure} high"))
        for cell, measure in zip(cells[7:], ("VFS", "kernel distance", "diversity", "guidance"), strict=True):
            if cell:
                check(cell, sets.loc[name], (measure,))
    faces = systems.xs("face", level="by").loc["within sex"]
    chance, known = ["random real face", "shuffled voice"], ["oracle", "VAE reconstruction", "another real photo"]
    assert faces["1:2 matching low"][chance].max() <= 0.501
    assert faces["1:2 matching high"][chance].min() >= 0.499
    assert faces.cosine[known].min() > faces.cosine.drop(known).max() + 0.3


def test_every_interval_that_a_guide_tells_stands_in_a_result():
    """A loss may be told without its sign; a number may be rounded, to the places that it is told with."""
    told = re.compile(r"([+-]?\d+\.\d+) \[([+-]?\d+\.\d+),\s([+-]?\d+\.\d+)\]")
    pages = [*(ROOT / "docs" / f"{name}.md" for name in ("study", "evaluation", "posterior")), RESULTS / "study_log.md"]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages).replace("−", "-").replace("**", "")
    measured = []
    for path in RESULTS.glob("*.csv"):
        frame = pd.read_csv(path)
        for name in (name.removesuffix("low").strip() for name in frame.columns if name.endswith("low")):
            ends = [f"{name} {end}".strip() for end in ("low", "high")]
            for middle in {name, *(() if name else ("value", "skill", "drawn so"))} & {*frame.columns}:
                measured += frame[[middle, *ends]].to_numpy(float).tolist()
    found, array = told.findall(text), np.array(measured)
    assert len(found) > 250
    for interval in found:
        value = np.array(interval, float)
        units = 0.51 * 10.0 ** -np.array([len(number.partition(".")[2]) for number in interval])
        near = 5e-4 * np.abs(array) + units
        assert any((np.abs(array - each) <= near).all(1).any() for each in (value, -value[[0, 2, 1]])), interval


def measured(*names: str) -> dict[tuple[str, str], pd.Series]:
    """Rows of results by measure and system, the last one's if several have it; who is drawn has columns of its own."""
    rows = {}
    for name in names:
        for _, row in pd.read_csv(RESULTS / f"{name}.csv").iterrows():
            if "third" in row:
                rows[f"base rate: {row.third}", ""] = pd.Series({"value": row["base rate"]})
                row["measure"], row["system"] = f"drawn {row.third}: {row['of']}", f"truncation {row.truncation:g}"
                row["value"] = row["drawn so"]
            rows[row.measure, row.system] = row
    return rows


TRUE, GUIDED = "true identities", "draws, truncation 1, guidance"
ESTIMATE, HALF = ("truncation 0", "cosine with ẑ"), ("truncation 0.5",)  # the first that has the measure
DRAWS = ("truncation 1", "log likelihood ratio")
BESIDE = {  # what a last cell, "to compare", names
    "exact": ("ceiling: what faces show, exact",),
    "faithful": ("faithful sampler, 1 − C_sample",),
    "real": ("real persons of the sex",),
    "photographs": ("photographs", "other photographs"),
}
SAME = {  # the names of measures that the guide tells in other words
    "kernel distance to real faces": "kernel distance to real faces within sex",
    "90 % interval, age": "coverage of 90%: age of the skin, {}",
    "90 % interval, skin tone": "coverage of 90%: skin tone, {}",
    "darkest third drawn dark": "drawn dark: speakers of this third",
    "lightest third drawn light": "drawn light: speakers of this third",
    "all drawn dark": "drawn dark: all speakers",
    "prior's residual": "residual",
    "L_self of Eq. 14": "L_self",
    "no face found": "undetected",
    "kept: cosine of the drawn face with its identity": "kept",
    "likeness to the speaker": "likeness",
    "1:2 matching within sex, by ratio": "1:2 matching within sex by log ratio",
    "diversity of a voice's faces": "diversity",
    "kernel distance to photographs": "kernel distance",
}
HERE, MANY = measured("posterior", "posterior_fairness"), measured("posterior_large", "posterior_large_fairness")
PICTURES, L_SELF, SHIPPED = (measured(name) for name in ("draws_in_pictures", "stage2_draws", "posterior_800_on_large"))
DRAWN = HERE | measured("posterior_faces")
STEPS = ("ẑ", "ẑ after paper", "ẑ after cycle", "draws, truncation 0.5", "draws, truncation 1", TRUE)
SHOWN = ("photographs", "photographs through the VAE", TRUE, "draws, truncation 1")
SHOWN += (f"{GUIDED} 1", f"{GUIDED} 2, 10 steps", f"{GUIDED} 3, 10 steps")
CRITIC = ("draws, truncation 1, after a critic on draws", f"{TRUE}, after a critic on draws", f"{GUIDED} 2, 10 steps")
GAIN = ("gain", "gain low", "gain high")


@pytest.mark.parametrize(
    ("head", "columns", "numbers"),
    [
        ("| | ẑ | truncation 0.5 |", [(HERE, ESTIMATE), (HERE, HALF), (HERE, DRAWS)], VALUE),
        ("| in pictures | ẑ |", [(DRAWN, ESTIMATE), (DRAWN, HALF), (DRAWN, DRAWS)], VALUE),
        ("| 1,000 test persons |", [(MANY, ESTIMATE), (SHIPPED, DRAWS), (MANY, DRAWS)], VALUE),
        ("| validation persons |", [(PICTURES, (system,)) for system in SHOWN], VALUE),
        ("| | ẑ | after Eq. 14 |", [(L_SELF, (system,)) for system in STEPS], VALUE),
        ("| change |", [(PICTURES, (system,)) for system in CRITIC], GAIN),
    ],
    ids=lambda value: value.strip("| ") if isinstance(value, str) else "",
)
def test_the_posteriors_tables_say_what_was_measured(head, columns, numbers):
    """An empty cell was not told, a dash not measured; two numbers in a cell are of two readers."""
    for label, cells in table("posterior.md", head).items():
        measure = SAME.get(label, label).format("the world's" if "1,000" in head else "as read from the photograph")
        for cell, (rows, systems) in zip(cells, columns, strict=False):
            parts = cell.split(";")
            readers = [f", read by {reader}" for reader in ("f_arc", "the second scorer")] if len(parts) > 1 else [""]
            for part, reader in zip(parts, readers, strict=True):
                found = [rows[measure + reader, system] for system in systems if (measure + reader, system) in rows]
                assert not found if part == "–" else found or not part, (label, part)
                if found and part:
                    check(part, found[0], numbers)
        rows = columns[0][0]
        for name, number in re.findall(r"([a-z ]+) (−?[\d.]+)", " ".join(cells[len(columns) :])):
            if name.strip() == "base rate":
                check(number, rows[f"base rate: {label.split()[-1]}", ""])
            elif (label, name) != ("energy score, skill", "exact"):  # 1 by definition
                places = [(measure, system) for system in BESIDE[name.strip()]]
                check(number, next((HERE | rows)[place] for place in places if place in HERE | rows))


def test_the_page_of_measures_names_functions_that_exist_and_figures_that_they_return():
    page = (ROOT / "docs" / "measures.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z]\w+)\.([\w.]+)`", page))
    assert len(named) > 20
    for module, path in named:
        found = import_module(f"v2f_core.{'studies' if module == 'spaces' else 'evaluation'}.{module}")
        for part in path.split("."):
            found = getattr(found, part)
    gain, unrelated = 0.321 - 0.298, 0.321 * (1 - 0.298) + 0.298 * (1 - 0.321)
    for discordant, words in ((unrelated, "{:,} persons"), (0.1, "still takes {:,}")):
        root = norm.ppf(0.975) * discordant**0.5 + norm.ppf(0.8) * (discordant - gain**2) ** 0.5
        assert words.format(ceil((root / gain) ** 2)) in page


# --- the site


@pytest.fixture(scope="module")
def book():
    """The site's hooks, which only MkDocs loads otherwise."""
    spec = importlib.util.spec_from_file_location("book_hooks", ROOT / "docs" / "site" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def listed(entries) -> list[str]:
    """All pages of a table of contents."""
    values = [value for entry in entries for value in entry.values()]
    return [page for value in values for page in (listed(value) if isinstance(value, list) else [value])]


def test_every_page_and_public_module_is_listed_once_and_links_stay_within_the_site(book):
    found = listed(book.navigation())
    assert len(found) == len(set(found))
    written = {path.relative_to(ROOT).as_posix() for path in (*NOTEBOOKS, *CARDS, *(ROOT / "docs").glob("*.md"))}
    modules = [path.relative_to(ROOT).with_suffix("").parts for path in (ROOT / "v2f_core").rglob("[!_]*.py")]
    assert written | {"index.md", "api/v2f_core.md"} | {f"api/{'.'.join(parts)}.md" for parts in modules} <= set(found)
    guides = book.pages("README.md", *book.GUIDES, "data_cards/*.md")
    there = {*guides, *book.pages("notebooks/*.ipynb", *book.ASIDE)}
    for page in guides:
        for link in re.findall(r"\]\(([^):#]+?)(?:#[^)]*)?\)", (ROOT / page).read_text(encoding="utf-8")):
            assert ((ROOT / page).parent / link).resolve().relative_to(ROOT).as_posix() in there, f"{page}: {link}"


def test_links_that_lead_nowhere_are_found(book, tmp_path):
    (tmp_path / "sub").mkdir()
    page, other = tmp_path / "a.html", tmp_path / "sub/b.html"
    page.write_text('<h1 id="top">A</h1><a href="sub/b.html#here">b</a><a href="https://x.org/no">x</a>')
    other.write_text('<p id="here"><a href="../a.html#top">a</a><img src="data:image/png;base64,x">')
    assert list(book.broken(tmp_path)) == []
    other.write_text('<a href="../a.html#gone">a</a><img src="c.png"><a href="../d.html">d</a>')
    wrong = ["a.html: sub/b.html#here", *(f"sub/b.html: {link}" for link in ("../a.html#gone", "../d.html", "c.png"))]
    assert list(book.broken(tmp_path)) == wrong
