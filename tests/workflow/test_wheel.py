"""A wheel has the command line and the workflow: it is built, installed and asked for a plan."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.workflow

PROJECT = Path(__file__).parents[2]
BUILT_FROM = (
    *("Snakefile", "workflow", "src", "config", "profiles", "envs"),
    *("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"),
)
# The files that the wheel takes from the checkout besides the package.
INSIDE = ("Snakefile", "workflow", "config", "envs", "profiles")


def ask(*words: str | Path, cwd: Path) -> str:
    """Run a command without this checkout on its path, and return what it prints."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    for part in BUILT_FROM:
        source = PROJECT / part
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source, folder / "source" / part, ignore=ignored)
        else:
            (folder / "source").mkdir(exist_ok=True)
            shutil.copy(source, folder / "source" / part)
    ask(
        *(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"),
        *("-w", folder / "made", folder / "source"),
        cwd=folder,
    )
    (made,) = (folder / "made").glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder of an environment with the wheel, on top of this environment's packages."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, symlinks=True)
    site = sysconfig.get_path("purelib", vars={"base": str(folder)})
    # A path in a .pth file is not searched for further .pth files, such as that of the checkout.
    (Path(site) / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    ask(
        *(sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install"),
        *("--no-deps", "--no-index", "--ignore-installed", wheel),
        cwd=folder,
    )
    return folder


def test_the_wheel_has_every_file_of_the_workflow(installed):
    (package,) = installed.glob("lib/*/site-packages/mammo_sae")
    for part in INSIDE:
        source = PROJECT / part
        files = [source] if source.is_file() else [p for p in source.rglob("*") if p.is_file()]
        assert files
        for file in files:
            copy = package / "workflow_files" / file.relative_to(PROJECT)
            assert copy.read_bytes() == file.read_bytes()
    sources = {p.relative_to(PROJECT / "src" / "mammo_sae") for p in
               (PROJECT / "src" / "mammo_sae").rglob("*")
               if p.is_file() and "__pycache__" not in p.parts}  # fmt: skip
    assert {path for path in sources if not (package / path).is_file()} == set()


def test_the_installed_package_is_used_and_not_the_checkout(installed, tmp_path):
    said = ask(
        installed / "bin" / "python", "-c",
        "import mammo_sae.config as c; print(c.__file__); print(c.WORKFLOW)", cwd=tmp_path,
    )  # fmt: skip
    assert [line.startswith(str(installed)) for line in said.splitlines()] == [True, True]


def test_the_command_line_is_installed(installed, tmp_path):
    said = ask(installed / "bin" / "mammo-sae", "--help", cwd=tmp_path)
    assert "train-sae" in said
    config = ask(installed / "bin" / "mammo-sae", "default-config", cwd=tmp_path)
    assert config == (PROJECT / "config" / "config.yaml").read_text()


def test_the_workflow_inside_the_wheel_makes_a_plan(installed, tmp_path):
    shutil.copy(Path(__file__).with_name("micro.yaml"), tmp_path)
    where = "import mammo_sae.config as c; print(c.WORKFLOW / 'Snakefile')"
    snakefile = ask(installed / "bin" / "python", "-c", where, cwd=tmp_path).strip()
    told = ask(
        *(installed / "bin" / "python", "-m", "snakemake", "-n", "-s", snakefile),
        *("results/micro/tables/latents.csv", "--configfile", "micro.yaml"),
        cwd=tmp_path,
    )
    assert re.search(r"^train_sae +1$", told, re.MULTILINE)
