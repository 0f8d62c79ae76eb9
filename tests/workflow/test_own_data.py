"""A person with renamed files and an export reaches the report by init, doctor and run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from openpyxl import Workbook
from PIL import Image
from pydicom.data import get_testdata_file

from mammo_sae.config import load_config
from mammo_sae.phantom.archive import run as write_archive

pytestmark = pytest.mark.workflow

SIZES = """\
images: {preprocessing: clinical, height: 96, width: 64}
encoders: {finetuned: null}
evaluation: {bootstrap_draws: 20}
layers: [head]
saes:
  topk:
    variant: {name: topk, k: 4, k_aux: 8}
    latents: 64
    steps: 10
    batch: 64
    layers: {}
sae_quality: {bootstrap_draws: 20}
latents: {bootstrap_draws: 20, permutation_draws: 99}
interventions: {bootstrap_draws: 20, top_k: [0, 1, 10], random_sets: 2}
probes: {bootstrap_draws: 20, k: [1, 5], folds: 2}
alignment: {bootstrap_draws: 20, permutation_draws: 99, top_latents: 5}
confounds: {bootstrap_draws: 20, permutation_draws: 99, top_latents: 5}
absorption: {bootstrap_draws: 20}
ablation: {bootstrap_draws: 20, random_sets: 2}
inner_ablation: {bootstrap_draws: 20, random_sets: 2}
"""
PHANTOM = {
    "height": 96,
    "width": 64,
    "patients": {"training": 10, "test": 1, "external": 1, "pairs": 2},
}
PUBLIC = ("CT_small.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm", "JPGLosslessP14SV1_1s_1f_8b.dcm")
"""Files of pydicom, by other programs. Here they are taken for mammograms."""
HEADER = ("Bild", "Pat.-Nr.", "Name", "Seite", "Projektion", "ACR-Dichte", "Verkalkung", "Herd")
KEY = "0123456789abcdef"  # `init` keeps an existing key; a new one draws other patients
SIDES = {"L": "links", "R": "rechts"}


def write_own(folder: Path, archive: Path) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Write 24 renamed DICOM files, and return the rows of an export and of its boxes."""
    phantom = load_config({"phantom": PHANTOM}, "test").phantom.part("training")
    write_archive(phantom, archive, archive.with_suffix(".json"))
    breasts = pd.read_csv(archive / "breast-level_annotations.csv", dtype=str)
    findings = pd.read_csv(archive / "finding_annotations.csv", dtype=str)
    folder.mkdir()
    patients = {study: f"{n + 7:04d}" for n, study in enumerate(breasts["study_id"].unique())}
    rows, boxes = [], []
    for number, row in enumerate(breasts.itertuples()):
        name = f"{number + 1:03d}"
        file = archive / "images" / row.study_id / f"{row.image_id}.dicom"
        shutil.copy(file, folder / (name if number % 3 else f"{name}.dcm"))
        own = findings[findings["image_id"] == row.image_id]
        text = " ".join(own["finding_categories"])
        flags = ("ja" if "Calcification" in text else "nein", str(int("Mass" in text)))
        density = row.breast_density[-1]
        rows.append((name, patients[row.study_id], "Müller, Anna", SIDES[row.laterality],
                     row.view_position, density, *flags))  # fmt: skip
        for box in own.dropna(subset=["xmin"]).itertuples():
            kind = "Herd" if "Mass" in box.finding_categories else "Verkalkung"
            boxes.append((name, kind, box.xmin, box.ymin, box.xmax, box.ymax))
    for number, public in enumerate(PUBLIC, start=len(rows) + 1):
        side, patient = "LR"[number % 2], f"{900 + (number - 1) // 2:04d}"
        data = pydicom.dcmread(get_testdata_file(public))
        data.Modality, data.ImageLaterality, data.ViewPosition = "MG", side, "CC"
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        data.PatientName = "MEIER^BERTA"
        data.pop("ContrastBolusAgent", None)  # such images are left out
        data.save_as(folder / f"{number:03d}")
        label = str(number % 2)
        rows.append((f"{number:03d}", patient, "Meier, Berta", SIDES[side], "CC", "B",
                     "nein", label))  # fmt: skip
    return rows, boxes


def write_tables(folder: Path, rows, boxes) -> None:
    """Write the export as Excel for Windows does, and the boxes as a workbook."""
    text = "\r\n".join(";".join(row) for row in (HEADER, *rows)) + "\r\n"
    (folder / "Export Müller.csv").write_bytes(text.encode("cp1252"))
    book = Workbook()
    book.active.append(("Bild", "Befund", "x1", "y1", "x2", "y2"))
    for name, kind, *corners in boxes:
        book.active.append((name, kind, *map(float, corners)))
    book.save(folder / "Befunde.xlsx")


@pytest.fixture(scope="module")
def person(micro_project, tmp_path_factory):
    """A clean copy of the project with 24 renamed DICOM files and an export in it."""
    project = micro_project(tmp_path_factory.mktemp("person"))
    rows, boxes = write_own(project.folder / "own", tmp_path_factory.mktemp("made") / "archive")
    assert len(rows) == 24
    write_tables(project.folder / "own", rows, boxes)
    (project.folder / "sizes.yaml").write_text(SIZES)
    (project.folder / "mine.key").write_text(KEY)
    return project


