"""One set of versions: the lock, the conda environment and the ranges of pyproject.toml agree."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def lock():
    """Every locked requirement, with the hashes of its files."""
    entries = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text())
    parsed = {}
    for entry in entries:
        requirement, *hashes = (part.strip(" \\\n") for part in entry.split("--hash="))
        parsed[Requirement(requirement)] = hashes
    return parsed


@pytest.fixture(scope="module")
def pinned(lock):
    """Name -> the versions locked for it (some differ between Pythons)."""
    versions = {}
    for requirement in lock:
        (pin,) = requirement.specifier
        assert pin.operator == "=="
        versions.setdefault(canonicalize_name(requirement.name), set()).add(pin.version)
    return versions


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def conda():
    lines = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = (line["pip"] for line in lines if isinstance(line, dict))
    return [line for line in lines if isinstance(line, str)], pip


def wanted(project):
    lines = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["test"]
    return [Requirement(line) for line in lines]


def test_every_locked_file_has_its_hash(lock):
    assert len(lock) > 100
    for requirement, hashes in lock.items():
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in hashes), requirement


def test_the_lock_names_no_registry_and_no_folder():
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"https?:|file:|@ |--index|--find-links", text)


def test_the_lock_meets_every_range_of_the_project(pinned, project):
    for requirement in wanted(project):
        versions = pinned[canonicalize_name(requirement.name)]
        assert all(requirement.specifier.contains(version) for version in versions), requirement


def test_the_lock_meets_every_version_that_is_to_stay(pinned, project):
    for line in project["tool"]["uv"]["constraint-dependencies"]:
        requirement = Requirement(line)
        assert pinned[canonicalize_name(requirement.name)] == {next(iter(requirement.specifier)).version}, line


@pytest.mark.parametrize("python", ["3.11.9", "3.12.3", "3.13.0"])
@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_each_supported_machine_finds_each_requirement_once(lock, project, python, platform):
    machine = {
        "python_version": python[:4],
        "python_full_version": python,
        "sys_platform": platform,
        "platform_machine": {"linux": "x86_64", "darwin": "arm64"}[platform],
        "platform_system": {"linux": "Linux", "darwin": "Darwin"}[platform],
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    here = [canonicalize_name(r.name) for r in lock if r.marker is None or r.marker.evaluate(machine)]
    assert len(here) == len(set(here))
    assert {canonicalize_name(requirement.name) for requirement in wanted(project)} <= set(here)


def test_conda_s_pip_section_is_the_lock(conda, pinned, project):
    listed = {}
    for line in conda[1]:
        if not line.startswith("--editable"):
            requirement = Requirement(line)
            listed[canonicalize_name(requirement.name)] = next(iter(requirement.specifier)).version
    # the lock has OpenCV without windows, see pyproject.toml
    locked = {**pinned, "opencv-python": pinned["opencv-python-headless"]}
    assert {name: {version} for name, version in listed.items()} == {name: locked[name] for name in listed}
    assert {canonicalize_name(requirement.name) for requirement in wanted(project)} <= set(listed)
    assert conda[1][-1] == "--editable ."
