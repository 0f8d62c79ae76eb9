"""Additions by the instructions of docs/architecture.md: changed files and stale jobs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from adding import add_analysis, add_dataset, add_source, add_variant
from mammo_sae.config import read_config
from mammo_sae.digests import read_pins
from mammo_sae.steps import STEPS

PROJECT = Path(__file__).parents[1]
PARTS = ("Snakefile", "workflow", "src", "config", "profiles", "envs", "docs", "tests")
PACKAGE = "src/mammo_sae/"
# Addition -> the function that adds it, and the files of the project that this changes.
ADDITIONS = {
    "analysis": (
        add_analysis,
        {f"{PACKAGE}{name}.py" for name in ("config", "steps")}
        | {f"{PACKAGE}analysis/darkness.py", f"{PACKAGE}analysis/settings.py"}
        | {f"{PACKAGE}resources.py"}
        | {"workflow/rules/analysis.smk", "workflow/rules/targets.smk"},
    ),
    "variant": (add_variant, {f"{PACKAGE}sae/variants/thinned.py", f"{PACKAGE}sae/settings.py"}),
    "dataset": (add_dataset, {f"{PACKAGE}cohorts/second.py", f"{PACKAGE}cohorts/settings.py"}),
    "encoder source": (
        add_source,
        {f"{PACKAGE}encoders/sources/zeros.py", f"{PACKAGE}encoders/settings.py"},
    ),
}

# Prints the settings and code of every job, then writes the generated files.
PROGRAM = """
import json, sys
from pathlib import Path
sys.path.insert(0, "tests")
import test_adding, test_modules, test_slices
from mammo_sae.config import default_yaml
print(json.dumps(test_adding.jobs_of_all_steps()))
Path("config/config.yaml").write_text(default_yaml())
test_modules.write_table()
test_slices.write_table()
"""


def jobs_of_all_steps() -> dict[str, list[str]]:
    """Return the settings and the code of a job of every step."""
    config, pins = read_config([]), read_pins(PROJECT / "envs" / "constraints.txt")
    wildcards = {"part": "test", "layer": "head", "sae": "topk", "seed": "0"}
    found = {}
    for name, step in STEPS.items():
        encoder = "finetuned" if name == "finetune" else "pretrained"
        settings = "{}"
        if step.settings is not None:
            settings = config.slice(name, {**wildcards, "encoder": encoder})
        found[name] = [settings, step.code(pins, settings)]
    return found


def python(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def contents(folder: Path) -> dict[str, bytes]:
    """Return the project's files by their path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not {"__pycache__", ".snakemake"} & {*path.parts}
    }


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> tuple[Path, dict]:
    """A project with one addition of each kind, and the files that each addition changed."""
    folder = tmp_path_factory.mktemp("adding")
    for part in PARTS:
        source, target = PROJECT / part, folder / part
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    touched = {}
    for name, (add, _) in ADDITIONS.items():
        before = contents(folder)
        add(folder)
        after = contents(folder)
        touched[name] = {path for path, text in after.items() if before.get(path) != text}
    return folder, touched


@pytest.fixture(scope="module")
def jobs(copied) -> dict:
    """The jobs of the project with one addition of each kind, after writing generated files."""
    return json.loads(python(copied[0], "-c", PROGRAM))


def test_additions_make_no_other_step_stale(jobs):
    before = jobs_of_all_steps()
    assert jobs.keys() - before.keys() == {"darkness"}
    assert {name: jobs[name] for name in before} == before


@pytest.mark.parametrize("kind", ADDITIONS)
def test_an_addition_touches_the_files_that_the_documentation_names_and_no_other(copied, kind):
    _, touched = copied
    assert touched[kind] == ADDITIONS[kind][1]
    page = (PROJECT / "docs" / "architecture.md").read_text()
    [words] = [
        part for part in page.split("\n- *") if part.lower().partition("*")[0].endswith(kind)
    ]
    for file in touched[kind]:
        folder, _, name = file.removeprefix(PACKAGE).rpartition("/")
        assert name in words or f"{folder}/" in words, file


@pytest.mark.workflow
def test_additions_are_part_of_the_settings_and_are_planned(copied, jobs, tmp_path):
    folder, _ = copied
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("saes: {thin: {variant: {name: thinned}, latents: 64}}")
    plan = python(folder, "-m", "snakemake", "-n", "--cores", "2", "--configfile", str(overlay))
    assert "analysis/finetuned/head/thin/seed0/darkness.parquet" in plan
    assert "tables/darkness.csv" in plan
    assert "sae/finetuned/head/thin/seed0/sae.json" in plan


@pytest.mark.soak
def test_the_projects_tests_pass_with_what_is_added(copied, jobs):
    folder, _ = copied
    files = ("modules", "rules", "slices", "config", "cli", "stale", "settings", "digests")
    python(
        folder,
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", "."),
        *(f"tests/test_{name}.py" for name in files),
    )
