from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[1]
CONDA_NAMES = {"pytorch": "torch"}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _constraints() -> dict[str, str]:
    lines = (PROJECT / "envs" / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line.strip() and not line.startswith("#")]
    assert all(len(pin) == 2 for pin in pins)
    return {_normal(name): number for name, number in pins}


def _direct() -> set[str]:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    return {_normal(name) for name in project["dependencies"]}


def test_every_dependency_has_one_exact_pin():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    names = [line.partition(";")[0] for line in lines]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) for name in names), "pins are in constraints"
    assert {_normal(name) for name in names} <= _constraints().keys()


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_the_conda_environment_has_the_constraints_versions_of_all_dependencies(name):
    environment = yaml.safe_load((PROJECT / "envs" / f"{name}.yaml").read_text())
    found = {}
    for entry in environment["dependencies"]:
        if isinstance(entry, dict):
            found.update(pin.split("==") for pin in entry["pip"])
        elif "=" in entry and not entry.startswith("python="):
            package, number = entry.split("=")[:2]
            found[CONDA_NAMES.get(package, package)] = number
    found = {_normal(package): number for package, number in found.items()}
    assert found.keys() == _direct()
    assert found == {package: _constraints()[package] for package in found}


def test_installed_versions_equal_the_pins():
    wrong = {}
    for name in _direct():
        try:
            installed = version(name).split("+")[0]
        except PackageNotFoundError:
            installed = None
        if installed != _constraints()[name]:
            wrong[name] = installed
    assert wrong == {}
