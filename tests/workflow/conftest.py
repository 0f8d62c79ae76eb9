"""A tiny run of the real workflow in a copy of the project, shared by the tests of this folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PARTS = ("Snakefile", "workflow", "src", "config", "profiles", "envs")
TINY = Path(__file__).with_name("tiny.yaml")
MICRO = Path(__file__).with_name("micro.yaml")


@dataclass
class Project:
    """A copy of the project in which snakemake is run."""

    folder: Path
    config: tuple[str, ...] = ("tiny.yaml",)

    @property
    def results(self) -> Path:
        return self.folder / "results" / Path(self.config[0]).stem

    def snakemake(self, *arguments: str, overlay: str | None = None, check: bool = True):
        """Run snakemake. The YAML in `overlay` replaces values of the configuration."""
        files = list(self.config)
        if overlay is not None:
            (self.folder / "overlay.yaml").write_text(overlay)
            files.append("overlay.yaml")
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "snakemake",
                "--cores",
                "2",
                *arguments,
                "--configfile",
                *files,
            ],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if check:
            assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
        return done

    def stale(self, *arguments: str, overlay: str | None = None) -> dict[str, int]:
        """Return the number of jobs of each rule in a dry run, without the target rule."""
        text = self.snakemake("-n", *arguments, overlay=overlay)
        output = text.stdout + text.stderr
        if "Nothing to be done" in output:
            return {}
        block = output.split("Job stats:")[-1]
        jobs = {
            name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", block, re.MULTILINE)
        }
        return {name: count for name, count in jobs.items() if name not in {"all", "total"}}

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace text of a file. The text must exist."""
        path = self.folder / file
        text = path.read_text()
        assert old in text, f"{file} no longer holds {old!r}: adapt this test"
        path.write_text(text.replace(old, new, 1))


def copy_project(folder: Path, config: Path = TINY) -> Project:
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        source = PROJECT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / part)
    shutil.copy(config, folder)
    return Project(folder, config=(config.name,))


@pytest.fixture(scope="session")
def micro_project() -> Callable[[Path], Project]:
    """Copy the project to a folder, for a run of the smallest configuration there."""
    return lambda folder: copy_project(folder, MICRO)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Project:
    """The complete tiny run. Tests leave it unchanged."""
    project = copy_project(tmp_path_factory.mktemp("finished"))
    project.snakemake()
    return project


@pytest.fixture(scope="session")
def micro_finished(micro_project, tmp_path_factory) -> Project:
    """The complete smallest run. Tests leave it unchanged."""
    project = micro_project(tmp_path_factory.mktemp("micro"))
    project.snakemake()
    return project


@pytest.fixture
def restored(finished):
    """The finished project. Sources and configuration are restored after the test."""
    kept = {path: path.read_bytes() for path in _sources(finished.folder)}
    yield finished
    for path in {*_sources(finished.folder)} - kept.keys():
        path.unlink()
    for path, content in kept.items():
        if not path.is_file() or path.read_bytes() != content:
            path.write_bytes(content)


def _sources(folder: Path) -> list[Path]:
    return [
        path
        for part in PARTS
        for path in [folder / part, *sorted((folder / part).rglob("*"))]
        if path.is_file() and "__pycache__" not in path.parts
    ]
