"""A full or read-only disk gives one sentence and no incomplete file."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mammo_sae.records import find_records, verify_record
from mammo_sae.stores.publish import find_manifests, verify_store

pytestmark = [pytest.mark.workflow, pytest.mark.soak]

SIZE = 64  # MB of the disk


@pytest.fixture
def on_a_small_disk(micro_project, tmp_path):
    """A project whose results are on a disk of 64 MB."""
    project = micro_project(tmp_path)
    disk = project.folder / "results"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}m", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small disk can't be mounted here: {done.stderr.strip()}")
    yield project
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def _said(done, results: Path) -> str:
    """Return the output and the logs of a run."""
    logs = [path.read_text() for path in results.glob("logs/**/*") if path.is_file()]
    return "\n".join([done.stdout, done.stderr, *logs])


def _problems(results: Path) -> list[str]:
    """Return the faults of all files that manifests or records name."""
    stores = [problem for path in find_manifests(results) for problem in verify_store(path)]
    return stores + [problem for path in find_records(results) for problem in verify_record(path)]


@pytest.mark.parametrize("free", [1, 6, 16])
def test_a_full_disk_gives_a_message_and_no_incomplete_file(on_a_small_disk, free):
    project = on_a_small_disk
    ballast = project.folder / "results" / "ballast"
    ballast.write_bytes(bytes((SIZE - free) << 20))
    done = project.snakemake("--keep-going", check=False)
    assert done.returncode == 1
    said = _said(done, project.results)
    assert "No space left on device; make room and run again" in said
    assert "Traceback" not in said
    assert _problems(project.results) == []
    ballast.unlink()
    project.snakemake("--until", "codes")
    assert _problems(project.results) == []


def test_results_that_can_no_longer_be_written_are_named(on_a_small_disk):
    project = on_a_small_disk
    project.snakemake("--until", "images")
    disk = str(project.folder / "results")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    done = project.snakemake(check=False)
    assert done.returncode == 1
    said = _said(done, project.results)
    assert "Read-only file system" in said
    assert "Traceback" not in said
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    project.snakemake("--until", "codes")
    assert _problems(project.results) == []
