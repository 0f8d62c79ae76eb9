"""The rules that rerun after changes of a user's own archive and checkpoint."""

from __future__ import annotations

import hashlib
import os
import shutil
import time

import pandas as pd
import pytest
import torch
from efficientnet_pytorch import EfficientNet

from mammo_sae.cohorts.pseudonyms import load_pseudonyms
from mammo_sae.phantom import archive
from mammo_sae.phantom.settings import PatientCounts, PhantomSettings

pytestmark = [pytest.mark.workflow, pytest.mark.soak]

TABLES = ("breast-level_annotations.csv", "finding_annotations.csv", "metadata.csv")
IDS = ("image_id", "image_id", "SOP Instance UID")
FILES, SHARDS = 200, 16
# The outputs that are made: tables, images and encoders. All others follow from these.
MADE = [
    "results/own/cohort/summary.json",
    "results/own/cohort/splits.parquet",
    *(f"results/own/images/{shard}.json" for shard in range(SHARDS)),
    *(f"results/own/encoders/{name}/encoder.json" for name in ("named", "unnamed")),
]


@pytest.fixture(scope="module")
def own(micro_project, tmp_path_factory):
    """A project with its own archive and checkpoint, run up to images and encoders.

    The archive's tables name 200 of its files. The rows of five more files, of three patients, are
    kept in another place.
    """
    project = micro_project(tmp_path_factory.mktemp("project"))
    folder = tmp_path_factory.mktemp("own")
    patients = PatientCounts(training=FILES // 2 + 3, test=1, external=1)
    settings = PhantomSettings(height=96, width=64, patients=patients).part("training")
    archive.run(settings, folder / "archive", folder / "archive.json")
    for name in ("masks", "truth.csv", "truth.json"):
        path = folder / "archive" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    torch.manual_seed(0)
    state = EfficientNet.from_name("efficientnet-b0", include_top=False).state_dict()
    torch.save(state, folder / "b0.pth")
    digest = hashlib.sha256((folder / "b0.pth").read_bytes()).hexdigest()
    source = f"{{kind: efficientnet, architecture: efficientnet-b0, path: {folder}/b0.pth"
    (folder / "own.yaml").write_text(f"""name: own
cohort:
  kind: vindr
  source: {folder}/archive
  shards: {SHARDS}
  unannotated: accept
  validation_share: 0.2
images: {{preprocessing: clinical, height: 96, width: 64}}
layers: [head]
encoders:
  named: {{kind: pretrained, source: {source}, sha256: {digest}}}}}
  unnamed: {{kind: pretrained, source: {source}}}}}
  pretrained: null
  finetuned: null
""")
    project = type(project)(project.folder, config=(str(folder / "own.yaml"),))
    hide(folder)
    project.snakemake(*MADE)
    assert project.stale(*MADE) == {}
    return project, folder


def hide(folder):
    """Leave 200 images in the archive's tables, and save the rows of five images of 3 patients."""
    first = rows(folder, TABLES[0])
    patients = first["study_id"].unique()[:3]
    *some, gone = first.loc[first["study_id"].isin(patients), "image_id"]
    for table, key in zip(TABLES, IDS, strict=True):
        whole = rows(folder, table)
        whole[whole[key].isin(some)].to_csv(folder / "archive" / f"hidden_{table}", index=False)
        left = whole[~whole[key].isin([*some, gone])]
        left.to_csv(folder / "archive" / table, index=False)
    assert len(some) == 5
    assert len(rows(folder, TABLES[0])) == FILES


@pytest.fixture
def changed(own):
    """The project and its folder. Tables, files and times are restored after the test."""
    project, folder = own
    aside = folder.with_name(folder.name + "-aside")
    shutil.copytree(folder, aside, copy_function=shutil.copy2)
    yield project, folder
    for path in aside.rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(aside)
            if target.stat().st_mtime_ns != path.stat().st_mtime_ns:
                shutil.copy2(path, target)
    shutil.rmtree(aside)
    project.snakemake(*MADE)
    assert project.stale(*MADE) == {}


def rows(folder, table):
    return pd.read_csv(folder / "archive" / table, dtype=str, keep_default_na=False)


def test_five_files_added_to_200_reconvert_only_the_shards_of_their_patients(changed):
    project, folder = changed
    for table in TABLES:
        both = pd.concat([rows(folder, table), rows(folder, f"hidden_{table}")])
        both.to_csv(folder / "archive" / table, index=False)
    added = rows(folder, f"hidden_{TABLES[0]}")["study_id"].unique()
    touched = {load_pseudonyms(None).shard(patient, SHARDS) for patient in added}
    assert len(added) == 3
    assert 1 <= len(touched) <= 3
    assert project.stale(*MADE) == {"cohort": 1, "splits": 1, "images": len(touched)}

    stores = [project.folder / f"results/own/images/{shard}.zarr" for shard in range(SHARDS)]
    before = [store.stat().st_ino for store in stores]
    project.snakemake(*MADE)
    after = [store.stat().st_ino for store in stores]
    assert {shard for shard in range(SHARDS) if before[shard] != after[shard]} == touched
    (images,) = (project.folder / "results/own/cohort").glob("images.parquet")
    assert len(pd.read_parquet(images)) == FILES + 5


def test_a_removed_image_reruns_the_cohort_its_splits_and_its_shard_of_images(changed):
    project, folder = changed
    gone = rows(folder, TABLES[0])["image_id"].iloc[0]
    for table, key in zip(TABLES, IDS, strict=True):
        whole = rows(folder, table)
        whole[whole[key] != gone].to_csv(folder / "archive" / table, index=False)
    assert project.stale(*MADE) == {"cohort": 1, "splits": 1, "images": 1}


def test_a_changed_file_reruns_the_cohort_and_its_shard_of_images(changed):
    project, folder = changed
    path = next((folder / "archive" / "images").rglob("*.dicom"))
    path.write_bytes(path.read_bytes() + b"\0\0")
    assert project.stale(*MADE) == {"cohort": 1, "images": 1}


def test_a_new_label_reruns_the_cohort_and_no_image(changed):
    project, folder = changed
    table = rows(folder, TABLES[0])
    table.loc[0, "breast_density"] = {"DENSITY A": "DENSITY B"}.get(
        table.loc[0, "breast_density"], "DENSITY A"
    )
    table.to_csv(folder / "archive" / TABLES[0], index=False)
    assert project.stale(*MADE) == {"cohort": 1}


def test_a_renamed_concept_draws_the_same_patients(changed):
    project, _ = changed
    concepts = "{tumour: Mass, suspicious_calcification: Suspicious Calcification}"
    overlay = f"{{cohort: {{concepts: {concepts}}}, truth: {{concept: tumour}}}}"
    assert project.stale(*MADE, overlay=overlay) == {"cohort": 1}


def test_another_seed_of_the_splits_reruns_them(changed):
    project, _ = changed
    assert project.stale(*MADE, overlay="cohort: {split_seed: 1}") == {"cohort": 1, "splits": 1}


def test_a_moved_archive_reruns_only_the_steps_that_name_its_path(changed):
    project, folder = changed
    for path in (folder / "archive").rglob("*"):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
    assert project.stale(*MADE) == {}


def test_a_touched_checkpoint_with_a_configured_digest_is_not_stale(changed):
    project, folder = changed
    (folder / "b0.pth").touch()
    named, unnamed = MADE[-2:]
    assert project.stale(named) == {}
    assert project.stale(unnamed) == {"import_encoder": 1}


def test_a_typo_in_a_table_is_reported_before_outputs_are_removed(changed):
    project, folder = changed
    made = [project.folder / "results/own/cohort" / name for name in ("images", "findings")]
    before = [path.with_suffix(".parquet").read_bytes() for path in made]
    table = folder / "archive" / TABLES[0]
    good = table.read_text()
    table.write_text(good.replace(",training", ",trainig"))
    assert table.read_text() != good
    done = project.snakemake(*MADE, check=False)
    assert done.returncode == 1
    told = done.stdout + done.stderr
    assert "line 2, column 'split' is 'trainig'; expected training or validation" in told
    assert "(rows with it: 200); in all 200 of 200 rows of breast-level_annotations.csv" in told
    # Below the message Snakemake names the rule, without a traceback of Python.
    assert "Traceback (most recent call last)" not in told
    assert [path.with_suffix(".parquet").read_bytes() for path in made] == before
    table.write_text(good)
    assert project.stale(*MADE) == {}
