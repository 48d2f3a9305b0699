"""What people read is true: commands exist, links lead somewhere, cards are valid and agree with the code."""

import json
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.main import get_command

from minivox import world
from minivox.build import minivox
from v2f_core.cli import app

ROOT = Path(__file__).parents[2]
CARDS = sorted((ROOT / "data_cards").glob("*.md"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [
    ROOT / "README.md",
    *CARDS,
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "benchmarks" / "results" / "study_log.md",
    *NOTEBOOKS,
]
CARD = ROOT / "data_cards" / "minivox.md"


def prose(page: Path) -> str:
    """A page's Markdown; of a notebook, that of its text cells."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_that_is_named_exists(page):
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.M))
    named = set(re.findall(r"(?:`|^|&& )make (\w+)", prose(page), flags=re.M))
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_named_exists_with_its_options(page):
    commands = get_command(app).commands
    for module, rest in re.findall(r"python -m ([\w.]+)((?: +[\w./-]+)*)", prose(page)):
        assert module == "pytest" or find_spec(module) is not None, module
        words = rest.split()
        if module == "v2f_core" and words:
            options = {option for parameter in commands[words[0]].params for option in parameter.opts}
            assert {word for word in words if word.startswith("-")} <= options, rest


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_the_repository_leads_to_a_file(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not re.match(r"https?://|#|data:", target):
            assert (page.parent / target.split("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_names_a_machine_or_a_package_index(page):
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"base64,[\w+/=]+|\"image/png\": \"[^\"]+\"", "", text)  # pictures and sounds may spell anything
    assert not re.search(r"/(?:root|home|tmp|work)/|pyp[i]\.org|python[h]osted|index-url|localhost|127\.0\.0\.1", text)


def test_the_dataset_card_is_valid():
    from huggingface_hub import DatasetCard

    card = DatasetCard.load(CARD)
    data = card.data.to_dict()
    assert data["license"] == "apache-2.0"
    assert data["pretty_name"] == "MiniVox"
    assert data["language"] == ["en"]
    assert set(data["size_categories"]) <= {"n<1K", "1K<n<10K", "10K<n<100K"}
    assert data["annotations_creators"] == data["language_creators"] == ["machine-generated"]
    assert data["source_datasets"] == ["original"]
    sections = re.findall(r"^#+ (.+)$", card.text, flags=re.M)
    wanted = ("Contents", "How it was made", "Ingredients and licences", "Uses", "Known faults")
    assert set(wanted) | {"Personal and sensitive information"} <= set(sections)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_every_card_begins_with_metadata_that_can_be_read(card):
    from huggingface_hub import RepoCard

    loaded = RepoCard.load(card, ignore_metadata_errors=False)
    assert loaded.data.license
    assert loaded.text.strip().startswith("# ")


def test_the_dataset_card_counts_what_the_build_makes():
    text = CARD.read_text(encoding="utf-8")
    for split, persons in minivox.SPLITS.items():
        row = re.search(rf"^\| {split} \| (\d+)[^|]*\| ([\d,]+) \| ([\d,]+) \|$", text, flags=re.M)
        assert row is not None
        assert int(row[1]) == persons
        assert int(row[2].replace(",", "")) == persons * minivox.VIEWS
        assert int(row[3].replace(",", "")) == persons * minivox.CLIPS


def test_the_dataset_card_lists_every_link_with_its_strength_and_source():
    text = CARD.read_text(encoding="utf-8")
    rows = text.partition("<!-- links")[2].partition("<!-- /links -->")[0].strip().splitlines()[3:]
    assert len(rows) == len(world.LINKS)
    for row, link in zip(rows, world.LINKS, strict=True):
        effect = link.effect.replace(".", ": ").replace("_", " ")
        assert row == f"| {link.cause} | {effect} | {link.strength:+.2f} | {link.source} |"


def test_the_readme_links_every_notebook_and_every_card():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in (*NOTEBOOKS, *CARDS):
        assert page.relative_to(ROOT).as_posix() in text


def test_the_readme_says_what_did_not_run_on_real_weights():
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert "Nothing else in this repository has been run on real weights or real persons." in text


def numbers(cell: str) -> list[float]:
    return [float(found) for found in re.findall(r"[-+]?\d+(?:\.\d+)?", cell.replace("−", "-"))]


def test_the_table_of_all_rows_says_what_was_measured():
    """Every number of the evaluation's page stands in the committed tables, and the controls are where they belong."""
    systems = pd.read_csv(ROOT / "benchmarks" / "results" / "evaluate_systems.csv").set_index(
        ["gallery", "by", "system"]
    )
    sets = pd.read_csv(ROOT / "benchmarks" / "results" / "evaluate_sets.csv").set_index("system")
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    lines = re.findall(r"(?m)^\| (.+) \|$", text[text.index("| row | cosine of ẑ |") : text.index("| *chance* |")])[1:]
    rows = {cells[0]: cells[1:] for cells in (re.split(r" ?\| ?", line) for line in lines) if cells[0] != "---"}
    assert set(rows) == set(systems.index.get_level_values("system"))
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
            assert numbers(cells[7] + " " + cells[8]) == pytest.approx(
                [round(sets.VFS[name], 1), round(sets["kernel distance"][name], 2)], abs=1e-9
            )
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
    pages = (ROOT / "docs" / "study.md", ROOT / "benchmarks" / "results" / "study_log.md")
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages).replace("−", "-")
    measured = []
    for path in (ROOT / "benchmarks" / "results").glob("*.csv"):
        table = pd.read_csv(path)
        names = {name.removesuffix("low").strip() for name in table.columns if name.endswith("low")}
        for name in names:
            columns = [name or "value", *(f"{name} {end}".strip() for end in ("low", "high"))]
            if set(columns) <= set(table.columns):
                measured += table[columns].to_numpy(float).tolist()
    found = told.findall(text)
    assert len(found) > 200
    array = np.array(measured)
    for numbers in found:
        value, unit = np.array(numbers, float), 0.51 * 10.0 ** -len(numbers[0].split(".")[1])
        signs = (value, -value[[0, 2, 1]])
        assert any((np.abs(array - each) <= unit).all(1).any() for each in signs), " ".join(numbers)
