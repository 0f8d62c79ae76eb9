from __future__ import annotations

from pathlib import Path

import pytest

import mammo_sae as ms
from small_run import write_run


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """The folder of a small run, `results/phantom`. Tests leave it unchanged."""
    return write_run(tmp_path_factory.mktemp("project") / "results")


@pytest.fixture
def run(folder) -> ms.Run:
    return ms.open(folder)


@pytest.fixture(scope="session")
def dicom(folder):
    """Return the DICOM file of an image of the test split, by its id."""
    from mammo_sae.cohorts.find import find_files
    from mammo_sae.cohorts.settings import PhantomCohort

    def file_of(image_id: str) -> Path:
        source = folder / "source" / "test"
        ((_, path),) = find_files(PhantomCohort(), [source], image_id)
        return path

    return file_of
