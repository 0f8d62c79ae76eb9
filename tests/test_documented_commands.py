"""Commands in the README and the pages of docs/ work when they are copied unchanged."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mammo_sae import people
from mammo_sae.arguments import parse, parser_of, read_functions
from mammo_sae.steps import STEPS

PROJECT = Path(__file__).parents[1]
PAGES = [
    *(PROJECT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((PROJECT / "docs").glob("*.md")),
]


def commands() -> list[tuple[str, list[str]]]:
    """Return each command in the code blocks of the pages, as page and words."""
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


def test_options_are_those_of_the_verbs_and_none_is_missing():
    """Parsing a command raises an error if an option is unknown or a needed one is missing."""
    for page, words in commands():
        if words[1:3] != ["-m", "mammo_sae"] or words[3] == "--help" or ">" in words:
            continue
        name = words[3].replace("-", "_")
        if name in STEPS:
            parser = parser_of(page, read_functions(STEPS[name].module)["run"], places=False)
        else:
            parser = parser_of(page, read_functions(people.__name__)[name], places=True)
        assert parse(parser, words[4:]) is not None


def test_options_of_snakemake_are_known_to_the_installed_version():
    from snakemake.cli import get_argument_parser

    parser = get_argument_parser()
    for _, words in commands():
        if words[0].endswith("snakemake"):
            parser.parse_args([word for word in words[1:] if word not in {"&&", "&"}])


def test_targets_of_make_exist():
    made = set(re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    named = {
        name
        for page in PAGES
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
        for name in re.findall(r"^make ([a-z][\w-]*)", block, re.MULTILINE)
    }
    assert {"demo", "test", "docs"} <= named
    assert named <= made


def test_every_word_after_configfile_is_a_configuration():
    """Snakemake reads words up to the next option as files, so a target there ends the run."""
    for page, words in commands():
        if "--configfile" in words:
            rest = words[words.index("--configfile") + 1 :]
            end = next((i for i, word in enumerate(rest) if word.startswith("-")), len(rest))
            assert end
            assert all(word.endswith(".yaml") for word in rest[:end]), (page, words)


def test_the_readme_makes_one_figure_in_the_order_that_works():
    made = [words for page, words in commands() if page == "README.md" and words[-1] == "mine.yaml"]
    assert any(word.endswith(".png") for words in made for word in words)


@pytest.fixture
def plan(tmp_path):
    """Return a function that asks Snakemake for its plan, in a folder with a configuration."""
    (tmp_path / "mine.yaml").write_text("name: vindr\n")

    def dry_run(*words):
        command = [sys.executable, "-m", "snakemake", "-s", str(PROJECT / "Snakefile"), "-n"]
        done = subprocess.run(
            [*command, *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    return dry_run


def test_a_figure_named_before_configfile_is_planned(plan):
    status, told = plan("results/vindr/figures/cohort.png", "--configfile", "mine.yaml")
    assert status == 0, told
    assert re.search(r"^figure_cohort +1$", told, re.MULTILINE)


def test_the_readme_has_the_message_of_a_figure_named_after_configfile(plan, tmp_path):
    figure = tmp_path / "results" / "vindr" / "figures" / "cohort.png"
    words = ["--configfile", "mine.yaml", str(figure.relative_to(tmp_path))]
    readme = (PROJECT / "README.md").read_text()
    status, told = plan(*words)
    assert status == 1
    assert f"`{error(told)}`" in readme
    figure.parent.mkdir(parents=True)
    figure.write_bytes(b"\x89PNG\r\n")
    assert f"`{error(plan(*words)[1]).partition(':')[0]}`" in readme


def error(told: str) -> str:
    """Return the last line of a traceback."""
    return re.findall(r"^\w+Error: .*$", told, re.MULTILINE)[-1]
