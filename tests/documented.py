"""The code blocks of the documentation, and the test that runs each command of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PAGES = [
    *(PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    PROJECT / "config" / "README.md",
    *sorted((PROJECT / "docs").glob("*.md")),
]

HERE = "tests/test_documented_commands.py"
PLANNED = f"{HERE}::test_a_run_of_the_workflow_is_planned"
README = f"{HERE}::test_the_readmes_own_data_is_planned"
FIGURE = f"{HERE}::test_a_figure_named_before_configfile_is_planned"
RUN = f"{HERE}::test_a_command_runs"
MADE = f"{HERE}::test_a_target_of_make_has_a_recipe"
ON_A_RUN = "tests/library/test_documented_api.py::test_a_command_on_a_run_works"
ON_OWN_DATA = "tests/own_data/test_documented_own_data.py::test_a_command_works"
FIGURES = "tests/report/test_paper_figures.py"
PDF = f"{FIGURES}::test_a_pdf_has_its_letters_as_an_embedded_font"
SVG = f"{FIGURES}::test_an_svg_has_its_text_as_text_and_its_images_in_print_resolution"
COMPARED = (
    "tests/atlas/test_runs.py::"
    "test_the_page_has_both_runs_and_says_on_which_images_latents_were_matched"
)
WITH_REPORT = "tests/workflow/test_end_to_end.py::test_the_report_is_made_from_the_finished_run"
OWN_DATA = "tests/workflow/test_own_data.py::test_24_renamed_dicoms_and_an_export_reach_the_report"
SLURM = "tests/workflow/test_slurm.py::test_the_run_is_finished_after_all_that"
REPRODUCE = (
    "tests/workflow/test_reproduce.py::test_the_whole_run_ends_in_a_report_that_shows_the_table"
)
VINDR = "tests/workflow/test_vindr.py::test_the_report_shows_where_the_encoders_come_from"
STALE = "tests/workflow/test_stale.py::test_a_finished_run_is_not_stale"
RANKS = "tests/encoders/test_ranks.py::test_two_ranks_train_as_one_process"
WHEEL = "tests/workflow/test_wheel.py::test_the_command_line_is_installed"
IN_WHEEL = "tests/workflow/test_wheel.py::test_the_workflow_inside_the_wheel_makes_a_plan"
PINS = (
    "tests/test_containers.py::test_torch_is_installed_first_and_the_pins_hold_as_in_the_makefile"
)
CONTAINERS = "tests/test_containers.py::test_the_command_of_the_containers_is_one_of_the_package"
FETCHED = "tests/encoders/test_hub.py::test_a_file_is_fetched_to_its_place"
SERVED = "tests/atlas/test_serve.py::test_the_verb_serves_until_it_is_interrupted"
BY_HAND = "a person edits a file, or starts a program that is not of this project"

VERB = ".venv/bin/python -m mammo_sae"
SNAKEMAKE = ".venv/bin/snakemake"
# Command -> the test that runs it, or that runs the same command on something small. `...` at the
# end stands for any further words.
RUN_BY = {
    f"{VERB} --help": RUN,
    f"{VERB} slice train_sae layer=head sae=topk seed=0": RUN,
    f"{VERB} plan": RUN,
    f"{VERB} plan --configfile mine.yaml": RUN,
    f"{VERB} verify results/phantom": ON_A_RUN,
    f"{VERB} figure-confounds ...": ON_A_RUN,
    f"run=pretrained/head/topk/seed0; {VERB} figure-latents ...": ON_A_RUN,
    f"{VERB} export-sae results/phantom --layer blocks.10 --output exported": ON_A_RUN,
    f"{VERB} compare results/first results/second --output comparison": COMPARED,
    f"{VERB} figures results/phantom --format pdf": PDF,
    f"{VERB} figures results/phantom --format svg ...": SVG,
    f"{VERB} init /data/own": ON_OWN_DATA,
    f"{VERB} init /data/own --columns patient=Fallnummer malignant=Pathologie:maligne": ON_OWN_DATA,
    f"{VERB} doctor mine.yaml --pixels": ON_OWN_DATA,
    f"{VERB} run mine.yaml --report": OWN_DATA,
    f"{VERB} serve results/phantom --port 8000": SERVED,
    f"{VERB} stale --configfile mine.yaml": STALE,
    f"{VERB} fetch-checkpoint ...": FETCHED,
    ".venv/bin/python -m mammo_sae.compute.launch --standalone ...": RANKS,
    "srun --nodes 2 ...": RANKS,
    f"{SNAKEMAKE} -n": PLANNED,
    f"{SNAKEMAKE} -n --configfile config/config.yaml mine.yaml": PLANNED,
    f"{SNAKEMAKE} --cores all": WITH_REPORT,
    f"{SNAKEMAKE} --cores all --configfile mine.yaml": README,
    f"{SNAKEMAKE} --cores all results/vindr/figures/cohort.png --configfile mine.yaml": (FIGURE),
    f"{SNAKEMAKE} --cores all --report results/phantom/report.html": WITH_REPORT,
    f"{SNAKEMAKE} --cores all --configfile mine.yaml --report results/vindr/report.html": (
        WITH_REPORT
    ),
    f"{SNAKEMAKE} --configfile mine.yaml --report results/mine/report.html": WITH_REPORT,
    f"{SNAKEMAKE} --cores all results/phantom/atlas.json": PLANNED,
    f"{SNAKEMAKE} --cores all --configfile config/config.yaml config/random_encoder.yaml": PLANNED,
    f"{SNAKEMAKE} --cores all --set-resources finetune:ranks=2": PLANNED,
    f"{SNAKEMAKE} --cores all --configfile config/reproduce.yaml mine.yaml": REPRODUCE,
    f"{SNAKEMAKE} --cores all --configfile config/vindr.yaml mine.yaml": VINDR,
    f"{SNAKEMAKE} --configfile config/vindr.yaml mine.yaml --report results/vindr/report.html": (
        VINDR
    ),
    f"{SNAKEMAKE} --profile profiles/slurm --configfile mine.yaml -n": PLANNED,
    f"{SNAKEMAKE} --profile profiles/slurm --configfile mine.yaml": SLURM,
    "make ...": MADE,
    "rm -rf build": WHEEL,
    "python -m pip wheel --no-deps --wheel-dir dist .": WHEEL,
    "python -m pip install torch==$(sed -n 's/^torch==//p' envs/constraints.txt)": (PINS),
    "python -m pip install --constraint envs/constraints.txt dist/mammo_sae-*.whl": (WHEEL),
    "mammo-sae --help": WHEEL,
    "python -c \"import mammo_sae.config as c; print(c.WORKFLOW / 'Snakefile')\"": (IN_WHEEL),
    "docker build -t mammo-sae .": CONTAINERS,
    'docker run --rm -v "$PWD":/work mammo-sae --help': CONTAINERS,
    "apptainer build mammo-sae.sif apptainer.def": CONTAINERS,
    "apptainer run mammo-sae.sif --help": CONTAINERS,
    "git clone <this repository> mammo-sae && cd mammo-sae": BY_HAND,
    "$EDITOR ...": BY_HAND,
    "tmux": BY_HAND,
}


@dataclass(frozen=True)
class Block:
    """A code block: its page, the number of its first line, its language and its text."""

    page: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        """The page and the line, for messages."""
        return f"{self.page}:{self.line}"


def blocks(language: str = "") -> list[Block]:
    """Return the code blocks of all pages in order, or those of one language."""
    found = []
    for page in PAGES:
        indent, start, named, inside = "", 0, "", list[str]()
        for number, line in enumerate(page.read_text().splitlines(), start=1):
            fence = re.fullmatch(r"( *)```(\S*)", line)
            if fence and not start:
                (indent, named), start, inside = fence.groups(), number, []
            elif fence:
                name = str(page.relative_to(PROJECT))
                text = "".join(f"{one.removeprefix(indent)}\n" for one in inside)
                found.append(Block(name, start, named, text))
                start = 0
            else:
                inside.append(line)
        assert not start, f"{page}:{start} is not closed"
    return [block for block in found if language in {"", block.language}]


def commands() -> dict[str, list[str]]:
    """Return command -> places in the pages, without comments and with single blanks.

    A command that goes on over several lines is one command. An assignment of a variable belongs to
    the command below it.
    """
    found: dict[str, list[str]] = {}
    for block in blocks("sh"):
        before = ""
        for line in block.text.replace("\\\n", " ").splitlines():
            command = " ".join(re.sub(r"(^|\s)#.*", "", line).split())
            if re.fullmatch(r"\w+=\S+", command):
                before += f"{command}; "
            elif command:
                found.setdefault(before + command, []).append(block.place)
                before = ""
    return found


def row_of(command: str) -> str | None:
    """Return the key of `RUN_BY` for a command, None if there is none."""
    if command in RUN_BY:
        return command
    open_rows = [row for row in RUN_BY if row.endswith(" ...") and command.startswith(row[:-3])]
    return max(open_rows, key=len, default=None)


def run_by(test: str) -> list[str]:
    """Return the commands that a test runs."""
    return [one for one in commands() if (row := row_of(one)) is not None and RUN_BY[row] == test]
