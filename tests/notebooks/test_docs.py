"""What people read is true: commands exist, links lead somewhere, numbers are those of the results and the code."""

import importlib.util
import json
import re
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


def numbers(cell: str) -> list[float]:
    return [float(found) for found in re.findall(r"[-+]?\d+(?:\.\d+)?", cell.replace("−", "-"))]


def test_the_table_of_all_rows_says_what_was_measured():
    """Every number of the evaluation's page stands in the committed tables, and the controls are where they belong."""
    systems = pd.read_csv(RESULTS / "evaluate_systems.csv").set_index(["gallery", "by", "system"])
    sets = pd.read_csv(RESULTS / "evaluate_sets.csv").set_index("system")
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    lines = re.findall(r"(?m)^\| (.+) \|$", text[text.index("| row | cosine of ẑ |") : text.index("| *chance* |")])[1:]
    rows = {cells[0]: cells[1:] for cells in (re.split(r" ?\| ?", line) for line in lines) if cells[0] != "---"}
    assert set(rows) == set(systems.index.get_level_values("system")) - {"chance", "ceiling"}
    places = [
        *(("all", "ẑ", "cosine"), ("all", "face", "cosine"), ("all", "ẑ", "R@10"), ("all", "face", "R@10")),
        *(("within sex", by, "1:2 matching") for by in ("ẑ", "face", "second scorer")),
    ]
    for name, cells in rows.items():
        for cell, (gallery, by, measure) in zip(cells, places, strict=False):
            if not cell:
                assert (gallery, by, name) not in systems.index
                continue
            row = systems.loc[gallery, by, name]
            wanted = [row[measure], row[f"{measure} low"], row[f"{measure} high"]][: len(numbers(cell))]
            assert numbers(cell) == pytest.approx(wanted, abs=6e-4), (name, by, measure)
        if cells[7]:
            wanted = [round(sets.VFS[name], 1), round(sets["kernel distance"][name], 2)]
            assert numbers(cells[7] + " " + cells[8]) == pytest.approx(wanted, abs=1e-9)
        if cells[9]:
            assert numbers(cells[9]) == pytest.approx([sets.diversity[name]], abs=6e-4)
    faces = systems.xs("face", level="by").loc["within sex"]
    for name in ("random real face", "shuffled voice"):
        assert faces["1:2 matching low"][name] <= 0.501
        assert faces["1:2 matching high"][name] >= 0.499
    known = ["oracle", "VAE reconstruction", "another real photo"]
    assert faces.cosine[known].is_monotonic_increasing
    assert faces.cosine[known].min() > faces.cosine.drop(known).max() + 0.3


def test_every_interval_that_the_study_tells_stands_in_a_result():
    """A loss may be told without its sign; a number may be rounded, to the places that it is told with."""
    told = re.compile(r"([+-]?\d+\.\d+) \[([+-]?\d+\.\d+),\s([+-]?\d+\.\d+)\]")
    pages = (ROOT / "docs" / "study.md", RESULTS / "study_log.md")
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages).replace("−", "-")
    measured = []
    for path in RESULTS.glob("*.csv"):
        table = pd.read_csv(path)
        names = {name.removesuffix("low").strip() for name in table.columns if name.endswith("low")}
        for name in names:
            columns = [name or "value", *(f"{name} {end}".strip() for end in ("low", "high"))]
            if set(columns) <= set(table.columns):
                measured += table[columns].to_numpy(float).tolist()
    found = told.findall(text)
    assert len(found) > 200
    array = np.array(measured)
    for interval in found:
        value, unit = np.array(interval, float), 0.51 * 10.0 ** -len(interval[0].split(".")[1])
        signs = (value, -value[[0, 2, 1]])
        assert any((np.abs(array - each) <= unit).all(1).any() for each in signs), " ".join(interval)


def measured(*names: str) -> dict[tuple[str, str], pd.Series]:
    """Rows of results by measure and system; those of who is drawn have both told in other columns."""
    rows = {}
    for name in names:
        for _, row in pd.read_csv(RESULTS / f"{name}.csv").iterrows():
            if "third" in row:
                row["value"] = row["drawn so"]
                key = f"drawn {row.third}: {row['of']}", f"truncation {row.truncation:g}"
                rows[f"base rate: {row.third}", ""] = pd.Series({"value": row["base rate"]})
            else:
                key = row.measure, row.system
            rows[key] = row
    return rows


