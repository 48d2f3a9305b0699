"""What the site is made of: the repository's pages where they stand, a page for each public module, and checked links.

MkDocs wants all pages below one folder. Here they are README, docs, data cards and notebooks, which link to each other
by their places in the repository; so the site is laid out as the repository is.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[2]
CODE = re.compile(r"(```.*?```|`[^`\n]+`)", flags=re.S)
MATH = re.compile(r"\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$\n]+)\$", flags=re.S)
GUIDES = ("docs/*.md", "benchmarks/results/study_log.md")
HEAVIEST = 1_000_000  # bytes a page
FONT = re.compile(r"\\(mathbb|mathcal) ?([A-Z])")  # braces make a character of it; a font alone browsers ignore
TAG = re.compile(r"\\tag\{(.+?)\}")
# the theme's cells are 5rem wide and more, so that a row of faces would not fit
NARROW = "<style>.md-typeset .jp-OutputArea table:not([class]) :is(th, td) { min-width: 0 }</style>\n"
# linked to, but no pages
ASIDE = (
    "benchmarks/results/fuzz.json",
    "benchmarks/results/made_up_pairs.md",
    "benchmarks/results/worlds.md",
    "docs/*.webp",
    "docs/thumbnails/*.webp",
    "notebooks/solutions/*.py",
    "notebooks/whole_method.py",
    "benchmarks/results/*.csv",
    "LICENSE",
)


def pages(*patterns: str) -> list[str]:
    """Files of the repository, by their paths in it."""
    return [path.relative_to(ROOT).as_posix() for pattern in patterns for path in sorted(ROOT.glob(pattern))]


def modules() -> list[str]:
    """The dotted names of all modules that are not private; a package counts if something is written in it.

    Of MiniVox its world and dataset, not the programs that made its assets.
    """
    paths = [*sorted((ROOT / "v2f_core").rglob("*.py")), *sorted((ROOT / "minivox").glob("*.py"))]
    names = []
    for path in paths:
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if path.stat().st_size and not any(part.startswith("_") for part in parts):
            names.append(".".join(parts))
    return names


def title(page: str) -> str:
    """The first heading of a page or notebook."""
    text = (ROOT / page).read_text(encoding="utf-8")
    if page.endswith(".ipynb"):
        text = "".join(json.loads(text)["cells"][0]["source"])
    heading = re.search(r"^# (.+)$", text, flags=re.M)
    return heading.group(1).replace(" · ", " ") if heading else Path(page).stem


def navigation() -> list[dict[str, Any]]:
    """The site's table of contents: each entry a title with a page, or with entries of its own."""
    rooms: dict[str, list[dict[str, str]]] = {}
    for module in modules():
        package, *rest = module.split(".")
        room = rest[0] if rest and (ROOT / package / rest[0]).is_dir() else package
        rooms.setdefault(room, []).append({".".join(rest) or module: f"api/{module}.md"})
    return [
        {"Home": "index.md"},
        {"Notebooks": [{title(page): page} for page in pages("notebooks/*.ipynb")]},
        {"Guides": [{title(page): page} for page in pages(*GUIDES)]},
        {"Data cards": [{title(page): page} for page in pages("data_cards/*.md")]},
        {"API": [{room: entries} for room, entries in rooms.items()]},
    ]


def with_mathml(text: str) -> str:
    """Markdown whose formulae are MathML, which browsers show without a script from the network; code is left alone."""
    from latex2mathml.converter import convert

    def mathml(tex: str, display: str) -> str:
        math = convert(FONT.sub(r"\\\1{\2}", tex).strip(), display=display).replace("\\_", "_")
        if "\\" in math:
            raise ValueError(f"{tex}: latex2mathml leaves a part of it as it is; write it otherwise")
        return math

    def formula(found: re.Match[str]) -> str:
        if found["inline"]:
            return mathml(found["inline"], "inline")
        tags = "".join(f'<span style="float:right">({tag})</span>' for tag in TAG.findall(found["block"]))
        math = mathml(TAG.sub("", found["block"]), "block")
        return f'<span style="display:block; margin:0.6em 0">{tags}{math}</span>'

    parts = CODE.split(text)
    return "".join(part if number % 2 else MATH.sub(formula, part) for number, part in enumerate(parts))


