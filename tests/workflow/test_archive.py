"""A user's own archive and checkpoint: which rules rerun when something of them changes."""

from __future__ import annotations

import hashlib
import os
import shutil
import time

import pandas as pd
import pytest
import torch
from efficientnet_pytorch import EfficientNet

pytestmark = [pytest.mark.workflow, pytest.mark.soak]

TABLES = ("breast-level_annotations.csv", "finding_annotations.csv", "metadata.csv")
IDS = ("image_id", "image_id", "SOP Instance UID")
# What is made: tables, images and encoders. All else follows from these.
MADE = [
    "results/own/cohort/summary.json",
    *(f"results/own/images/{shard}.json" for shard in range(4)),
    *(f"results/own/encoders/{name}/encoder.json" for name in ("named", "unnamed")),
]


@pytest.fixture(scope="module")
def own(micro_finished, tmp_path_factory):
    """A project on an archive and a checkpoint of its own, run up to images and encoders."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copytree(micro_finished.results / "source" / "training", folder / "archive")
    torch.manual_seed(0)
    state = EfficientNet.from_name("efficientnet-b0", include_top=False).state_dict()
    torch.save(state, folder / "b0.pth")
    digest = hashlib.sha256((folder / "b0.pth").read_bytes()).hexdigest()
    source = f"{{kind: efficientnet, architecture: efficientnet-b0, path: {folder}/b0.pth"
    (folder / "own.yaml").write_text(f"""name: own
cohort: {{kind: vindr, source: {folder}/archive, shards: 4}}
images: {{preprocessing: clinical, height: 96, width: 64}}
layers: [head]
encoders:
  named: {{kind: pretrained, source: {source}, sha256: {digest}}}}}
  unnamed: {{kind: pretrained, source: {source}}}}}
  pretrained: null
  finetuned: null
""")
    project = type(micro_finished)(micro_finished.folder, config=(str(folder / "own.yaml"),))
    hide(folder / "archive", "hidden")
    project.snakemake(*MADE)
    assert project.stale(*MADE) == {}
    return project, folder


def hide(archive, name):
    """Take the images of one patient out of the archive's tables, and keep their rows aside."""
    first = pd.read_csv(archive / TABLES[0])
    patient = first["study_id"].iloc[0]
    images = set(first.loc[first["study_id"] == patient, "image_id"])
    for table, key in zip(TABLES, IDS, strict=True):
        whole = pd.read_csv(archive / table, dtype=str, keep_default_na=False)
        mine = whole[key].isin(images)
        whole[mine].to_csv(archive / f"{name}_{table}", index=False)
        whole[~mine].to_csv(archive / table, index=False)


@pytest.fixture
def changed(own):
    """The project and its folder; tables, files and times are put back after the test."""
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
    assert project.stale(*MADE) == {}


def rows(folder, table):
    return pd.read_csv(folder / "archive" / table, dtype=str, keep_default_na=False)


def test_an_added_patient_reruns_the_cohort_and_its_shard_of_images(changed):
    project, folder = changed
    for table in TABLES:
        both = pd.concat([rows(folder, table), rows(folder, f"hidden_{table}")])
        both.to_csv(folder / "archive" / table, index=False)
    assert project.stale(*MADE) == {"cohort": 1, "images": 1}


def test_a_removed_image_reruns_the_cohort_and_its_shard_of_images(changed):
    project, folder = changed
    gone = rows(folder, TABLES[0])["image_id"].iloc[0]
    for table, key in zip(TABLES, IDS, strict=True):
        whole = rows(folder, table)
        whole[whole[key] != gone].to_csv(folder / "archive" / table, index=False)
    assert project.stale(*MADE) == {"cohort": 1, "images": 1}


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


def test_an_archive_moved_with_its_times_makes_nothing_stale_but_what_names_its_place(changed):
    project, folder = changed
    for path in (folder / "archive").rglob("*"):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
    assert project.stale(*MADE) == {}


def test_a_touched_checkpoint_is_the_same_where_the_configuration_says_which_it_is(changed):
    project, folder = changed
    (folder / "b0.pth").touch()
    named, unnamed = MADE[-2:]
    assert project.stale(named) == {}
    assert project.stale(unnamed) == {"import_encoder": 1}