def cells(page: str, head: str) -> dict[str, list[str]]:
    """The rows of the table that begins with ``head``, by their first cells."""
    lines = page[page.index(head) :].partition("\n\n")[0].splitlines()
    rows = [[cell.strip().replace("**", "") for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in rows[2:]}


def check(cell: str, row: pd.Series, columns: tuple[str, ...] = ("value", "low", "high")) -> None:
    """The numbers of a cell are those of a row, to the places that are told."""
    told = re.findall(r"[-+]?\d+(?:\.\d+)?", cell.replace("−", "-").replace(" %", ""))
    assert told, cell
    for number, column in zip(told, columns, strict=False):
        unit = 10.0 ** -len(number.partition(".")[2])
        assert abs(float(number) - row[column]) <= 0.51 * unit + 5e-4 * abs(row[column]), (cell, column, row[column])


READ = "as read from the photograph"
POSTERIOR = {
    "energy score, skill": "energy score, skill",
    "R@10 of 100 within sex": "R@10 of 100 within sex",
    "1:2 matching within sex": "1:2 matching within sex",
    "diversity": "diversity",
    "cosine of two voices' faces": "cosine of two voices' faces",
    "kernel distance to real faces": "kernel distance to real faces within sex",
    "sex right": "sex right",
    "90 % interval, age": f"coverage of 90%: age of the skin, {READ}",
    "90 % interval, skin tone": f"coverage of 90%: skin tone, {READ}",
    "darkest third drawn dark": "drawn dark: speakers of this third",
    "all drawn dark": "drawn dark: all speakers",
}
RANKED = {"truncation 0": "cosine with ẑ", "truncation 1": "log likelihood ratio"}
BESIDE = {  # what stands "to compare": the measure, if it is not the row's, and the system
    "exact": (None, "ceiling: what faces show, exact"),
    "faithful": (None, "faithful sampler, 1 − C_sample"),
    "real": (None, "real persons of the sex"),
    "photographs": (None, "photographs"),
    "base rate": ("base rate: dark", ""),
}


@pytest.mark.parametrize(
    ("head", "results"),
    [
        ("| | ẑ | truncation 0.5 | draws | to compare |", ("posterior", "posterior_fairness")),
        ("| in pictures | ẑ | truncation 0.5 | draws | to compare |", ("posterior_fairness", "posterior_faces")),
    ],
)
def test_the_posteriors_tables_say_what_was_measured(head, results):
    rows, page = measured(*results), (ROOT / "docs" / "posterior.md").read_text(encoding="utf-8")
    beside = measured("posterior") | rows
    for label, told in cells(page, head).items():
        measure = POSTERIOR[label]
        for cell, system in zip(told[:3], ("truncation 0", "truncation 0.5", "truncation 1"), strict=True):
            if cell:
                ranked = label.startswith(("R@10", "1:2"))
                check(cell, rows[measure, RANKED[system] if ranked else system])
        for name, number in re.findall(r"([a-z ]+) (−?[\d.]+)", told[3]):
            if (label, name.strip()) == ("energy score, skill", "exact"):
                continue  # 1 by definition
            other, system = BESIDE[name.strip()]
            places = [(other or measure, system), (other or measure, "other photographs")]
            check(number, next(beside[place] for place in places if place in beside))


def test_the_causes_of_missed_floors_are_told_as_they_were_measured():
    page = " ".join((ROOT / "docs" / "posterior.md").read_text(encoding="utf-8").split())
    here, many = measured("posterior"), measured("posterior_large")
    exact, ratio = "ceiling: what faces show, exact", "log likelihood ratio"
    of_sets = many["R@10 of 100 within sex, sets of 200", exact]
    ceilings = [rows["R@10 of 100 within sex", exact].value for rows in (here, many)]
    assert f"Perfect ears have {ceilings[0]:.3f} on them and {ceilings[1]:.3f} on the 1,000" in page
    assert ceilings[0] < of_sets.low
    assert f"lie between {of_sets.low:.3f} and {of_sets.high:.3f}" in page
    ranked = [rows["R@10 of 100 within sex", ratio].value for rows in (here, many)]
    skills = [(ours - 0.1) / (ceiling - 0.1) for ours, ceiling in zip(ranked, ceilings, strict=True)]
    assert f"The skill is the same, {skills[0]:.2f} and {skills[1]:.2f}" in page
    systems = ("truncation 1", "random face of the sex", "exact posterior of the world")
    age = [here["spread within a voice: age of the skin", system].value for system in systems]
    assert f"by {age[0]:.1f} years under draws, by {age[1]:.1f} among random faces" in page
    assert f"and by {age[2]:.1f} under" in page
    pooled = {
        name: [here[f"spread over all voices of a sex: {name}", system].value for system in systems[:2]]
        for name in ("age of the skin", "skin tone")
    }
    assert "draws spread by {:.1f} years, persons by {:.1f}".format(*pooled["age of the skin"]) in page
    assert "no such excess ({:.3f} and {:.3f})".format(*pooled["skin tone"]) in page


def test_the_1000_persons_are_told_as_they_were_measured():
    page = (ROOT / "docs" / "posterior.md").read_text(encoding="utf-8")
    many, few = measured("posterior_large", "posterior_large_fairness"), measured("posterior_800_on_large")
    names = POSTERIOR | {
        f"90 % interval, {name}": f"coverage of 90%: {name} of the skin, the world's" for name in ("age",)
    }
    names |= {"90 % interval, skin tone": "coverage of 90%: skin tone, the world's"}
    names |= {"lightest third drawn light": "drawn light: speakers of this third"}
    for label, (point, shipped, more, beside) in cells(page, "| 1,000 test persons |").items():
        ranked = label.startswith(("R@10", "1:2"))
        ours = RANKED["truncation 1"] if ranked else "truncation 1"
        places = [
            (point, many, RANKED["truncation 0"] if ranked else "truncation 0"),
            (shipped, few, ours),
            (more, many, ours),
        ]
        for cell, rows, system in places:
            if cell:
                check(cell, rows[names[label], system])
        if "base rate" in beside:
            check(beside, many[f"base rate: {label.split()[-1]}", ""])
        elif "photographs" in beside:
            check(beside, many[names[label], "other photographs"])
        elif ranked:
            check(beside, many[names[label], "ceiling: what faces show, exact"])


L_SELF = {
    "prior's residual": "residual",
    "L_self of Eq. 14": "L_self",
    "no face found": "undetected",
    "kept: cosine of the drawn face with its identity": "kept",
    "likeness to the speaker": "likeness",
    "1:2 matching within sex, by ratio": "1:2 matching within sex by log ratio",
    "diversity of a voice's faces": "diversity",
    "cosine of two voices' faces": "cosine of two voices' faces",
    "kernel distance to photographs": "kernel distance",
}


def test_the_table_of_sampling_beside_l_self_says_what_was_measured():
    page, rows = (ROOT / "docs" / "posterior.md").read_text(encoding="utf-8"), measured("stage2_draws")
    systems = ("ẑ", "ẑ after paper", "ẑ after cycle", "draws, truncation 0.5", "draws, truncation 1", "true identities")
    table = cells(page, "| | ẑ | after Eq. 14 |")
    assert set(table) == set(L_SELF)
    for label, told in table.items():
        for cell, system in zip(told, systems, strict=True):
            if cell == "–":
                assert (L_SELF[label], system) not in rows
            else:
                check(cell, rows[L_SELF[label], system])


def test_where_pictures_lose_a_draw_and_what_a_critic_changes_are_told_as_measured():
    page, rows = (ROOT / "docs" / "posterior.md").read_text(encoding="utf-8"), measured("draws_in_pictures")
    draws, true = "draws, truncation 1", "true identities"
    guided = [f"{draws}, {setting}" for setting in ("guidance 1", "guidance 2, 10 steps", "guidance 3, 10 steps")]
    for label, told in cells(page, "| validation persons |").items():
        for cell, system in zip(
            told, ("photographs", "photographs through the VAE", true, draws, *guided), strict=True
        ):
            parts = cell.split(";")
            readers = [f", read by {reader}" for reader in ("f_arc", "the second scorer")] if len(parts) > 1 else [""]
            for part, reader in zip(parts, readers, strict=True):
                assert (part == "–") == ((label + reader, system) not in rows)
                if part != "–":
                    check(part, rows[label + reader, system])
    after = [f"{name}, after a critic on draws" for name in (draws, true)]
    for label, told in cells(page, "| change |").items():
        for cell, system in zip(told, (*after, guided[1]), strict=True):
            check(cell, rows[label, system], ("gain", "gain low", "gain high"))


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
