"""The package as a whole: light to import, names that exist, packages that are declared."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import v2f_core

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "diffusers", "speechbrain", "insightface", "pandas", "numpy", "matplotlib"}


def test_package_and_command_line_import_nothing_heavy():
    code = "import sys, v2f_core.cli; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT)
    assert not HEAVY & set(loaded.split())


def test_names_for_readers_and_for_the_interpreter_agree():
    """Editors read the imports under TYPE_CHECKING, the interpreter reads a table."""
    tree = ast.parse((ROOT / "v2f_core/__init__.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and "v2f_core" in node.module]
    typed = {alias.name: node.module for node in imports for alias in node.names}
    assert sorted(typed) == sorted(v2f_core.__all__)
    for name, module in typed.items():
        assert getattr(v2f_core, name) is getattr(import_module(module), name)


def test_the_method_is_read_in_one_sitting():
    """The list of the guide: files that exist, and no more lines than it promises."""
    guide = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = guide.partition("## The method in one sitting")[2].partition("\n## ")[0]
    promised = int(re.search(r"about ([\d,]+) lines", listed)[1].replace(",", ""))
    paths = [ROOT / "v2f_core" / name for name in re.findall(r"(?m)^\| `(.+\.py)`", listed)]
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)
    assert len(paths) == 11
    assert lines == pytest.approx(promised, abs=50)


def test_every_package_that_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + project["optional-dependencies"]["build"]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    # JupyterLab brings the notebook's own packages, insightface brings OpenCV
    declared |= {"ipython", "ipykernel", "nbformat", "nbclient", "nbconvert", "opencv-python", "opencv-python-headless"}
    imported = set()
    for path in [path for room in ("v2f_core", "minivox") for path in (ROOT / room).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    installed = packages_distributions()
    for name in imported - set(sys.stdlib_module_names) - {"v2f_core", "minivox"}:
        distributions = {canonicalize_name(distribution) for distribution in installed.get(name, [name])}
        assert distributions & declared, f"{name} is imported but not declared"