@pytest.fixture(scope="module")
def reached(person):
    """What `run` said when it had made the report."""
    return reach_the_report(person.folder)


def verb(folder: Path, *words: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "mammo_sae", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "src")},
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def reach_the_report(folder: Path) -> subprocess.CompletedProcess:
    """Call init, doctor and run in a folder, and return the result of run."""
    told = verb(folder, "init", "own")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "images.csv has 24 images of 12 patients: training (12), test (12)" in told.stdout
    told = verb(folder, "doctor", "mine.yaml", "sizes.yaml", "--pixels")
    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stdout.splitlines()[-1] == "Nothing would be refused."
    done = verb(folder, "run", "mine.yaml", "sizes.yaml", "--cores", "2", "--report")
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def check_results(folder: Path) -> None:
    results = folder / "results" / "mine"
    assert (results / "report.html").stat().st_size > 1_000_000
    latents = pd.read_csv(results / "tables" / "latents.csv")
    assert set(latents["concept"]) == {"herd", "verkalkung"}
    summary = json.loads((results / "cohort" / "summary.json").read_text())
    assert summary["splits"]["training"]["images"] == summary["splits"]["test"]["images"] == 12
    for path in [*results.rglob("*.csv"), *results.rglob("*.json"), *results.rglob("*.html")]:
        text = path.read_text(errors="replace")
        assert not re.search("Müller|MEIER|Berta|Export M", text), path


def test_24_renamed_dicoms_and_an_export_reach_the_report(person, reached):
    assert re.search(r"^\d+ jobs to run$", reached.stderr, re.MULTILINE)
    assert "tables and figures: done" in reached.stderr
    assert reached.stdout == "The report is results/mine/report.html; open it in a browser.\n"
    check_results(person.folder)
    boxes = pd.read_parquet(person.folder / "results" / "mine" / "cohort" / "findings.parquet")
    assert len(boxes) == len(pd.read_csv(person.folder / "own" / "findings.csv")) > 0


def test_a_second_run_has_nothing_to_do_and_a_failure_is_one_sentence(person, reached):
    done = verb(person.folder, "run", "mine.yaml", "sizes.yaml", "--cores", "2")
    assert done.returncode == 0
    assert "Nothing to do: all results are there." in done.stderr
    (person.folder / "odd.yaml").write_text("name: odd\nimages: {voi_index: 7}\n")
    done = verb(person.folder, "run", "mine.yaml", "sizes.yaml", "odd.yaml", "--cores", "2")
    assert done.returncode == 1
    failures = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert failures
    for line in failures:
        assert re.search(
            r"\[window\].* \(rule images, log results/odd/logs/images/\d\.log\)$", line
        )


@pytest.mark.soak
def test_a_stopped_run_says_so_and_leaves_no_lock(person):
    (person.folder / "stop.key").write_text(KEY)  # the key of the other runs, so the same splits
    told = verb(person.folder, "init", "own", "--output", "stop.yaml", "--overwrite")
    assert told.returncode == 0, told.stdout + told.stderr
    words = ["run", "stop.yaml", "sizes.yaml", "--cores", "2"]
    running = subprocess.Popen(
        [sys.executable, "-m", "mammo_sae", *words],
        cwd=person.folder,
        env={**os.environ, "PYTHONPATH": str(person.folder / "src")},
        stderr=subprocess.PIPE,
        text=True,
        # As of a shell's background job. `run` must end its jobs all the same.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    told = ""
    for line in running.stderr:
        told += line
        if re.match(r"\d+ of \d+ jobs", line):
            running.send_signal(signal.SIGINT)
            break
    told += running.stderr.read()
    assert running.wait(timeout=120) != 0
    assert re.search(r"^stopped after \d+ of \d+ jobs; run it again to go on$", told, re.MULTILINE)
    assert "error:" not in told
    assert not list((person.folder / ".snakemake").glob("locks/*"))
    assert not (person.folder / "results" / "stop" / "report.html").exists()


@pytest.mark.soak
def test_24_renamed_pngs_and_an_export_reach_the_report(person, micro_project, tmp_path):
    project = micro_project(tmp_path / "project")
    own = project.folder / "own"
    own.mkdir()
    for path in sorted((person.folder / "own").iterdir()):
        if path.suffix in {".csv", ".xlsx"} and path.stem not in {"images", "findings"}:
            shutil.copy(path, own)
        elif path.suffix in {"", ".dcm"}:
            pixels = pydicom.dcmread(path).pixel_array.astype(float)
            pixels = 255 * (pixels - pixels.min()) / np.ptp(pixels)
            Image.fromarray(pixels.astype(np.uint8)).save(own / f"{path.stem}.png")
    (project.folder / "sizes.yaml").write_text(SIZES)
    (project.folder / "mine.key").write_text(KEY)
    reach_the_report(project.folder)
    check_results(project.folder)