def prepared(page: str, folder: Path) -> Path:
    """A notebook's copy for the site: figures with texts, cells without tags; the folder that its path starts from."""
    book = json.loads((ROOT / page).read_text(encoding="utf-8"))
    for cell in book["cells"]:
        cell["metadata"] = {}
        for output in cell.get("outputs", ()):
            if said := output.get("metadata", {}).get("image/png", {}).get("alt"):  # which the template leaves out
                png = "".join(output["data"]["image/png"]).strip()
                said = html.escape(said)
                output["data"] = {"text/html": f'<img alt="{said}" src="data:image/png;base64,{png}">'}
        if cell["cell_type"] == "markdown":
            cell["source"] = with_mathml("".join(cell["source"]))
    (folder / page).parent.mkdir(parents=True, exist_ok=True)
    (folder / page).write_text(json.dumps(book), encoding="utf-8")
    return folder


def broken(site: Path) -> Iterator[str]:
    """Links within a built site that lead nowhere, anchors included."""
    texts = {path.resolve(): path.read_text(encoding="utf-8") for path in sorted(site.rglob("*.html"))}
    anchors = {path: set(re.findall(r'\bid="([^"]+)"', text)) for path, text in texts.items()}
    for page, text in texts.items():
        if page.name == "404.html":  # shown at any depth, so that its links are absolute
            continue
        for found in sorted(set(re.findall(r'<\w[^<>]*?\s(?:href|src)="([^"]+)"', text))):
            link = urlsplit(html.unescape(found))
            if link.scheme or link.netloc:
                continue
            target = (page.parent / unquote(link.path)).resolve() if link.path else page
            target = target / "index.html" if target.is_dir() else target
            known = target not in anchors or not link.fragment or unquote(link.fragment) in anchors[target]
            if not (target.exists() and known):
                yield f"{page.relative_to(site.resolve())}: {found}"


def on_config(config: Any) -> Any:
    """MkDocs' first call: the table of contents."""
    config.nav = navigation()
    return config


def on_files(files: Any, config: Any) -> Any:
    """The theme's own files and ours, in place of whatever lies in ``docs_dir``."""
    from mkdocs.structure.files import File, Files

    theirs = [file for file in files if file.src_dir != config.docs_dir]
    copies = Path(tempfile.mkdtemp(prefix="book-"))
    sources = dict.fromkeys(pages(*GUIDES, "data_cards/*.md", *ASIDE), ROOT)
    sources |= {page: prepared(page, copies) for page in pages("notebooks/*.ipynb")}
    found = [File(page, str(root), config.site_dir, config.use_directory_urls) for page, root in sources.items()]
    found.append(File.generated(config, "index.md", abs_src_path=str(ROOT / "README.md")))
    for module in modules():
        text = f"# {module}\n\n::: {module}\n"
        found.append(File.generated(config, f"api/{module}.md", content=text))
    return Files([*theirs, *found])


on_files.mkdocs_priority = 100  # before the plugin that turns notebooks into pages


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Links of notebooks point to pages; Sphinx's roles, which docstrings use, become plain code."""
    if page.file.src_uri.endswith(".ipynb"):
        return NARROW + re.sub(r'href="(?![a-z]+:)([^"#]+)\.(?:ipynb|md)(#[^"]*)?"', r'href="\1.html\2"', content)
    return re.sub(r":(?:class|func|data|mod|meth|attr):<code>~?(?:(?:v2f_core|minivox)\.[\w.]*\.)?", "<code>", content)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """The styles that each notebook's page would bring along, most of its size, become files that all pages share."""

    def shared(found: re.Match[str]) -> str:
        name = f"assets/notebook-{hashlib.sha256(found[1].encode()).hexdigest()[:12]}.css"
        path = Path(config.site_dir) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(found[1], encoding="utf-8")
        return f'<link rel="stylesheet" href="{"../" * page.file.dest_uri.count("/")}{name}">'

    return re.sub(r"<style[^>]*>([^<]{5000,})</style>", shared, output)


def on_post_build(config: Any) -> None:
    """Every link that the site has within itself is followed, and every page weighed."""
    from mkdocs.exceptions import PluginError

    if found := list(broken(Path(config.site_dir))):
        raise PluginError(f"{len(found)} links lead nowhere:\n" + "\n".join(found[:20]))
    if heavy := [path.name for path in Path(config.site_dir).rglob("*.html") if path.stat().st_size > HEAVIEST]:
        raise PluginError(f"pages of more than {HEAVIEST:,} bytes: {', '.join(sorted(heavy))}")
