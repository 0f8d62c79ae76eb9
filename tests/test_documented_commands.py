"""Code blocks in the README and the pages of docs/ work when they are copied unchanged.

Each command is run here, or by the test that `documented.RUN_BY` names. Each configuration is read.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import documented
from documented import BY_HAND, MADE, PAGES, PLANNED, PROJECT, README, RUN, RUN_BY, blocks, run_by
from mammo_sae import cli, people
from mammo_sae.arguments import parse, parser_of, read_functions
from mammo_sae.config import read_config
from mammo_sae.phantom import archive
from mammo_sae.phantom.settings import PatientCounts, PhantomSettings
from mammo_sae.steps import STEPS

LANGUAGES = {"sh", "yaml", "python", "snakemake", "toml", "mermaid", "text"}
# Language -> the page of its blocks, and the test that reads them there.
READ_BY = {
    "python": ("docs/api.md", "tests/library/test_documented_api.py::test_a_block_runs"),
    "snakemake": (
        "docs/install.md",
        "tests/workflow/test_module.py::test_the_other_workflow_plans_the_jobs_that_this_one_plans",
    ),
    "toml": (
        "docs/architecture.md",
        "tests/test_extensions.py::test_the_documented_entry_points_are_those_of_the_package",
    ),
    "mermaid": (
        "docs/architecture.md",
        "tests/test_rooms.py::test_the_page_shows_the_rooms_as_they_are",
    ),
}
# Page -> the configuration over which those of the page are laid.
BASES = {"docs/vindr.md": "config/vindr.yaml", "docs/reproduce.md": "config/reproduce.yaml"}
TOLD = {"--help": "train-sae", "slice": '"latents":', "plan": "The results need"}


def commands() -> list[tuple[str, list[str]]]:
    """Return the commands of this project's programs in the pages, as page and words."""
    found = []
    for line, places in documented.commands().items():
        command = re.sub(r"^(\w+=\S+; )+", "", line)  # without variables
        if re.match(r"\S*(python -m mammo_sae|snakemake) ", command):
            for place in places:
                page = Path(place.partition(":")[0]).name
                found.append((page, shlex.split(command)))
    return found


