"""Folders and files with unusual names: spaces, apostrophes, umlauts, brackets, semicolons."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml

from mammo_sae.phantom import archive
from mammo_sae.phantom.settings import PatientCounts, PhantomSettings

pytestmark = [pytest.mark.workflow, pytest.mark.soak]

SLURM = Path(__file__).with_name("slurm.sh")

CHECKOUT = "it's mine & yours/mammo sae"
WORK = "Arbeit; (neu) = 1"
RESULTS = "mein Ordner/röntgen (1)"


def odd_source(folder: Path, part: str) -> None:
    """Make a cohort of the kind `table` whose file, patient and column names are unusual."""
    folder.mkdir(parents=True)
    counts = PatientCounts(training=12, test=12, external=12)
    settings = PhantomSettings(height=96, width=64, patients=counts).part(part)
    made = folder.with_name(f"made {part}")
    archive.run(settings, made, folder.with_name(f"made {part}.json"))
    breast = pd.read_csv(made / "breast-level_annotations.csv", dtype=str)
    finding = pd.read_csv(made / "finding_annotations.csv", dtype=str)
    masses = finding[finding["finding_categories"].str.contains("Mass")]
    names = {}
    for number, (study, image) in enumerate(breast[["study_id", "image_id"]].itertuples(False)):
        names[image] = f"Fräulein O'Neil {study[:8]}/Bild {number} (ä).dcm"
        target = folder / names[image]
        target.parent.mkdir(exist_ok=True)
        (made / "images" / study / f"{image}.dicom").rename(target)
    pd.DataFrame(
        {
            "file": breast["image_id"].map(names),
            "patient_id": "Müller, " + breast["study_id"].str[:8],
            "split": breast["split"],
            "view": breast["view_position"],
            "side": breast["laterality"],
            "Raumforderung (ü)": breast["image_id"].isin(masses["image_id"]).astype(int),
        }
    ).to_csv(folder / "images.csv", index=False)
    boxes = masses[["xmin", "ymin", "xmax", "ymax"]].assign(
        file=masses["image_id"].map(names), finding="Raumforderung (ü)"
    )
    boxes.to_csv(folder / "findings.csv", index=False)


def odd_project(micro_project, folder: Path):
    """Return a project, its configuration and its working folder, all under unusual paths."""
    project = micro_project(folder / CHECKOUT)
    source = folder / "Quelle für Ältere"
    odd_source(source, "training")
    odd_source(folder / "Quelle; außen", "external")
    # The first source has a split of its own: every third patient is for the test.
    table = pd.read_csv(source / "images.csv")
    patients = {name: i for i, name in enumerate(table["patient_id"].unique())}
    table["split"] = [
        "test" if patients[name] % 3 == 0 else "training" for name in table["patient_id"]
    ]
    table.to_csv(source / "images.csv", index=False)
    (folder / "schlüssel 1.key").write_text("0123456789abcdef0123456789abcdef")
    config = yaml.safe_load((project.folder / "micro.yaml").read_text())
    config["results"] = RESULTS
    config["cohort"] = {
        "kind": "table",
        "shards": 2,
        "source": str(source),
        "external": str(folder / "Quelle; außen"),
        "key_file": str(folder / "schlüssel 1.key"),
        "concepts": {"mass": "Raumforderung (ü)"},
    }
    file = folder / "Einstellungen (ö).yaml"
    file.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    work = folder / WORK
    work.mkdir()
    return type(project)(project.folder, config=(str(file),)), work


def test_a_run_under_unusual_paths_ends_with_its_report(micro_project, tmp_path):
    project, work = odd_project(micro_project, tmp_path)
    project.snakemake("--directory", str(work))
    results = work / RESULTS / "micro"
    assert (results / "figures" / "cohort.png").is_file()
    project.snakemake("--directory", str(work), "--report", str(results / "report.html"))
    assert (results / "report.html").stat().st_size > 1_000_000
    assert not (project.folder / "results").exists()
    again = project.snakemake("--directory", str(work), "-n")
    assert "Nothing to be done" in again.stdout + again.stderr
    for path in results.rglob("*"):
        assert "Neil" not in path.name


@pytest.mark.slurm
@pytest.mark.skipif(
    shutil.which("slurmctld") is None and not os.environ.get("REQUIRE_SLURM"),
    reason="SLURM is not installed",
)
def test_a_run_under_unusual_paths_ends_on_slurm(micro_project, tmp_path):
    project, work = odd_project(micro_project, tmp_path)
    subprocess.run([str(SLURM), "start"], check=True)
    try:
        project.snakemake(
            *("--profile", "profiles/slurm", "--directory", str(work)),
            *("--default-resources", "slurm_partition=tests", "--latency-wait", "5"),
            *("--slurm-init-seconds-before-status-checks", "2"),
        )
    finally:
        subprocess.run([str(SLURM), "stop"], check=True)
    results = work / RESULTS / "micro"
    project.snakemake("--directory", str(work), "--report", str(results / "report.html"))
    assert (results / "report.html").stat().st_size > 1_000_000
