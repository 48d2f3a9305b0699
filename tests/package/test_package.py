"""The package as a whole: quick to import, names that exist, rooms that look one way, files that belong together."""

import ast
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import v2f_core

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "diffusers", "speechbrain", "insightface", "pandas", "numpy", "matplotlib")


def loaded_by(statement):
    """The heavy packages that a fresh interpreter has loaded after a statement, and the seconds it took."""
    code = (
        f"import sys, time; t = time.perf_counter(); {statement}; t = time.perf_counter() - t;"
        f"print(t, *[name for name in {HEAVY} if name in sys.modules])"
    )
    seconds, *names = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT).split()
    return float(seconds), names


def test_import_is_quick_and_light():
    seconds, heavy = loaded_by("import v2f_core")
    assert heavy == []
    assert seconds < 1


def test_the_command_line_s_help_needs_nothing_heavy():
    assert loaded_by("import v2f_core.cli")[1] == []


def test_names_for_readers_and_for_the_interpreter_agree():
    """Editors read the imports under TYPE_CHECKING, the interpreter reads a table."""
    tree = ast.parse((ROOT / "v2f_core/__init__.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and "v2f_core" in node.module]
    typed = {alias.name: node.module for node in imports for alias in node.names}
    assert sorted(typed) == sorted(v2f_core.__all__)
    for name, module in typed.items():
        assert getattr(v2f_core, name) is getattr(import_module(module), name)


def imported_by(folder):
    """Top-level packages that the modules below a folder import, anywhere in their code."""
    names = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"v2f_core", "minivox"}


def test_every_package_that_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    lines = project["dependencies"] + optional["build"]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    installed = packages_distributions()
    # JupyterLab brings the notebook's own packages, insightface brings OpenCV
    brought = {"ipython", "ipykernel", "nbformat", "nbclient", "nbconvert", "opencv-python", "opencv-python-headless"}
    for name in imported_by(ROOT / "v2f_core") | imported_by(ROOT / "minivox"):
        distributions = {canonicalize_name(distribution) for distribution in installed.get(name, [name])}
        assert distributions & (declared | brought), f"{name} is imported but not declared"
