"""The site lists every notebook, page and public module, and its links are really followed."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def book():
    """The site's hooks, which only MkDocs loads otherwise."""
    spec = importlib.util.spec_from_file_location("book_hooks", ROOT / "docs" / "site" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def listed(entries) -> list[str]:
    """All pages of a table of contents."""
    found = []
    for entry in entries:
        ((_, value),) = entry.items()
        found += listed(value) if isinstance(value, list) else [value]
    return found


def test_every_page_is_listed_once(book):
    found = listed(book.navigation())
    assert len(found) == len(set(found))
    written = [
        *(ROOT / "notebooks").glob("*.ipynb"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "data_cards").glob("*.md"),
    ]
    assert {path.relative_to(ROOT).as_posix() for path in written} | {"index.md"} <= set(found)


def test_every_public_module_has_its_page(book):
    found = {page for page in listed(book.navigation()) if page.startswith("api/")}
    for path in (ROOT / "v2f_core").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        private = any(part.startswith("_") for part in path.relative_to(ROOT).parts)
        assert (f"api/{name}.md" in found) != private, name
    assert "api/v2f_core.md" in found
    assert "api/v2f_core.data.md" not in found  # an empty __init__


def test_whatever_a_page_links_to_is_part_of_the_site(book):
    guides = book.pages("README.md", *book.GUIDES, "data_cards/*.md")
    there = {*guides, *book.pages("notebooks/*.ipynb", *book.ASIDE)}
    for page in guides:
        for link in re.findall(r"\]\(([^):#]+?)(?:#[^)]*)?\)", (ROOT / page).read_text(encoding="utf-8")):
            assert ((ROOT / page).parent / link).resolve().relative_to(ROOT).as_posix() in there, f"{page}: {link}"


def test_links_that_lead_nowhere_are_found(book, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.html").write_text(
        '<h1 id="top">A</h1><a href="sub/b.html#here">b</a><a href="https://x.org/no">x</a>'
    )
    (tmp_path / "sub/b.html").write_text(
        '<p id="here"><a href="../a.html#top">a</a><img src="data:image/png;base64,x">'
    )
    assert list(book.broken(tmp_path)) == []
    (tmp_path / "sub/b.html").write_text('<a href="../a.html#gone">a</a><img src="c.png"><a href="../d.html">d</a>')
    assert list(book.broken(tmp_path)) == [
        "a.html: sub/b.html#here",
        "sub/b.html: ../a.html#gone",
        "sub/b.html: ../d.html",
        "sub/b.html: c.png",
    ]
