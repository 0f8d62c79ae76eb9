"""Container recipes have the steps of the Makefile and the files that the package is built from.

No container is built here.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[1]
MAKEFILE = (PROJECT / "Makefile").read_text()
DOCKERFILE = (PROJECT / "Dockerfile").read_text()
APPTAINER = (PROJECT / "apptainer.def").read_text()


def installs(text: str) -> list[str]:
    """Return what pip is asked to install, without the options on output and place."""
    found = re.findall(r"python -m pip install (.*)", text)
    local = r"--no-cache-dir |--editable |--quiet --disable-pip-version-check "
    return [re.sub(local, "", words).replace("$$", "$") for words in found]


def copied(text: str, form: str) -> set[str]:
    return {name for line in re.findall(form, text, re.MULTILINE) for name in line.split()}


IN_DOCKER = copied(DOCKERFILE, r"^COPY (.*) \S+$")
IN_APPTAINER = copied(APPTAINER, r"^ +(\S+) /opt/mammo-sae/")


@pytest.mark.parametrize("recipe", [DOCKERFILE, APPTAINER], ids=["Dockerfile", "apptainer.def"])
def test_torch_is_installed_first_and_the_pins_hold_as_in_the_makefile(recipe):
    made = [words.replace("'.[test]'", ".") for words in installs(MAKEFILE)]
    assert made[0].startswith("torch==$(sed ")
    assert installs(recipe) == made[:2]


def test_the_command_finds_the_pin_of_torch():
    (pattern,) = set(re.findall(r"sed -n '(.*?)' envs", DOCKERFILE + APPTAINER))
    assert pattern == r"s/^torch==//p"
    pins = (PROJECT / "envs" / "constraints.txt").read_text()
    assert len(re.findall(r"^torch==[\d.]+$", pins, re.MULTILINE)) == 1


def test_python_is_that_of_the_conda_environments():
    versions = set(
        re.findall(r"^F(?:ROM|rom:) python:([\d.]+)-slim$", DOCKERFILE + APPTAINER, re.M)
    )
    conda = set()
    for name in ("cpu", "gpu"):
        environment = yaml.safe_load((PROJECT / "envs" / f"{name}.yaml").read_text())
        entries = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
        conda |= {entry.removeprefix("python=") for entry in entries if entry.startswith("python=")}
    assert versions == conda == {"3.11"}


def test_both_recipes_copy_the_files_from_which_the_package_is_built():
    parts = re.search(r"^PARTS = \((.*)\)$", (PROJECT / "setup.py").read_text(), re.MULTILINE)
    assert parts is not None
    needed = {*re.findall(r'"(\S+?)"', parts[1]), "src", "setup.py", "pyproject.toml", "README.md"}
    assert needed <= IN_DOCKER
    assert IN_DOCKER == IN_APPTAINER
    assert [name for name in IN_DOCKER if not (PROJECT / name).exists()] == []


def test_docker_is_sent_exactly_the_files_that_it_copies():
    lines = (PROJECT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == IN_DOCKER


def test_the_source_package_has_the_parts_of_the_workflow():
    lines = (PROJECT / "MANIFEST.in").read_text().splitlines()
    included = {words[1] for words in map(str.split, lines) if words[0] in {"include", "graft"}}
    assert included == {"Snakefile", "workflow", "config", "envs", "profiles"}


def test_the_command_of_the_containers_is_one_of_the_package():
    project = (PROJECT / "pyproject.toml").read_text()
    assert '\nmammo-sae = "mammo_sae.cli:main"\n' in project
    assert 'ENTRYPOINT ["mammo-sae"]' in DOCKERFILE
    assert 'exec mammo-sae "$@"' in APPTAINER
