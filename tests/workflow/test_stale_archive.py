"""`python -m mammo_sae stale` on a user's own archive: files and tables by name, in any folder.

Nothing is computed. With --touch, Snakemake accepts empty files as results.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.workflow

PROJECT = Path(__file__).parents[2]
SHARDS = 3
MADE = [
    "results/own/cohort/summary.json",
    "results/own/cohort/splits.parquet",
    *(f"results/own/images/{shard}.json" for shard in range(SHARDS)),
]
CONFIGURATION = f"""name: own
cohort:
  kind: table
  source: archive
  key_file: secret.key
  shards: {SHARDS}
"""


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A working folder outside the project, whose tables and image stores count as made."""
    folder = tmp_path_factory.mktemp("working")
    (folder / "archive").mkdir()
    rows = [
        f"{side}{patient}.dcm,p{patient},{split},CC,{side},{patient % 2},{patient % 2}"
        for patient, split in enumerate(("training", "training", "training", "test", "test"))
        for side in "LR"
    ]
    for row in rows:
        (folder / "archive" / row.split(",")[0]).write_bytes(b"pixels")
    header = "file,patient_id,split,view,side,Mass,Suspicious Calcification"
    (folder / "archive" / "images.csv").write_text("\n".join([header, *rows]) + "\n")
    (folder / "secret.key").write_text("a secret of this test's own, of some length\n")
    (folder / "own.yaml").write_text(CONFIGURATION)
    for name in (*MADE, "results/own/cohort/images.parquet", "results/own/cohort/findings.parquet"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for shard in range(SHARDS):
        (folder / f"results/own/images/{shard}.zarr").mkdir()
    done = run(
        folder,
        *("snakemake", "-s", str(PROJECT / "Snakefile"), "--cores", "1", "--forceall", "--touch"),
        *(*MADE, "--configfile", "own.yaml"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def stale(made):
    """Return a function that runs `stale` in the project's folder. Restore files at the end."""
    files = [*(made / "archive").iterdir(), made / "own.yaml"]
    kept = {path: (path.read_bytes(), path.stat()) for path in files}

    def ask() -> list[str]:
        done = run(
            PROJECT, "mammo_sae", "stale",
            "--directory", str(made), "--configfile", str(made / "own.yaml"),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        # For steps that never ran, this is the only information.
        return [
            line for line in done.stdout.splitlines() if re.match("(?!not there|what fol)", line)
        ]

    yield ask
    for path, (content, seen) in kept.items():
        path.write_bytes(content)
        os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def test_the_folder_given_is_looked_at(stale):
    assert not any(re.search(r"\b(cohort|images|splits)\b", line) for line in stale())


def test_a_fault_of_the_archive_gives_one_sentence(made):
    done = run(PROJECT, "mammo_sae", "stale", "--configfile", str(made / "own.yaml"))
    assert done.returncode == 1
    sentence = "error: the workflow can't be planned: key_file secret.key can't be read"
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1


def test_a_changed_image_is_named_by_its_file(made, stale):
    (made / "archive" / "L1.dcm").write_bytes(b"other pixels")
    assert stale()[:-1] == ["archive/L1.dcm changed: images"]


def test_a_table_whose_labels_change_is_named(made, stale):
    table = made / "archive" / "images.csv"
    table.write_text(
        table.read_text().replace("L1.dcm,p1,training,CC,L,1,1", "L1.dcm,p1,training,CC,L,0,1")
    )
    assert stale()[:-1] == ["source/images.csv of the archive changed: cohort"]


def test_changes_of_splits_in_a_table_are_explained_in_words(made, stale):
    table = made / "archive" / "images.csv"
    table.write_text(table.read_text().replace("p2,training", "p2,test"))
    assert stale()[:-1] == [
        "source/images.csv of the archive changed: cohort",
        "splits of the archive changed: splits",
    ]


def test_an_error_about_a_folder_gives_both_of_its_names(made, stale):
    (made / "own.yaml").write_text(CONFIGURATION.replace("archive", str(made / "archive")))
    both = f"['archive'] -> ['{made / 'archive'}']"
    assert stale()[:-1] == [
        f'cohort.source: "archive" -> "{made / "archive"}": cohort',
        f"folders of cohort: {both}: cohort",
        f"folders of images: {both}: images (3 jobs)",
        f"folders of splits: {both}: splits",
    ]
