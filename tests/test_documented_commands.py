"""Commands on the README and the pages of docs/ work when they are copied as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from mammo_sae import people
from mammo_sae.arguments import read_functions
from mammo_sae.steps import STEPS

PROJECT = Path(__file__).parents[1]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]


def commands() -> list[tuple[str, list[str]]]:
    """Return each command of the pages' blocks of code, as page and words."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            for line in block.replace("\\\n", " ").splitlines():
                if re.match(r"\S*(python -m mammo_sae|snakemake) ", line):
                    found.append((page.name, shlex.split(line, comments=True)))
    return found


def test_programs_are_those_of_the_projects_environment():
    programs = {(page, words[0]) for page, words in commands()}
    assert {page for page, _ in programs} >= {"README.md", "report.md", "slurm.md", "vindr.md"}
    assert {program for _, program in programs} == {".venv/bin/python", ".venv/bin/snakemake"}


def test_verbs_are_those_of_the_command_line():
    given = {words[3] for _, words in commands() if words[1:3] == ["-m", "mammo_sae"]}
    known = {name.replace("_", "-") for name in (*STEPS, *read_functions(people.__name__))}
    assert given - {"--help"}
    assert given <= known | {"--help"}


def test_what_follows_configfile_is_a_configuration():
    """Snakemake takes every word up to the next option for one; a target there ends the run."""
    for page, words in commands():
        if "--configfile" in words:
            rest = words[words.index("--configfile") + 1 :]
            end = next((i for i, word in enumerate(rest) if word.startswith("-")), len(rest))
            assert end
            assert all(word.endswith(".yaml") for word in rest[:end]), (page, words)


def test_the_readme_makes_one_figure_in_the_order_that_works():
    made = [words for page, words in commands() if page == "README.md" and words[-1] == "mine.yaml"]
    assert any(word.endswith(".png") for words in made for word in words)
