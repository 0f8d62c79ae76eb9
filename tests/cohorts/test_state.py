"""The content of an archive's state. tests/workflow checks Snakemake's use of it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mammo_sae.cohorts.pseudonyms import load_pseudonyms
from mammo_sae.cohorts.settings import VindrCohort
from mammo_sae.cohorts.state import archive_state

SHARDS = 7


@pytest.fixture
def state(vindr_folder):
    for name in ("s1/i1", "s1/i2", "s2/i3", "s2/i4"):
        path = vindr_folder / "images" / f"{name}.dicom"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"pixels")
    settings = VindrCohort(source=str(vindr_folder), shards=SHARDS)
    return lambda: archive_state(settings, [vindr_folder])


def changed(before, after) -> set[int]:
    return {n for n in range(SHARDS) if before.shards[n] != after.shards[n]}


def shard(patient: str) -> int:
    return load_pseudonyms(None).shard(patient, SHARDS)


def test_the_patients_differ_in_shard():
    assert shard("s1") != shard("s2")


@pytest.mark.parametrize(
    ("file", "old", "new", "patients"),
    [
        ("finding_annotations.csv", "10.5,20,40.25", "10.5,20,41", {"s1"}),
        ("breast-level_annotations.csv", "s2,x,i3,R,CC", "s2,x,i3,R,MLO", {"s2"}),
        ("breast-level_annotations.csv", "BI-RADS 1,DENSITY D", "BI-RADS 2,DENSITY C", set()),
        ("metadata.csv", "ACME", "EMCA", set()),
    ],
)
def test_a_changed_cell_changes_the_tables_and_the_conversion_that_uses_it(
    vindr_folder, state, file, old, new, patients
):
    before = state()
    path = vindr_folder / file
    path.write_text(path.read_text().replace(old, new, 1))
    after = state()
    assert after.tables != before.tables
    assert changed(before, after) == {shard(patient) for patient in patients}


def test_a_file_that_is_changed_or_removed_changes_its_patients_shard(vindr_folder, state):
    before = state()
    path = vindr_folder / "images/s2/i3.dicom"
    path.write_bytes(b"other pixels")
    after = state()
    assert changed(before, after) == {shard("s2")}
    path.unlink()
    assert changed(after, state()) == {shard("s2")}


def test_reading_moving_and_rewriting_with_the_same_times_change_nothing(vindr_folder, state):
    before = state()
    path = vindr_folder / "images/s1/i1.dicom"
    seen = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    moved = vindr_folder.rename(vindr_folder.with_name("moved"))
    settings = VindrCohort(source=str(moved), shards=SHARDS)
    assert archive_state(settings, [moved]) == before


def test_looking_needs_no_library_that_reads_images():
    code = (
        "import sys, mammo_sae.cohorts.state\n"
        "print({'pydicom', 'torch', 'zarr', 'numcodecs'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