def spans(start: str) -> set[str]:
    """Return the commands between backticks in the text of the pages that begin in a given way."""
    found = set()
    for page in PAGES:
        text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        found |= {" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)}
    return {span for span in found if span.startswith(start)}


def test_every_block_has_a_language_and_a_test_for_it():
    unknown = [block.place for block in blocks() if block.language not in LANGUAGES]
    assert unknown == []
    for language, (page, _) in READ_BY.items():
        assert {block.page for block in blocks(language)} == {page}
    for block in blocks("text"):
        assert not re.search(r"^(\.venv/bin/|make |python )", block.text, re.MULTILINE), block.place


def test_every_command_is_run_by_a_test_and_every_row_is_of_a_command():
    rows = {command: documented.row_of(command) for command in documented.commands()}
    without = {c: documented.commands()[c] for c, row in rows.items() if row is None}
    assert without == {}, "add these commands to documented.RUN_BY, with the tests that run them"
    assert set(RUN_BY) == set(rows.values())


def test_the_named_tests_exist():
    named = {*RUN_BY.values(), *(test for _, test in READ_BY.values())} - {BY_HAND}
    for test in named:
        file, _, function = test.partition("::")
        text = (PROJECT / file).read_text()
        assert re.search(rf"^def {function}\(", text, re.MULTILINE), test


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder that has the files of the project and a configuration, and is the current one."""
    for name in ("Snakefile", "config", "envs", "profiles", "src", "workflow"):
        (tmp_path / name).symlink_to(PROJECT / name)
    (tmp_path / "mine.yaml").write_text("name: mine\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", run_by(RUN))
def test_a_command_runs(command, place, capsys):
    words = shlex.split(command)[3:]
    cli.run(words)
    assert TOLD[words[0]] in capsys.readouterr().out


@pytest.mark.parametrize("command", run_by(PLANNED))
def test_a_run_of_the_workflow_is_planned(command, place):
    assert_planned(command)


def assert_planned(command: str) -> None:
    words = shlex.split(command)[1:]
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *words, *([] if "-n" in words else ["-n"])],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    told = done.stdout + done.stderr
    assert done.returncode == 0, told[-3000:]
    assert re.search(r"^total +\d+$", told, re.MULTILINE)


def test_the_readmes_own_data_is_planned(place):
    """A folder with VinDr-Mammo's layout takes the place of the one in the README."""
    patients = PatientCounts(training=4, test=4, external=1)
    settings = PhantomSettings(height=96, width=64, patients=patients)
    archive.run(settings.part("training"), place / "data", place / "data.json")
    (place / "pseudonym.key").write_text("0123456789abcdef")
    (block,) = [block for block in blocks("yaml") if block.page == "README.md"]
    text = block.text.replace("/data/vindr-mammo", str(place / "data"))
    text = text.replace("/secure/pseudonym.key", str(place / "pseudonym.key"))
    assert text.count(str(place)) == 2
    (place / "mine.yaml").write_text(text)
    (command,) = run_by(README)
    assert_planned(command)


@pytest.mark.parametrize("command", run_by(MADE))
def test_a_target_of_make_has_a_recipe(command):
    done = subprocess.run(
        [*shlex.split(command), "-n"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.place)
def test_a_configuration_is_accepted(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vit = tmp_path / "data" / "rad-dino"  # its sizes are read from its folder
    vit.mkdir(parents=True)
    (vit / "config.json").write_text('{"model_type": "dinov2"}')
    (vit / "model.safetensors").touch()
    hub = "mammo_sae.encoders.hub_models.configuration_folder"
    monkeypatch.setattr(hub, lambda repository, revision: vit)
    content = yaml.safe_load(block.text)
    if "set-resources" in content:  # a profile of Snakemake
        assert content.keys() == {"set-resources"}
        assert content["set-resources"].keys() <= STEPS.keys()
        return
    file = tmp_path / "mine.yaml"
    file.write_text(block.text.replace("0f3a...", "0f3a" + 60 * "0"))
    base = [PROJECT / BASES[block.page]] if block.page in BASES else []
    read_config([*base, file])


def test_programs_are_those_of_the_projects_environment():
    programs = {(page, words[0]) for page, words in commands()}
    assert {page for page, _ in programs} >= {"README.md", "report.md", "slurm.md", "vindr.md"}
    assert {program for _, program in programs} == {".venv/bin/python", ".venv/bin/snakemake"}


def test_verbs_are_those_of_the_command_line():
    given = {words[3] for _, words in commands() if words[1:3] == ["-m", "mammo_sae"]}
    given |= {span.split()[3] for span in spans(".venv/bin/python -m mammo_sae ")}
    known = {name.replace("_", "-") for name in (*STEPS, *read_functions(people.__name__))}
    assert {"find", "init", "verify"} <= given
    assert given <= known | {"--help"}


def test_options_are_those_of_the_verbs_and_none_is_missing():
    """Parsing a command raises an error if an option is unknown or a needed one is missing."""
    for page, words in commands():
        if words[1:3] != ["-m", "mammo_sae"] or words[3] == "--help":
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


def test_targets_of_make_in_the_text_exist():
    made = set(re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    named = {span.split()[1] for span in spans("make ")} - {".venv/installed"}
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


def test_the_page_on_configurations_makes_one_figure_in_the_order_that_works():
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


def test_the_page_has_the_message_of_a_figure_named_after_configfile(plan, tmp_path):
    figure = tmp_path / "results" / "vindr" / "figures" / "cohort.png"
    words = ["--configfile", "mine.yaml", str(figure.relative_to(tmp_path))]
    page = (PROJECT / "config" / "README.md").read_text()
    status, told = plan(*words)
    assert status == 1
    assert f"`{error(told)}`" in page
    figure.parent.mkdir(parents=True)
    figure.write_bytes(b"\x89PNG\r\n")
    assert f"`{error(plan(*words)[1]).partition(':')[0]}`" in page


def error(told: str) -> str:
    """Return the last line of a traceback."""
    return re.findall(r"^\w+Error: .*$", told, re.MULTILINE)[-1]
