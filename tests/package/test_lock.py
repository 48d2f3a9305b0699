"""One set of versions: the lock, the conda environment and the ranges of pyproject.toml agree."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WANTED = [
    Requirement(line)
    for line in PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["test"]
]


@pytest.fixture(scope="module")
def locked():
    """Every locked requirement; each has the hashes of its files."""
    requirements = []
    for entry in re.split(r"\n(?=\S)", LOCK):
        requirement, *hashes = (part.strip(" \\\n") for part in entry.split("--hash="))
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in hashes), requirement
        requirements.append(Requirement(requirement))
    return requirements


@pytest.fixture(scope="module")
def pinned(locked):
    """Name -> the versions locked for it (some differ between Pythons)."""
    versions = {}
    for requirement in locked:
        (pin,) = requirement.specifier
        assert pin.operator == "=="
        versions.setdefault(canonicalize_name(requirement.name), set()).add(pin.version)
    return versions


def test_the_lock_names_no_registry_and_no_folder():
    assert not re.search(r"https?:|file:|@ |--index|--find-links", LOCK)


def test_the_lock_meets_every_range_and_every_version_that_is_to_stay(pinned):
    for requirement in [*WANTED, *map(Requirement, PROJECT["tool"]["uv"]["constraint-dependencies"])]:
        versions = pinned[canonicalize_name(requirement.name)]
        assert all(requirement.specifier.contains(version) for version in versions), requirement


@pytest.mark.parametrize("python", ["3.11.9", "3.12.3", "3.13.0"])
@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_each_supported_machine_finds_each_requirement_once(locked, python, platform):
    system, machine = {"linux": ("Linux", "x86_64"), "darwin": ("Darwin", "arm64")}[platform]
    machine = default_environment() | {
        "python_version": python[:4], "python_full_version": python,
        "sys_platform": platform, "platform_system": system, "platform_machine": machine,
    }  # fmt: skip
    here = [canonicalize_name(r.name) for r in locked if r.marker is None or r.marker.evaluate(machine)]
    assert len(here) == len(set(here))
    assert {canonicalize_name(requirement.name) for requirement in WANTED} <= set(here)


def test_conda_s_pip_section_is_the_lock(pinned):
    lines = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (listed,) = (line["pip"] for line in lines if isinstance(line, dict))
    assert listed[-1] == "--editable ."
    # the lock has OpenCV without windows, see pyproject.toml
    versions = {**pinned, "opencv-python": pinned["opencv-python-headless"]}
    requirements = {canonicalize_name(r.name): r for r in map(Requirement, listed[:-1])}
    for name, requirement in requirements.items():
        assert {pin.version for pin in requirement.specifier} == versions[name], name
    assert {canonicalize_name(requirement.name) for requirement in WANTED} <= set(requirements)
