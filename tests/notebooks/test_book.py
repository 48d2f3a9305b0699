"""The site lists every notebook, page and public module, and its links are really followed."""

import importlib.util
import json
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


def test_notebooks_are_listed_by_their_headings_and_in_order(book):
    (notebooks,) = (entry["Notebooks"] for entry in book.navigation() if "Notebooks" in entry)
    titles = [title for entry in notebooks for title in entry]
    assert titles == sorted(titles)
    assert titles[0].startswith("00 ")


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


def test_links_between_notebooks_become_links_between_pages(book):
    class Page:
        class file:  # noqa: N801
            src_uri = "notebooks/05_stage1_aligner.ipynb"

    content = (
        '<a href="04_two_spaces.ipynb">04</a> <a href="../docs/study.md#how">x</a> <a href="https://a.org/b.md">y</a>'
    )
    assert book.on_page_content(content, Page, None, None) == (
        '<a href="04_two_spaces.html">04</a> <a href="../docs/study.html#how">x</a> <a href="https://a.org/b.md">y</a>'
    )


def test_large_styles_are_shared_between_pages(book, tmp_path):
    class Page:
        class file:  # noqa: N801
            dest_uri = "notebooks/a.html"

    class Config:
        site_dir = str(tmp_path)

    large = "p { color: red }" * 1000
    page = book.on_post_page(f"<style>{large}</style><style>i {{}}</style>", Page, Config)
    (file,) = (tmp_path / "assets").iterdir()
    assert file.read_text() == large
    assert page == f'<link rel="stylesheet" href="../assets/{file.name}"><style>i {{}}</style>'


def test_roles_of_sphinx_become_plain_code(book):
    class Page:
        class file:  # noqa: N801
            src_uri = "api/v2f_core.errors.md"

    content = ":class:<code>~v2f_core.identity.losses.AMSoftmax</code> and :func:<code>rank</code>"
    assert book.on_page_content(content, Page, None, None) == "<code>AMSoftmax</code> and <code>rank</code>"


def test_formulae_become_mathml_and_code_is_left_alone(book):
    pytest.importorskip("latex2mathml", reason="only make book installs it")
    text = book.with_mathml("Take $z_0$; `$HOME` and\n```\n$5 and $6\n```\n$$ a = b \\tag{Eq. 3} $$")
    assert text.count("<math") == 2
    assert "`$HOME`" in text
    assert "$5 and $6" in text
    assert "(Eq. 3)" in text


def test_figures_get_their_texts(book, tmp_path, monkeypatch):
    pytest.importorskip("latex2mathml", reason="only make book installs it")
    output = {"data": {"image/png": "AAAA\n"}, "metadata": {"image/png": {"alt": 'a "red" line'}}}
    cell = {"cell_type": "code", "metadata": {"tags": ["thumbnail"]}, "outputs": [output]}
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": [cell]}))
    monkeypatch.setattr(book, "ROOT", tmp_path)
    copy = json.loads((book.prepared("a.ipynb", tmp_path / "copy") / "a.ipynb").read_text())
    assert copy["cells"][0]["metadata"] == {}  # tags are ours, not the reader's
    (shown,) = copy["cells"][0]["outputs"]
    assert shown["data"] == {"text/html": '<img alt="a &quot;red&quot; line" src="data:image/png;base64,AAAA">'}
